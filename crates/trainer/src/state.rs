//! The state of a run in memory: parameters, the optimizer's moments, the average of the weights, and the header.

use crate::average::Average;
use crate::capture::{Capture, Measured, StateHeader, Whole};
use crate::host::Membership;
use crate::optimizer::Optimizer;
use config::OptimizerConfig;
use corpus::Tokenizer;
use model::{Model, Parameter};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// What a member of a generation holds between two steps.
pub(crate) struct State {
    pub header: StateHeader,
    pub model: Model,
    /// Those that are trained, sorted by name; share storage with the model.
    pub parameters: Vec<Parameter>,
    pub optimizer: Optimizer,
    /// With `optimizer.ema_decay`.
    pub average: Option<Average>,
    pub buffers: Buffers,
}

/// The name in the optimizer files of the weights that training goes on from, where `model.safetensors` holds others.
const WEIGHTS: &str = "weights";

/// The same of a matrix with an adapter, without what that adds.
const BASE: &str = "base";

/// Memory that every step uses again.
#[derive(Default)]
pub(crate) struct Buffers {
    /// `exact`: where each parameter's elements start in the accumulator.
    pub offsets: Vec<usize>,
    /// `exact`: the fixed-point sum of all gradients, `[elements]` int64. Made at the first exact step.
    accumulator: Option<Tensor>,
    /// `exact`: all reduced gradients, `[elements]` float32, in the accumulator's memory.
    flat: Option<Tensor>,
    /// The reduced gradients, in the parameters' order and shapes, float32.
    pub gradients: Vec<Tensor>,
}

impl State {
    /// A state of `model` with zero moments, and with an average of its present weights if there is to be one.
    pub fn new(header: StateHeader, model: Model, optimizer: &OptimizerConfig) -> Self {
        let parameters: Vec<_> = model.parameters().into_iter().filter(|parameter| parameter.trained).collect();
        assert!(parameters.windows(2).all(|pair| pair[0].name < pair[1].name), "parameters are sorted by name");
        let average = optimizer.ema_decay.map(|decay| Average::new(&model, decay));
        let optimizer = Optimizer::new(optimizer, &parameters);
        Self { header, model, parameters, optimizer, average, buffers: Buffers::default() }
    }

    /// The model that the run makes: the average of the weights, if there is one. It is evaluated, and it is what
    /// `model.safetensors` holds.
    pub fn result(&self) -> &Model {
        self.average.as_ref().map_or(&self.model, |average| &average.model)
    }

    /// The same, to be written to.
    pub fn result_mut(&mut self) -> &mut Model {
        self.average.as_mut().map_or(&mut self.model, |average| &mut average.model)
    }

    /// All tensors, in one order that every member has: each trained parameter, then its moments; then what is frozen; then
    /// the averages. They share storage with the state and are cut off from the graph, so writing to them writes the state.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = Vec::new();
        for (parameter, moments) in self.parameters.iter().zip(self.optimizer.tensors()) {
            tensors.push(parameter.tensor.detach());
            tensors.extend(moments.into_iter().map(|(_, tensor)| tensor.shallow_clone()));
        }
        let frozen = self.model.parameters().into_iter().filter(|parameter| !parameter.trained);
        tensors.extend(frozen.map(|parameter| parameter.tensor.detach()));
        if let Some(average) = &self.average {
            tensors.extend(average.parameters().map(|parameter| parameter.tensor.detach()));
        }
        tensors
    }

    /// What `model.safetensors` holds: the weights that come out of the run, sorted by name, with what adapters add.
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        self.result().merged()
    }

    /// What the optimizer files hold: a number, which tells who writes it, the name of a tensor there, and the tensor,
    /// which shares storage with the state. The moments; of what `model.safetensors` holds an average, or not at all, the
    /// weights; and what adapters add to, as it was before.
    pub fn beside_the_model(&self) -> Vec<(usize, String, Tensor)> {
        let mut tensors = Vec::new();
        for (index, (parameter, moments)) in self.parameters.iter().zip(self.optimizer.tensors()).enumerate() {
            let weights = (self.average.is_some() || parameter.adapter).then_some((WEIGHTS, &parameter.tensor));
            for (kind, tensor) in moments.into_iter().chain(weights) {
                tensors.push((index, format!("{kind}.{}", parameter.name), tensor.detach()));
            }
        }
        let adapted = self.model.parameters().into_iter().filter(|parameter| parameter.adapted).enumerate();
        tensors.extend(adapted.map(|(index, it)| (index, format!("{BASE}.{}", it.name), it.tensor.detach())));
        tensors
    }

    /// Copies this rank's share out of libtorch.
    pub fn capture(
        &self,
        membership: &Membership,
        tokenizer: &Arc<Tokenizer>,
        last: bool,
        measured: Measured,
    ) -> Capture {
        let (rank, world) = (membership.rank.0 as usize, membership.world.0 as usize);
        let own = self.beside_the_model().into_iter().filter(|(index, ..)| index % world == rank);
        let optimizer = own.map(|(_, name, tensor)| (name, copied(&tensor))).collect();
        let whole = (rank == 0).then(|| Whole {
            parameters: self.weights().into_iter().map(|(name, tensor)| (name, copied(&tensor))).collect(),
            head: self.model.head().clone(),
            tokenizer: tokenizer.clone(),
        });
        Capture {
            step: self.header.step,
            generation: membership.generation,
            rank: membership.rank,
            world: membership.world,
            last,
            eval_loss: measured.loss,
            score: measured.score,
            header: self.header.clone(),
            whole,
            optimizer,
        }
    }
}

