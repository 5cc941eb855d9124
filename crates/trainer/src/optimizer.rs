//! Update rules: AdamW, LAMB, and Muon with AdamW for what is no hidden matrix.
//!
//! Given equal gradients they are deterministic, so every worker applies the same update to its own replica. They know
//! nothing of slots, workers or schedules: the caller passes the schedule's factor.

mod adamw;
mod lamb;
mod muon;

use config::{OptimizerConfig, OptimizerKind};
use model::Parameter;
use tch::{Kind, Tensor};

/// The state of an update rule for a list of parameters.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    states: Vec<ParameterState>,
}

/// The moments of one parameter, float32, in its shape.
#[derive(Debug)]
enum ParameterState {
    AdamW { first: Tensor, second: Tensor },
    Lamb { first: Tensor, second: Tensor },
    Muon { momentum: Tensor },
}

/// What an update needs beside gradient and state.
struct Update<'a> {
    config: &'a OptimizerConfig,
    /// The learning rate of this step.
    learning_rate: f64,
    /// Of this parameter; 0 for biases and LayerNorm.
    weight_decay: f64,
    /// 1 - beta1^t, 1 - beta2^t; or 1, 1 without bias correction.
    corrections: (f64, f64),
}

impl Optimizer {
    /// All moments zero. `parameters` must be given in the same order from now on.
    pub fn new(config: &OptimizerConfig, parameters: &[Parameter]) -> Self {
        let zeros = |parameter: &Parameter| parameter.tensor.detach().zeros_like();
        let states = parameters
            .iter()
            .map(|parameter| match config.kind {
                OptimizerKind::Lamb => ParameterState::Lamb { first: zeros(parameter), second: zeros(parameter) },
                OptimizerKind::Muon if parameter.hidden_matrix => ParameterState::Muon { momentum: zeros(parameter) },
                OptimizerKind::Adamw | OptimizerKind::Muon => {
                    ParameterState::AdamW { first: zeros(parameter), second: zeros(parameter) }
                }
            })
            .collect();
        Self { config: config.clone(), states }
    }

    /// One update. `gradients[i]` belongs to `parameters[i]` and is left as it is; `updates` counts this one, from 1;
    /// `factor` is the schedule's.
    pub fn update(&mut self, parameters: &[Parameter], gradients: &[Tensor], updates: u64, factor: f64) {
        assert_eq!(parameters.len(), self.states.len(), "one state for each parameter");
        assert_eq!(gradients.len(), self.states.len(), "one gradient for each parameter");
        let config = &self.config;
        let corrections = if config.bias_correction {
            let power = i32::try_from(updates).unwrap_or(i32::MAX);
            (1.0 - config.beta1.powi(power), 1.0 - config.beta2.powi(power))
        } else {
            (1.0, 1.0)
        };
        tch::no_grad(|| {
            for ((parameter, gradient), state) in parameters.iter().zip(gradients).zip(&mut self.states) {
                let update = Update {
                    config,
                    learning_rate: factor * config.learning_rate,
                    weight_decay: if parameter.decay { config.weight_decay } else { 0.0 },
                    corrections,
                };
                let mut tensor = parameter.tensor.detach();
                match state {
                    ParameterState::AdamW { first, second } => {
                        adamw::apply(&mut tensor, gradient, first, second, &update);
                    }
                    ParameterState::Lamb { first, second } => {
                        lamb::apply(&mut tensor, gradient, first, second, &update);
                    }
                    ParameterState::Muon { momentum } => {
                        muon::apply(&mut tensor, gradient, momentum, factor * config.muon_learning_rate, config);
                    }
                }
            }
        });
    }

    /// The state's tensors of each parameter, in the parameters' order: `(kind, tensor)`.
    pub fn tensors(&self) -> impl Iterator<Item = Vec<(&'static str, &Tensor)>> {
        self.states.iter().map(|state| match state {
            ParameterState::AdamW { first, second } | ParameterState::Lamb { first, second } => {
                vec![("exp_avg", first), ("exp_avg_sq", second)]
            }
            ParameterState::Muon { momentum } => vec![("momentum", momentum)],
        })
    }
}

/// The Euclidean norm over all gradients, summed in float64.
pub fn global_norm(gradients: &[Tensor]) -> f64 {
    gradients.iter().map(|gradient| gradient.norm().double_value(&[]).powi(2)).sum::<f64>().sqrt()
}

/// Scales all gradients down so that their global norm is at most `limit` (0: leaves them), as PyTorch does.
/// `norm` is their present norm.
pub fn clip(gradients: &mut [Tensor], norm: f64, limit: f64) {
    let factor = limit / (norm + 1e-6);
    if limit > 0.0 && factor < 1.0 {
        for gradient in gradients {
            let _ = gradient.g_mul_scalar_(factor);
        }
    }
}

/// The moments' part of Adam and LAMB: both moments move towards the gradient; returns the bias-corrected direction
/// m̂ / (√v̂ + ε) in a new tensor.
fn adam_direction(gradient: &Tensor, first: &mut Tensor, second: &mut Tensor, update: &Update<'_>) -> Tensor {
    debug_assert_eq!(gradient.kind(), Kind::Float, "gradients are float32");
    let config = update.config;
    let _ = first.lerp_(gradient, 1.0 - config.beta1);
    let mut square = gradient * gradient;
    let _ = square.g_mul_scalar_(1.0 - config.beta2);
    let _ = second.g_mul_scalar_(config.beta2).g_add_(&square);
    let mut direction = square;
    direction.copy_(second);
    let _ = direction.sqrt_().g_div_scalar_(update.corrections.1.sqrt()).g_add_scalar_(config.epsilon);
    // direction = (m / c1) / direction
    let _ = direction.reciprocal_().g_mul_(first).g_div_scalar_(update.corrections.0);
    direction
}
