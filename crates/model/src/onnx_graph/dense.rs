//! Dense layers, norms, non-linearities: the pieces of all encoders and heads.

use super::{Network, Numbers, store};
use config::Activation;
use onnx::{Attribute, Element, Graph, Value};
use tch::{Kind, Tensor};

impl Network<'_> {
    /// `input · weightᵀ + bias`; the bias may be missing.
    pub(super) fn linear(&mut self, input: &Value, prefix: &str) -> Value {
        let name = format!("{prefix}.weight");
        let weight = self.parameter(&name);
        let product = self.product(input, &name, &weight);
        let bias = format!("{prefix}.bias");
        if !self.parameters.contains_key(&bias) {
            return product;
        }
        let bias = self.stored(&bias);
        self.graph.node("Add", &[&product, &bias], &[])
    }

    /// `input · weightᵀ`. `weight`: `[outputs, inputs]`.
    fn product(&mut self, input: &Value, name: &str, weight: &Tensor) -> Value {
        let Numbers::Int8 { bits, .. } = self.numbers else {
            self.count(name, weight, 4 * weight.numel() as u64);
            let stored = store(&mut self.graph, name, &weight.transpose(0, 1));
            return self.graph.node("MatMul", &[input, &stored], &[]);
        };
        let (whole, scales) = quantize(weight, bits);
        self.count(name, weight, weight.numel() as u64 + 4 * scales.numel() as u64);
        let whole = store_whole(&mut self.graph, name, &whole.transpose(0, 1));
        let scales = store(&mut self.graph, &format!("{name}.scale"), &scales.view([-1]));
        self.product_of_whole(input, &whole, &scales)
    }

    /// `whole`: int8 `[inputs, outputs]`, `scales`: `[outputs]`.
    fn product_of_whole(&mut self, input: &Value, whole: &Value, scales: &Value) -> Value {
        if !self.quantized.contains_key(input) {
            let parts = self.graph.nodes("DynamicQuantizeLinear", &[input], &[], 3);
            let [values, scale, zero]: [Value; 3] = parts.try_into().expect("three results were asked for");
            self.quantized.insert(input.clone(), [values, scale, zero]);
        }
        let [values, scale, zero] = self.quantized[input].clone();
        let product = self.graph.node("MatMulInteger", &[&values, whole, &zero], &[]);
        let product = self.cast(&product);
        let scale = self.graph.node("Mul", &[&scale, scales], &[]);
        self.graph.node("Mul", &[&product, &scale], &[])
    }

    /// Each weight once, however often it is used.
    fn count(&mut self, name: &str, weight: &Tensor, stored: u64) {
        if self.counted.insert(name.to_owned()) {
            self.dense_float += 4 * weight.numel() as u64;
            self.dense_stored += stored;
        }
    }

    /// Rows of the word embeddings.
    pub(super) fn embed_words(&mut self) -> Value {
        let ids = self.ids.clone();
        if !matches!(self.numbers, Numbers::Int8 { tables: true, .. }) {
            let words = self.words.clone();
            let table = self.stored(&words);
            return self.graph.node("Gather", &[&table, &ids], &[]);
        }
        let [whole, scales] = self.whole_words();
        let rows = self.graph.node("Gather", &[&whole, &ids], &[]);
        let rows = self.cast(&rows);
        let scales = self.graph.node("Gather", &[&scales, &ids], &[]);
        self.graph.node("Mul", &[&rows, &scales], &[])
    }

    /// The word embeddings as whole numbers `[words, width]`, and their scales `[words, 1]`.
    fn whole_words(&mut self) -> [Value; 2] {
        let Numbers::Int8 { bits, .. } = self.numbers else { unreachable!("only in int8") };
        let name = self.words.clone();
        let (whole, scales) = quantize(&self.parameter(&name), bits);
        [store_whole(&mut self.graph, &name, &whole), store(&mut self.graph, &format!("{name}.scale"), &scales)]
    }

    /// The product with the table of the word embeddings, which the output layer shares.
    pub(super) fn vocabulary_product(&mut self, input: &Value) -> Value {
        let name = self.words.clone();
        let table = self.parameter(&name);
        match self.numbers {
            Numbers::Float => {
                let table = self.stored(&name);
                let table = self.transpose(&table, &[1, 0]);
                self.graph.node("MatMul", &[input, &table], &[])
            }
            Numbers::Int8 { tables: true, .. } => {
                let [whole, scales] = self.whole_words();
                let whole = self.transpose(&whole, &[1, 0]);
                let flat = self.graph.integers(&[-1]);
                let scales = self.graph.node("Reshape", &[&scales, &flat], &[]);
                self.product_of_whole(input, &whole, &scales)
            }
            // The table itself is float32 here.
            Numbers::Int8 { .. } => self.product(input, &format!("{name}.output"), &table),
        }
    }

    /// LayerNorm over the last dimension.
    pub(super) fn norm(&mut self, input: &Value, prefix: &str) -> Value {
        let weight = self.stored(&format!("{prefix}.weight"));
        let bias = format!("{prefix}.bias");
        let bias = self.parameters.contains_key(&bias).then(|| self.stored(&bias));
        let epsilon = Attribute::Float(self.shape.layer_norm_epsilon as f32);
        let inputs: Vec<&Value> = [input, &weight].into_iter().chain(&bias).collect();
        self.graph.node("LayerNormalization", &inputs, &[("axis", Attribute::Integer(-1)), ("epsilon", epsilon)])
    }

    pub(super) fn activate(&mut self, input: &Value, activation: Activation) -> Value {
        let graph = &mut self.graph;
        let (half, one) = (graph.number(0.5), graph.number(1.0));
        let inner = match activation {
            Activation::Relu => return graph.node("Relu", &[input], &[]),
            Activation::Gelu => {
                let root = graph.number(std::f32::consts::SQRT_2);
                let scaled = graph.node("Div", &[input, &root], &[]);
                graph.node("Erf", &[&scaled], &[])
            }
            Activation::GeluNew => {
                let (cubic, factor) = (graph.number(0.044_715), graph.number((2.0 / std::f32::consts::PI).sqrt()));
                let square = graph.node("Mul", &[input, input], &[]);
                let cube = graph.node("Mul", &[&square, input], &[]);
                let cube = graph.node("Mul", &[&cube, &cubic], &[]);
                let sum = graph.node("Add", &[input, &cube], &[]);
                let scaled = graph.node("Mul", &[&sum, &factor], &[]);
                graph.node("Tanh", &[&scaled], &[])
            }
        };
        let share = graph.node("Add", &[&inner, &one], &[]);
        let product = graph.node("Mul", &[input, &share], &[]);
        graph.node("Mul", &[&product, &half], &[])
    }

    pub(super) fn transpose(&mut self, input: &Value, order: &[i64]) -> Value {
        self.graph.node("Transpose", &[input], &[("perm", Attribute::Integers(order.to_vec()))])
    }

    /// 0: as it is.
    pub(super) fn reshape(&mut self, input: &Value, shape: &[i64]) -> Value {
        let shape = self.graph.integers(shape);
        self.graph.node("Reshape", &[input, &shape], &[])
    }

    /// To float32.
    pub(super) fn cast(&mut self, input: &Value) -> Value {
        self.graph.node("Cast", &[input], &[("to", Attribute::Integer(Element::Float as i64))])
    }

    /// One place of a dimension, which is gone then.
    pub(super) fn select(&mut self, input: &Value, axis: i64, place: i64) -> Value {
        let place = self.graph.integer(place);
        self.graph.node("Gather", &[input, &place], &[("axis", Attribute::Integer(axis))])
    }
}

/// Whole numbers and the scale of each row, `[rows, 1]`: symmetric, so that 0 is 0.
pub(super) fn quantize(weight: &Tensor, bits: u32) -> (Tensor, Tensor) {
    let most = f64::from((1_u32 << (bits - 1)) - 1);
    let greatest = weight.abs().amax([1i64].as_slice(), true);
    // A row of zeros has any scale.
    let scales = (greatest / most).clamp_min(f64::from(f32::MIN_POSITIVE));
    let whole = (weight / &scales).round().clamp(-most, most).to_kind(Kind::Int8);
    (whole, scales)
}

fn store_whole(graph: &mut Graph, name: &str, whole: &Tensor) -> Value {
    graph.stored(name, Element::Int8, &whole.size(), || {
        let mut values = vec![0_i8; whole.numel()];
        let count = values.len();
        whole.contiguous().view([-1]).copy_data(&mut values, count);
        values.into_iter().map(i8::cast_unsigned).collect()
    })
}