impl Buffers {
    /// Puts the parameters' elements one after the other in this order, for the steps that follow.
    pub fn lay_out(&mut self, parameters: &[Parameter], order: &[usize]) {
        self.offsets = vec![0; parameters.len()];
        let mut end = 0;
        for &index in order {
            self.offsets[index] = end;
            end += parameters[index].tensor.numel();
        }
        self.gradients.clear();
    }

    /// The accumulator, with what the last step left in it.
    pub fn accumulator(&mut self, parameters: &[Parameter], device: Device) -> Tensor {
        let make = || Tensor::zeros([elements(parameters)], (Kind::Int64, device));
        self.accumulator.get_or_insert_with(make).shallow_clone()
    }

    /// The buffer that the reduced gradients are written to, `[elements]` float32; those of the parameters are parts of
    /// it. It lies in the accumulator's first half: what is written to it replaces the sum.
    pub fn flat_gradients(&mut self, parameters: &[Parameter], device: Device) -> Tensor {
        let accumulator = self.accumulator(parameters, device);
        let flat =
            self.flat.get_or_insert_with(|| accumulator.view_dtype(Kind::Float).narrow(0, 0, elements(parameters)));
        if self.gradients.is_empty() {
            let part = |(parameter, &offset): (&Parameter, &usize)| {
                flat.narrow(0, offset as i64, parameter.tensor.numel() as i64).view_as(&parameter.tensor)
            };
            self.gradients = parameters.iter().zip(&self.offsets).map(part).collect();
        }
        flat.shallow_clone()
    }

    /// Multiplies the reduced gradients.
    pub fn scale_gradients(&mut self, factor: f64) {
        let parts = self.flat.as_mut().map_or(self.gradients.as_mut_slice(), std::slice::from_mut);
        for part in parts {
            let _ = part.g_mul_scalar_(factor);
        }
    }
}

fn elements(parameters: &[Parameter]) -> i64 {
    parameters.iter().map(|parameter| parameter.tensor.numel() as i64).sum()
}

/// A copy in main memory.
fn copied(tensor: &Tensor) -> Tensor {
    let tensor = tensor.detach();
    if tensor.device() == Device::Cpu { tensor.copy() } else { tensor.to_device(Device::Cpu) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::capture::FORMAT;
    use config::{ModelConfig, OptimizerKind};
    use model::{Head, safetensors_io};
    use types::{Attempt, Digest, Step};

    pub(crate) fn state(ema_decay: Option<f64>) -> State {
        let config = ModelConfig {
            layers: Some(1),
            hidden: Some(8),
            heads: Some(2),
            intermediate: Some(8),
            ..ModelConfig::default()
        };
        let shape = config.shape(16, 8);
        let model = Model::new(&shape, Head::MaskedLm, 1, Device::Cpu).unwrap();
        let header = StateHeader {
            format: FORMAT,
            step: Step(0),
            attempt: Attempt(0),
            updates: 0,
            skipped_in_a_row: 0,
            cursors: Vec::new(),
            samples_digest: Digest::default(),
            config_digest: Digest::default(),
            optimizer: OptimizerKind::Adamw,
            averaged: ema_decay.is_some(),
            evaluated: None,
            measured: None,
            labels: Vec::new(),
            shape,
        };
        State::new(header, model, &OptimizerConfig { ema_decay, ..OptimizerConfig::default() })
    }

    #[test]
    fn an_average_is_sent_compared_and_kept_like_everything_else() {
        let (plain, averaged) = (state(None), state(Some(0.9)));
        let count = plain.parameters.len();
        assert_eq!((plain.tensors().len(), averaged.tensors().len()), (3 * count, 4 * count));
        let files = [&plain, &averaged].map(|state| state.beside_the_model().len());
        assert_eq!(files, [2 * count, 3 * count], "with an average the weights are there, too");
        let digest = || safetensors_io::digest(&averaged.tensors()).unwrap();
        let before = digest();
        for flipped in [&averaged.model, averaged.result()] {
            let mut element = flipped.parameters()[0].tensor.detach().reshape([-1]).narrow(0, 0, 1);
            let old = element.copy();
            let _ = element.fill_(7.0);
            assert_ne!(digest(), before);
            element.copy_(&old);
            assert_eq!(digest(), before);
        }
    }
}
