//! The ModernBERT layout (Warner et al. 2024): pre-norm layers, rotary positions, GeGLU, no biases.
//!
//! Every layer attends globally; ModernBERT's alternation with local attention is not here, and `config.json` says so.

use crate::attention::{activate, attend, padding_bias};
use crate::heads::dropout;
use crate::network::{Input, Named};
use config::ModelShape;
use tch::{Device, Kind, Tensor};

/// The encoder. Tensors are shared with the parameter list.
pub(crate) struct Modern {
    shape: ModelShape,
    words: Tensor,
    norm: Tensor,
    layers: Vec<Layer>,
    final_norm: Tensor,
    rotary: Rotary,
}

struct Layer {
    /// None in layer 0, where the embeddings were normalised a moment ago.
    attention_norm: Option<Tensor>,
    /// Queries, keys and values. `[3 × hidden, hidden]`
    projections: Tensor,
    attention_output: Tensor,
    feed_forward_norm: Tensor,
    /// What goes through the non-linearity, then the gate. `[2 × intermediate, hidden]`
    wide: Tensor,
    narrow: Tensor,
}

impl Modern {
    pub fn new(shape: &ModelShape, named: &Named, device: Device) -> Self {
        let layers = (0..shape.layers).map(|layer| {
            let get = |name: &str| named.get(&format!("model.layers.{layer}.{name}.weight"));
            Layer {
                attention_norm: (layer > 0).then(|| get("attn_norm")),
                projections: get("attn.Wqkv"),
                attention_output: get("attn.Wo"),
                feed_forward_norm: get("mlp_norm"),
                wide: get("mlp.Wi"),
                narrow: get("mlp.Wo"),
            }
        });
        Self {
            shape: shape.clone(),
            words: named.get("model.embeddings.tok_embeddings.weight"),
            norm: named.get("model.embeddings.norm.weight"),
            layers: layers.collect(),
            final_norm: named.get("model.final_norm.weight"),
            rotary: Rotary::new(shape, device),
        }
    }

    /// `[batch, length, hidden]`.
    pub fn encode(&self, input: &Input, train: bool) -> Tensor {
        let bias = input.mask.as_ref().map(padding_bias);
        let rotary = self.rotary.first(input.ids.size()[1]);
        let words = Tensor::embedding(&self.words, &input.ids, -1, false, false);
        let mut hidden = dropout(&norm(&words, &self.norm, &self.shape), self.shape.dropout, train);
        for layer in &self.layers {
            hidden = layer.forward(&hidden, bias.as_ref(), &rotary, &self.shape, train);
        }
        norm(&hidden, &self.final_norm, &self.shape)
    }
}

impl Layer {
    fn forward(
        &self,
        hidden: &Tensor,
        bias: Option<&Tensor>,
        rotary: &Rotary,
        shape: &ModelShape,
        train: bool,
    ) -> Tensor {
        let attended = match &self.attention_norm {
            Some(weight) => self.attend(&norm(hidden, weight, shape), bias, rotary, shape, train),
            None => self.attend(hidden, bias, rotary, shape, train),
        };
        let hidden = hidden + dropout(&attended, shape.attention_dropout, train);
        let wide = linear(&norm(&hidden, &self.feed_forward_norm, shape), &self.wide).chunk(2, -1);
        let gated = activate(&wide[0], shape.activation) * &wide[1];
        hidden + linear(&dropout(&gated, shape.dropout, train), &self.narrow)
    }

    fn attend(
        &self,
        hidden: &Tensor,
        bias: Option<&Tensor>,
        rotary: &Rotary,
        shape: &ModelShape,
        train: bool,
    ) -> Tensor {
        let size = hidden.size();
        let projected =
            linear(hidden, &self.projections).view([size[0], size[1], 3, shape.heads, shape.hidden / shape.heads]);
        let rotated = rotary.rotate(&projected.narrow(2, 0, 2));
        let query = rotated.select(2, 0).transpose(1, 2);
        let key = rotated.select(2, 1).transpose(1, 2);
        let value = projected.select(2, 2).transpose(1, 2);
        linear(&attend(&query, &key, &value, bias, shape.attention_dropout, train), &self.attention_output)
    }
}

/// Rotary positions (Su et al. 2021), in the half-and-half order of Hugging Face.
struct Rotary {
    /// `[positions, 1, 1, head]`
    cosine: Tensor,
    /// The sine, negated in the first half. `[positions, 1, 1, head]`
    sine: Tensor,
}

impl Rotary {
    fn new(shape: &ModelShape, device: Device) -> Self {
        let head = shape.hidden / shape.heads;
        let options = (Kind::Float, device);
        let exponents = Tensor::arange_start_step(0, head, 2, options) / head as f64;
        let frequencies = Tensor::full([head / 2], shape.rope_theta, options).pow(&exponents).reciprocal();
        let angles = Tensor::arange(shape.max_positions, options).unsqueeze(1) * frequencies;
        let table =
            |first: Tensor, second: Tensor| Tensor::cat(&[first, second], 1).view([shape.max_positions, 1, 1, head]);
        Self { cosine: table(angles.cos(), angles.cos()), sine: table(-angles.sin(), angles.sin()) }
    }

    /// The tables for the first `length` positions.
    fn first(&self, length: i64) -> Self {
        Self { cosine: self.cosine.narrow(0, 0, length), sine: self.sine.narrow(0, 0, length) }
    }

    /// Rotates `[batch, length, …, heads, head]`. Swapping the halves is a roll by half the width.
    fn rotate(&self, vectors: &Tensor) -> Tensor {
        let half = self.cosine.size()[3] / 2;
        (vectors * &self.cosine).addcmul(&vectors.roll(half, -1), &self.sine)
    }
}

fn linear(input: &Tensor, weight: &Tensor) -> Tensor {
    kernels::linear(input, weight, None)
}

fn norm(input: &Tensor, weight: &Tensor, shape: &ModelShape) -> Tensor {
    input.layer_norm::<&Tensor>(weight.size(), Some(weight), None, shape.layer_norm_epsilon, false)
}
