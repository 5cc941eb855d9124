//! What the golden tests share: fixtures by name, and comparison that says where and by how much.
//!
//! The fixtures come from `fixtures/make.py`; `fixtures/README.md` says what is in them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use tch::{Kind, Tensor};

/// The path of a fixture.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The tensors of a safetensors fixture, by name.
pub fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    let path = path(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors = model::safetensors_io::read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    tensors.into_iter().collect()
}

/// The greatest absolute difference; infinite where either is not finite.
pub fn difference(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size());
    let difference = (got.detach().to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max();
    let difference = difference.double_value(&[]);
    if difference.is_finite() { difference } else { f64::INFINITY }
}

/// Fails with the name and the greatest difference if any element is off by more than `tolerance`.
pub fn assert_close(name: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    let off = difference(got, expected);
    assert!(off <= tolerance, "{name}: off by {off:e}, more than {tolerance:e}\ngot {got:?}, expected {expected:?}");
}
