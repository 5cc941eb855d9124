//! What the golden tests share: fixtures by name, and comparison that says where and by how much.
//!
//! The fixtures come from `fixtures/make.py`; `fixtures/README.md` says what is in them.

use config::Activation;
use model::{Missing, Model, hugging_face, safetensors_io};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// The path of a fixture.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The tensors of a safetensors fixture, by name.
pub fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    let path = path(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tensors = safetensors_io::read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    tensors.into_iter().collect()
}

/// The model of a folder of Hugging Face's, in which nothing is missing and nothing is left over; with another activation
/// than its config says, if one is given.
pub fn load(name: &str, activation: Option<Activation>) -> Model {
    let failed = |error: &dyn std::fmt::Display| -> ! { panic!("{name}: {error}") };
    let mut folder = hugging_face::read_folder(&path(name)).unwrap_or_else(|error| failed(&error));
    folder.shape.activation = activation.unwrap_or(folder.shape.activation);
    // Another seed than 0 would do as well: every value is replaced.
    let model = Model::new(&folder.shape, folder.head, 0, Device::Cpu);
    let mut model = model.unwrap_or_else(|error| failed(&error));
    let report = model.load_parameters(&folder.tensors, Missing::Refuse).unwrap_or_else(|error| failed(&error));
    assert_eq!((report.missing.len(), report.unexpected.len(), report.shape_mismatches.len()), (0, 0, 0), "{report:?}");
    assert_eq!(report.loaded, model.parameters().len());
    model
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

/// Writes what a checkpoint holds of a model, which is a Hugging Face folder. `tokenizer` is a tokenizer.json.
pub fn write_folder(model: &Model, tokenizer: &[u8], out: &Path) {
    let parameters: Vec<_> = model.parameters().into_iter().map(|it| (it.name, it.tensor)).collect();
    let sides = hugging_face::side_files(model.shape(), model.head(), tokenizer);
    let mut files = sides.unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    let weights = safetensors_io::write(&parameters).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    files.push(("model.safetensors", weights));
    for (name, bytes) in files {
        let written = std::fs::create_dir_all(out).and_then(|()| std::fs::write(out.join(name), bytes));
        written.unwrap_or_else(|error| panic!("{}/{name}: {error}", out.display()));
    }
}
