//! A model as a graph in ONNX's format, in float32 or with its dense layers in int8.
//!
//! Inputs are named as in `transformers`: `input_ids`, `attention_mask` and, where there are segments, `token_type_ids`;
//! outputs too. Batch and length are free, and for multiple choice the number of choices between them. Every dense layer's
//! weight is stored transposed, under its parameter's name.
//!
//! In int8 each output of a dense layer has a scale of its own: the greatest weight becomes 127 (63 with 7 bits). What
//! comes in is quantised when it is there, with one scale for all of it (`DynamicQuantizeLinear`), and the product is one of
//! integers (`MatMulInteger`). Biases, norms, softmax and, unless it is asked for, the tables of embeddings stay float32.

mod dense;
mod encoder;
mod heads;

use crate::error::ModelError;
use crate::heads::Head;
use crate::names::{self, HeadNames};
use crate::network::{Model, Parameter};
use crate::safetensors_io;
use config::ModelShape;
use onnx::{Attribute, Dimension, Element, Graph, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use tch::{Device, Kind, Tensor};
use types::Digest;

/// How the weights of dense layers are stored and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// As they are.
    Float,
    /// As whole numbers with a scale for each output.
    Int8 {
        /// 8; or 7, which processors without VNNI cannot overflow in their sums of two products of 16 bits.
        bits: u32,
        /// The table of the word embeddings too, with a scale for each word.
        tables: bool,
    },
}

/// A graph in a file's bytes, and what it holds.
#[derive(Debug)]
pub struct Exported {
    /// What belongs into a `.onnx`.
    pub bytes: Vec<u8>,
    /// Bytes of the dense layers' weights in float32.
    pub dense_float: u64,
    /// Bytes of them as they are stored, scales included.
    pub dense_stored: u64,
}

/// The graph of a model, with the first `vocabulary` words of its table (those that a tokenizer has; the rest only pads).
/// `metadata` is stored with it.
pub fn export(
    model: &Model,
    vocabulary: i64,
    numbers: Numbers,
    metadata: &[(&str, String)],
) -> Result<Exported, ModelError> {
    let mut network = Network::new(model, vocabulary, numbers);
    let hidden = network.encode(model);
    network.outputs(model, &hidden);
    let bytes = network.graph.finish(("trireme", env!("CARGO_PKG_VERSION")), metadata).map_err(|error| {
        ModelError::Unsupported(format!("{error}: use the safetensors of `coordinator checkpoints export`"))
    })?;
    Ok(Exported { bytes, dense_float: network.dense_float, dense_stored: network.dense_stored })
}

/// The digest of what [`export`] makes a graph of. A checkpoint has it and an export of that without its padding, too.
pub fn weights_digest(model: &Model, vocabulary: i64) -> Result<Digest, ModelError> {
    safetensors_io::digest(used(model, vocabulary).values())
}

/// The parameters, as float32 on the processor, without rows that only pad the vocabulary.
fn used(model: &Model, vocabulary: i64) -> BTreeMap<String, Tensor> {
    let words = names::words(model.shape().architecture);
    let bias = HeadNames::of(model.shape().architecture).bias;
    let cut = |parameter: Parameter| {
        let tensor = parameter.tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float);
        let of_words = parameter.name == words || parameter.name == bias;
        let rows = if of_words { vocabulary.min(tensor.size()[0]) } else { tensor.size()[0] };
        (parameter.name, tensor.narrow(0, 0, rows).contiguous())
    };
    model.parameters().into_iter().map(cut).collect()
}

const BATCH: Dimension = Dimension::Named("batch_size");
const LENGTH: Dimension = Dimension::Named("sequence_length");
const CHOICES: Dimension = Dimension::Named("num_choices");

/// A graph under construction, and the parameters that it is made of.
struct Network<'a> {
    graph: Graph,
    shape: &'a ModelShape,
    parameters: BTreeMap<String, Tensor>,
    /// The table of the word embeddings.
    words: String,
    numbers: Numbers,
    ids: Value,
    /// As float32, 1 at real tokens. `[batch, length]`
    mask: Value,
    segments: Option<Value>,
    /// `[1]`
    length: Value,
    /// Multiple choice: batch and number of choices. `[2]`
    choices: Option<Value>,
    /// What was quantised already: whole numbers, scale, zero point.
    quantized: HashMap<Value, [Value; 3]>,
    /// Dense layers whose weights are in `dense_float` and `dense_stored`.
    counted: HashSet<String>,
    dense_float: u64,
    dense_stored: u64,
}

impl<'a> Network<'a> {
    fn new(model: &'a Model, vocabulary: i64, numbers: Numbers) -> Self {
        let shape = model.shape();
        let mut graph = Graph::new("trireme");
        let has_choices = matches!(model.head(), Head::MultipleChoice { .. });
        let size = if has_choices { &[BATCH, CHOICES, LENGTH][..] } else { &[BATCH, LENGTH] };
        let mut choices = None;
        // Each choice becomes a row of its own.
        let mut input = |graph: &mut Graph, name: &str| {
            let value = graph.input(name, Element::Int64, size);
            if !has_choices {
                return value;
            }
            let shape = graph.node("Shape", &[&value], &[]);
            let [zero, two, three, all] = [0, 2, 3, -1].map(|number| graph.integers(&[number]));
            let length = graph.node("Slice", &[&shape, &two, &three], &[]);
            choices = Some(graph.node("Slice", &[&shape, &zero, &two], &[]));
            let rows = graph.node("Concat", &[&all, &length], &[("axis", Attribute::Integer(0))]);
            graph.node("Reshape", &[&value, &rows], &[])
        };
        let ids = input(&mut graph, "input_ids");
        let mask = input(&mut graph, "attention_mask");
        let segments = (shape.segment_types > 1).then(|| input(&mut graph, "token_type_ids"));
        let mask = graph.node("Cast", &[&mask], &[("to", Attribute::Integer(Element::Float as i64))]);
        let range = [("start", Attribute::Integer(1)), ("end", Attribute::Integer(2))];
        let length = graph.node("Shape", &[&ids], &range);
        Self {
            graph,
            shape,
            parameters: used(model, vocabulary),
            words: names::words(shape.architecture),
            numbers,
            ids,
            mask,
            segments,
            length,
            choices,
            quantized: HashMap::new(),
            counted: HashSet::new(),
            dense_float: 0,
            dense_stored: 0,
        }
    }

    fn parameter(&self, name: &str) -> Tensor {
        self.parameters.get(name).unwrap_or_else(|| panic!("the model has no `{name}`")).shallow_clone()
    }

    /// A parameter as it is.
    fn stored(&mut self, name: &str) -> Value {
        let tensor = self.parameter(name);
        store(&mut self.graph, name, &tensor)
    }
}

/// A float32 tensor.
fn store(graph: &mut Graph, name: &str, tensor: &Tensor) -> Value {
    graph.stored(name, Element::Float, &tensor.size(), || {
        let mut values = vec![0.0_f32; tensor.numel()];
        let count = values.len();
        tensor.contiguous().view([-1]).copy_data(&mut values, count);
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    })
}

#[cfg(test)]
mod tests;
