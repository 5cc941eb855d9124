//! Update rules: AdamW, LAMB, and Muon with AdamW for what is no hidden matrix.
//!
//! Given equal gradients they are deterministic, so every worker applies the same update to its own replica. They know
//! nothing of slots, workers or schedules: the caller passes the schedule's factor.

mod lamb;
mod muon;

use config::{OptimizerConfig, OptimizerKind};
use kernels::{AdamW, NativeError, fused_adamw};
use model::Parameter;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

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

/// Parameters, gradients and both moments of what one fused AdamW pass updates.
#[derive(Default)]
struct Fused([Vec<Tensor>; 4]);

impl Fused {
    fn push(&mut self, tensors: [&Tensor; 4]) {
        for (list, tensor) in self.0.iter_mut().zip(tensors) {
            list.push(tensor.shallow_clone());
        }
    }

    fn apply(&self, numbers: &AdamW) -> Result<(), NativeError> {
        let [parameters, gradients, first, second] = &self.0;
        if parameters.is_empty() {
            return Ok(());
        }
        fused_adamw(parameters, gradients, first, second, numbers)
    }
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
    pub fn update(
        &mut self,
        parameters: &[Parameter],
        gradients: &[Tensor],
        updates: u64,
        factor: f64,
    ) -> Result<(), NativeError> {
        assert_eq!(parameters.len(), self.states.len(), "one state for each parameter");
        assert_eq!(gradients.len(), self.states.len(), "one gradient for each parameter");
        let config = &self.config;
        // By rate and by whether there is decay.
        let mut fused: BTreeMap<(i64, bool), Fused> = BTreeMap::new();
        tch::no_grad(|| {
            for ((parameter, gradient), state) in parameters.iter().zip(gradients).zip(&mut self.states) {
                let mut tensor = parameter.tensor.detach();
                let level = if config.layer_decay.is_some() { parameter.below_head } else { 0 };
                let factor = factor * config.rate_factor(level);
                match state {
                    ParameterState::AdamW { first, second } => {
                        let list = fused.entry((level, parameter.decay)).or_default();
                        list.push([&tensor, gradient, first, second]);
                    }
                    ParameterState::Lamb { first, second } => {
                        let update = lamb::Update {
                            config,
                            learning_rate: factor * config.learning_rate,
                            weight_decay: if parameter.decay { config.weight_decay } else { 0.0 },
                            updates,
                        };
                        lamb::apply(&mut tensor, gradient, first, second, &update);
                    }
                    ParameterState::Muon { momentum } => {
                        muon::apply(&mut tensor, gradient, momentum, factor * config.muon_learning_rate, config);
                    }
                }
            }
            fused.iter().try_for_each(|((level, decays), tensors)| {
                tensors.apply(&AdamW {
                    step: updates,
                    learning_rate: factor * config.rate_factor(*level) * config.learning_rate,
                    beta1: config.beta1,
                    beta2: config.beta2,
                    weight_decay: if *decays { config.weight_decay } else { 0.0 },
                    epsilon: config.epsilon,
                    bias_correction: config.bias_correction,
                })
            })
        })
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
    // All at once: asking a device for each would wait for each.
    let norms = Vec::<f64>::try_from(&kernels::norms(gradients).to_device(Device::Cpu).to_kind(Kind::Double));
    norms.expect("a row of float64").iter().map(|norm| norm * norm).sum::<f64>().sqrt()
}

/// What gradients of this global norm have to be multiplied by for it to be at most `limit` (0: any is allowed), as in
/// PyTorch; None if they may stay as they are.
pub fn clip_factor(norm: f64, limit: f64) -> Option<f64> {
    let factor = limit / (norm + 1e-6);
    (limit > 0.0 && factor < 1.0).then_some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, below_head: i64, hidden_matrix: bool) -> Parameter {
        let tensor = Tensor::full([4, 4], 1.0, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        Parameter {
            name: name.to_owned(),
            tensor,
            decay: true,
            hidden_matrix,
            below_head,
            trained: true,
            adapter: false,
            adapted: false,
        }
    }

    /// How far an update moves three parameters: of the head, and one and three levels below it.
    fn moved(config: &OptimizerConfig, hidden_matrix: bool) -> Vec<f64> {
        let parameters: Vec<_> =
            [0, 1, 3].map(|below| parameter(&format!("at {below}"), below, hidden_matrix)).into_iter().collect();
        let gradients: Vec<_> = parameters.iter().map(|_| Tensor::eye(4, (Kind::Float, Device::Cpu))).collect();
        Optimizer::new(config, &parameters).update(&parameters, &gradients, 1, 0.5).unwrap();
        parameters.iter().map(|parameter| (&parameter.tensor - 1.0).norm().double_value(&[])).collect()
    }

    #[test]
    fn each_level_moves_by_its_share_of_the_rate() {
        for kind in [OptimizerKind::Adamw, OptimizerKind::Lamb, OptimizerKind::Muon] {
            for hidden_matrix in [false, true] {
                let learning_rate = 1e-2;
                let config =
                    OptimizerConfig { kind, learning_rate, layer_decay: Some(0.5), ..OptimizerConfig::default() };
                let moved = moved(&config, hidden_matrix);
                for (distance, share) in moved.iter().zip([1.0, 0.5, 0.125]) {
                    let relative = distance / moved[0];
                    assert!((relative / share - 1.0).abs() < 1e-3, "{kind:?}: {relative}, not {share}");
                }
            }
        }
    }

    #[test]
    fn without_layer_decay_all_move_alike() {
        let moved = moved(&OptimizerConfig::default(), false);
        assert!(moved[0] > 0.0 && moved.iter().all(|distance| *distance == moved[0]), "{moved:?}");
    }
}
