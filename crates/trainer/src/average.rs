//! The exponential moving average of the weights (`optimizer.ema_decay`).
//!
//! Training goes on from the weights; the average is what comes out of the run: it is evaluated, and `model.safetensors`
//! of a checkpoint holds it. It follows from the weights after each update alone, so every member has the same bits
//! without a word between them. To a joiner it is sent, and by the others it is compared, like a moment. What is frozen is
//! not averaged: both models share it.

use model::{Model, Parameter};

/// A model whose weights are an average of another's.
pub(crate) struct Average {
    pub model: Model,
    decay: f64,
}

impl Average {
    /// Of `model` and nothing else so far.
    pub fn new(model: &Model, decay: f64) -> Self {
        Self { model: model.duplicate(), decay }
    }

    /// The averaged weights: alongside those that are trained.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter> {
        self.model.parameters().into_iter().filter(|parameter| parameter.trained)
    }

    /// Forgets what it knows: from here on of these weights, the model's trained parameters.
    pub fn restart(&mut self, weights: &[Parameter]) {
        tch::no_grad(|| {
            for (average, weight) in self.parameters().zip(weights) {
                average.tensor.detach().copy_(&weight.tensor);
            }
        });
    }

    /// Takes in the weights after an update, the `updates`-th.
    pub fn update(&mut self, weights: &[Parameter], updates: u64) {
        let share = 1.0 - decay_at(self.decay, updates);
        tch::no_grad(|| {
            for (average, weight) in self.parameters().zip(weights) {
                let _ = average.tensor.detach().lerp_(&weight.tensor.detach(), share);
            }
        });
    }
}

/// TensorFlow's `ExponentialMovingAverage` with `num_updates`: as long as there are few updates, the average is over the
/// last tenth of them or so, and the first weights, which were drawn by chance, are soon forgotten.
fn decay_at(decay: f64, updates: u64) -> f64 {
    let updates = updates as f64;
    decay.min((1.0 + updates) / (10.0 + updates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::ModelConfig;
    use model::Head;
    use tch::Device;

    fn model(seed: u64) -> Model {
        let config = ModelConfig {
            layers: Some(1),
            hidden: Some(8),
            heads: Some(2),
            intermediate: Some(8),
            ..ModelConfig::default()
        };
        Model::new(&config.shape(16, 8), Head::MaskedLm, seed, Device::Cpu).unwrap()
    }

    fn element(model: &Model) -> f64 {
        model.parameters()[0].tensor.detach().reshape([-1]).double_value(&[0])
    }

    fn set(model: &Model, value: f64) {
        tch::no_grad(|| {
            let _ = model.parameters()[0].tensor.detach().fill_(value);
        });
    }

    #[test]
    fn the_average_follows_the_weights() {
        let trained = model(1);
        set(&trained, 0.0);
        let mut average = Average::new(&trained, 0.9);
        let mut expected = 0.0;
        for step in 1..=200_u32 {
            let value = f64::from(step % 7);
            set(&trained, value);
            average.update(&trained.parameters(), u64::from(step));
            let decay = f64::min(0.9, f64::from(1 + step) / f64::from(10 + step));
            expected = decay * expected + (1.0 - decay) * value;
            assert!((element(&average.model) - expected).abs() < 1e-5, "step {step}");
        }
        assert_eq!(element(&trained), 4.0, "the weights are as training left them");
        set(&trained, 5.0);
        average.restart(&trained.parameters());
        assert_eq!(element(&average.model), 5.0);
    }

    #[test]
    fn the_beginning_is_soon_forgotten() {
        assert_eq!(decay_at(0.999, 1), 2.0 / 11.0);
        assert!(decay_at(0.999, 100) < 0.92);
        assert_eq!(decay_at(0.999, 1_000_000), 0.999);
    }
}
