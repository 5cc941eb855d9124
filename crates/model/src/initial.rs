//! First weights, drawn from a seed.
//!
//! Each parameter has its own stream, keyed by (seed, name): its values do not depend on which other parameters there
//! are or on the order they are made in, so an encoder starts alike under every head. The numbers are made here and not
//! by libtorch, whose vectorised generators differ between processors.

use crate::layout::{Entry, Start};
use config::{Initializer, ModelShape};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tch::{Device, Kind, Tensor};
use types::Digest;

/// The first value of a parameter, on `device`, float32.
pub(crate) fn initial(entry: &Entry, shape: &ModelShape, seed: u64, device: Device) -> Tensor {
    match entry.start {
        Start::Zeros => Tensor::zeros(&entry.size, (Kind::Float, device)),
        Start::Ones => Tensor::ones(&entry.size, (Kind::Float, device)),
        Start::Uniform => {
            let mut source = Normal::new(seed, &entry.name);
            let bound = (1.0 / entry.size[1] as f64).sqrt();
            let count = entry.size.iter().product::<i64>();
            let values: Vec<f32> = (0..count).map(|_| ((2.0 * source.uniform() - 1.0) * bound) as f32).collect();
            Tensor::from_slice(&values).view(&entry.size[..]).to_device(device)
        }
        Start::Drawn => {
            let mut normal = Normal::new(seed, &entry.name);
            let values: Vec<f32> = (0..entry.size.iter().product())
                .map(|_| {
                    let mut value = normal.next();
                    while shape.initializer == Initializer::TruncatedNormal && value.abs() > 2.0 {
                        value = normal.next();
                    }
                    (value * shape.initializer_range) as f32
                })
                .collect();
            Tensor::from_slice(&values).view(&entry.size[..]).to_device(device)
        }
    }
}

/// N(0, 1) by Box and Muller's method.
struct Normal {
    source: ChaCha8Rng,
    spare: Option<f64>,
}

impl Normal {
    fn new(seed: u64, name: &str) -> Self {
        let key = Digest::blake3(&[&seed.to_le_bytes(), name.as_bytes()].concat());
        Self { source: ChaCha8Rng::from_seed(key.0), spare: None }
    }

    /// In (0, 1]: zero has no logarithm.
    fn uniform(&mut self) -> f64 {
        ((self.source.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }
}
