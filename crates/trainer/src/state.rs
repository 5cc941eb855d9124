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
    /// `exact`: all reduced gradients, `[elements]` float32. Made at the first exact step.
    flat: Option<Tensor>,
    /// The reduced gradients, in the parameters' order and shapes, float32.
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
        let buffers = Buffers { offsets, accumulator: None, flat: None, gradients: Vec::new() };
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
    /// The accumulator, with what the last step left in it.
    pub fn accumulator(&mut self, parameters: &[Parameter], device: Device) -> Tensor {
        let make = || Tensor::zeros([elements(parameters)], (Kind::Int64, device));
        self.accumulator.get_or_insert_with(make).shallow_clone()
    }

    /// The buffer that the reduced gradients are written to, `[elements]` float32; those of the parameters are parts of
    /// it.
    pub fn flat_gradients(&mut self, parameters: &[Parameter], device: Device) -> Tensor {
        let flat = self.flat.get_or_insert_with(|| Tensor::zeros([elements(parameters)], (Kind::Float, device)));
        if self.gradients.is_empty() {
            let part = |(parameter, &offset): (&Parameter, &usize)| {
                flat.narrow(0, offset as i64, parameter.tensor.numel() as i64).view_as(&parameter.tensor)
            };
            self.gradients = parameters.iter().zip(&self.offsets).map(part).collect();
        }
        flat.shallow_clone()
    }
}

/// The name of an optimizer tensor in a checkpoint.
pub(crate) fn optimizer_key(kind: &str, parameter: &str) -> String {
    format!("{kind}.{parameter}")
}

fn elements(parameters: &[Parameter]) -> i64 {
    parameters.iter().map(|parameter| parameter.tensor.numel() as i64).sum()
}

/// A copy in main memory.
fn copied(tensor: &Tensor) -> Tensor {
    let tensor = tensor.detach();
    if tensor.device() == Device::Cpu { tensor.copy() } else { tensor.to_device(Device::Cpu) }
}
