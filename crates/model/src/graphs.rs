//! Layers as CUDA graphs.

use crate::network::Execution;
use kernels::Graph;
use std::cell::RefCell;
use std::collections::HashMap;
use tch::Tensor;

/// The recordings of an encoder's layers: one for each shape of their input, with and without a mask.
#[derive(Default)]
pub(crate) struct Graphs(RefCell<HashMap<(Vec<i64>, bool), Graph>>);

impl Graphs {
    /// `layers` of the input and mask, recorded when they first have this shape. `leaves` are all tensors that the layers
    /// read.
    ///
    /// # Panics
    /// If the layers cannot be recorded.
    pub fn run<'a>(
        &self,
        (hidden, mask): (&Tensor, Option<&Tensor>),
        leaves: impl FnOnce() -> Vec<&'a Tensor>,
        layers: impl Fn(&Tensor, Option<&Tensor>) -> Tensor,
    ) -> Tensor {
        let mut graphs = self.0.borrow_mut();
        let graph = graphs.entry((hidden.size(), mask.is_some())).or_insert_with(|| {
            Graph::record((hidden, mask), &leaves(), layers).unwrap_or_else(|error| {
                panic!("run.cuda_graphs: the layers cannot be recorded (leave it out): {error}")
            })
        });
        graph.replay((hidden, mask))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

impl Execution {
    /// Whether layers are recorded and replayed for this input of theirs.
    pub(crate) fn records(self, hidden: &Tensor, train: bool) -> bool {
        let not_fixed = self.unpadded || self.activation_checkpointing;
        train && self.cuda_graphs && !not_fixed && hidden.device().is_cuda()
    }
}
