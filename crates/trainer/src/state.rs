//! The state of a run in memory: parameters, the optimizer's moments, and the header.

use crate::capture::{Capture, StateHeader, Whole};
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
    /// Sorted by name; share storage with the model.
    pub parameters: Vec<Parameter>,
    pub optimizer: Optimizer,
    pub buffers: Buffers,
}

/// Memory that every step uses again.
pub(crate) struct Buffers {
    /// Where each parameter's elements start in the accumulator.
    pub offsets: Vec<usize>,
    /// `exact`: the fixed-point sum of all gradients, `[elements]` int64. Made at the first exact step.
    pub accumulator: Option<Tensor>,
    /// The reduced gradients, in the parameters' order and shapes, float32. Made at the first exact step.
    pub gradients: Vec<Tensor>,
}

impl State {
    /// A state of `model` with zero moments.
    pub fn new(header: StateHeader, model: Model, optimizer: &OptimizerConfig) -> Self {
        let parameters = model.parameters();
        assert!(parameters.windows(2).all(|pair| pair[0].name < pair[1].name), "parameters are sorted by name");
        let optimizer = Optimizer::new(optimizer, &parameters);
        let mut elements = 0;
        let offsets = parameters
            .iter()
            .map(|parameter| {
                let offset = elements;
                elements += parameter.tensor.numel();
                offset
            })
            .collect();
        let buffers = Buffers { offsets, accumulator: None, gradients: Vec::new() };
        Self { header, model, parameters, optimizer, buffers }
    }

    /// All tensors, in one order that every member has: each parameter, then its moments. They share storage with the
    /// state and are cut off from the graph, so writing to them writes the state.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = Vec::new();
        for (parameter, moments) in self.parameters.iter().zip(self.optimizer.tensors()) {
            tensors.push(parameter.tensor.detach());
            tensors.extend(moments.into_iter().map(|(_, tensor)| tensor.shallow_clone()));
        }
        tensors
    }

    /// Copies this rank's share out of libtorch.
    pub fn capture(
        &self,
        membership: &Membership,
        tokenizer: &Arc<Tokenizer>,
        last: bool,
        eval_loss: Option<f64>,
    ) -> Capture {
        let (rank, world) = (membership.rank.0 as usize, membership.world.0 as usize);
        let optimizer = self
            .parameters
            .iter()
            .zip(self.optimizer.tensors())
            .enumerate()
            .filter(|(index, _)| index % world == rank)
            .flat_map(|(_, (parameter, moments))| {
                moments.into_iter().map(|(kind, tensor)| (optimizer_key(kind, &parameter.name), copied(tensor)))
            })
            .collect();
        let whole = (rank == 0).then(|| Whole {
            parameters: self
                .parameters
                .iter()
                .map(|parameter| (parameter.name.clone(), copied(&parameter.tensor)))
                .collect(),
            head: self.model.head().clone(),
            tokenizer: tokenizer.clone(),
        });
        Capture {
            step: self.header.step,
            generation: membership.generation,
            rank: membership.rank,
            world: membership.world,
            last,
            eval_loss,
            header: self.header.clone(),
            whole,
            optimizer,
        }
    }
}

impl Buffers {
    /// The accumulator, all zero.
    pub fn cleared_accumulator(&mut self, parameters: &[Parameter], device: Device) -> Tensor {
        let elements: usize = parameters.iter().map(|parameter| parameter.tensor.numel()).sum();
        let accumulator =
            self.accumulator.get_or_insert_with(|| Tensor::zeros([elements as i64], (Kind::Int64, device)));
        let _ = accumulator.zero_();
        accumulator.shallow_clone()
    }

    /// The buffers that the reduced gradients are written to.
    pub fn gradients(&mut self, parameters: &[Parameter]) -> &mut Vec<Tensor> {
        if self.gradients.is_empty() {
            self.gradients = parameters.iter().map(|parameter| parameter.tensor.detach().zeros_like()).collect();
        }
        &mut self.gradients
    }
}

/// The name of an optimizer tensor in a checkpoint.
pub(crate) fn optimizer_key(kind: &str, parameter: &str) -> String {
    format!("{kind}.{parameter}")
}

/// A copy in main memory.
fn copied(tensor: &Tensor) -> Tensor {
    let tensor = tensor.detach();
    if tensor.device() == Device::Cpu { tensor.copy() } else { tensor.to_device(Device::Cpu) }
}
