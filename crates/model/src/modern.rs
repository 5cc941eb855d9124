//! ModernBERT (Warner et al. 2024): pre-norm layers, rotary positions, GeGLU, no biases, and layers that attend locally
//! between such that attend globally.

use crate::attention::{Sight, attend, attend_rows, gated};
use crate::graphs::Graphs;
use crate::heads::dropout;
use crate::lora::Adapter;
use crate::network::{Execution, Input, Named};
use crate::rows::Rows;
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
    /// Of the layers that attend locally, where there are any.
    local_rotary: Option<Rotary>,
    graphs: Graphs,
}

struct Layer {
    /// It sees a window only.
    is_local: bool,
    /// None in layer 0, where the embeddings were normalised a moment ago.
    attention_norm: Option<Tensor>,
    /// Queries, keys and values. `[3 × hidden, hidden]`
    projections: Dense,
    attention_output: Dense,
    feed_forward_norm: Tensor,
    /// What goes through the non-linearity, then the gate. `[2 × intermediate, hidden]`
    wide: Dense,
    narrow: Dense,
}

/// A matrix, and what lies beside it.
struct Dense {
    weight: Tensor,
    adapter: Option<Adapter>,
}

impl Dense {
    fn new(named: &Named, prefix: &str) -> Self {
        Self { weight: named.get(&format!("{prefix}.weight")), adapter: named.adapter(prefix) }
    }

    fn forward(&self, input: &Tensor, train: bool) -> Tensor {
        let product = kernels::linear(input, &self.weight, None);
        match &self.adapter {
            Some(adapter) => product + adapter.forward(input, train),
            None => product,
        }
    }

    fn leaves(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.weight).chain(self.adapter.iter().flat_map(Adapter::leaves))
    }

    fn shallow_clone(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), adapter: self.adapter.as_ref().map(Adapter::shallow_clone) }
    }
}

impl Modern {
    pub fn new(shape: &ModelShape, named: &Named, device: Device) -> Self {
        let layers = (0..shape.layers).map(|layer| {
            let get = |name: &str| named.get(&format!("model.layers.{layer}.{name}.weight"));
            let dense = |name: &str| Dense::new(named, &format!("model.layers.{layer}.{name}"));
            Layer {
                is_local: shape.local_attention.is_some_and(|local| local.is_local(layer)),
                attention_norm: (layer > 0).then(|| get("attn_norm")),
                projections: dense("attn.Wqkv"),
                attention_output: dense("attn.Wo"),
                feed_forward_norm: get("mlp_norm"),
                wide: dense("mlp.Wi"),
                narrow: dense("mlp.Wo"),
            }
        });
        Self {
            shape: shape.clone(),
            words: named.get("model.embeddings.tok_embeddings.weight"),
            norm: named.get("model.embeddings.norm.weight"),
            layers: layers.collect(),
            final_norm: named.get("model.final_norm.weight"),
            rotary: Rotary::new(shape, shape.rope_theta, device),
            local_rotary: shape.local_attention.map(|local| Rotary::new(shape, local.rope_theta, device)),
            graphs: Graphs::default(),
        }
    }

    /// `[batch, length, hidden]`; of `rows`, which are the input then, `[1, tokens, hidden]`.
    pub fn encode(&self, input: &Input, rows: Option<&Rows>, execution: Execution, train: bool) -> Tensor {
        let words = kernels::embedding(&self.words, &input.ids);
        let hidden = dropout(&norm(&words, &self.norm, &self.shape), self.shape.dropout, train);
        let mask = input.mask.as_ref();
        let hidden = if execution.records(&hidden, train) {
            let tables = [Some(&self.rotary), self.local_rotary.as_ref()];
            let tables = tables.into_iter().flatten().flat_map(|rotary| [&rotary.cosine, &rotary.sine]);
            let leaves = || self.layers.iter().flat_map(Layer::leaves).chain(tables).collect();
            self.graphs.run((&hidden, mask), leaves, |hidden, mask| self.run_layers(hidden, mask, None, false, train))
        } else {
            self.run_layers(&hidden, mask, rows, train && execution.activation_checkpointing, train)
        };
        norm(&hidden, &self.final_norm, &self.shape)
    }

    /// See [`Graphs::count`].
    pub fn recordings(&self) -> usize {
        self.graphs.count()
    }

    fn run_layers(
        &self,
        hidden: &Tensor,
        mask: Option<&Tensor>,
        rows: Option<&Rows>,
        checkpoints: bool,
        train: bool,
    ) -> Tensor {
        let length = hidden.size()[1];
        let view = |rotary: &Rotary, reach: Option<i64>| View {
            sight: Sight::new(mask, rows, reach, length, hidden.device()),
            rotary: rows.map_or_else(|| rotary.first(length), |rows| rotary.at(&rows.positions)),
        };
        let global = view(&self.rotary, None);
        let local = self.local_rotary.as_ref().zip(self.shape.local_attention);
        let local = local.map(|(rotary, local)| view(rotary, Some(local.reach())));
        let run = |hidden: Tensor, layer: &Layer| {
            let view = local.as_ref().filter(|_| layer.is_local).unwrap_or(&global);
            if checkpoints {
                layer.checkpointed(&hidden, view, &self.shape, train)
            } else {
                layer.forward(&hidden, view, &self.shape, train)
            }
        };
        self.layers.iter().fold(hidden.shallow_clone(), run)
    }
}

/// What a layer needs to know of the micro-batch.
struct View {
    sight: Sight,
    rotary: Rotary,
}

impl View {
    fn shallow_clone(&self) -> Self {
        let Rotary { cosine, sine } = &self.rotary;
        let rotary = Rotary { cosine: cosine.shallow_clone(), sine: sine.shallow_clone() };
        Self { sight: self.sight.shallow_clone(), rotary }
    }
}

impl Layer {
    fn forward(&self, hidden: &Tensor, view: &View, shape: &ModelShape, train: bool) -> Tensor {
        let attended = match &self.attention_norm {
            Some(weight) => self.attend(&norm(hidden, weight, shape), view, shape, train),
            None => self.attend(hidden, view, shape, train),
        };
        let hidden = hidden + dropout(&attended, shape.attention_dropout, train);
        let wide = self.wide.forward(&norm(&hidden, &self.feed_forward_norm, shape), train);
        let gated = gated(&wide, shape.activation);
        hidden + self.narrow.forward(&dropout(&gated, shape.dropout, train), train)
    }

    /// The same, of which nothing is kept but `hidden`.
    fn checkpointed(&self, hidden: &Tensor, view: &View, shape: &ModelShape, train: bool) -> Tensor {
        let (layer, view, shape) = (self.shallow_clone(), view.shallow_clone(), shape.clone());
        kernels::checkpoint(hidden, &self.leaves(), move |hidden| layer.forward(hidden, &view, &shape, train))
    }

    fn attend(&self, hidden: &Tensor, view: &View, shape: &ModelShape, train: bool) -> Tensor {
        let size = hidden.size();
        let projected = self.projections.forward(hidden, train).view([
            size[0],
            size[1],
            3,
            shape.heads,
            shape.hidden / shape.heads,
        ]);
        let rotated = view.rotary.rotate(&projected.narrow(2, 0, 2));
        let (query, key) = (rotated.select(2, 0), rotated.select(2, 1));
        let value = projected.select(2, 2);
        let context = match &view.sight {
            Sight::Padded(bias) => {
                let [query, key, value] = [query, key, value].map(|part| part.transpose(1, 2));
                attend(&query, &key, &value, bias.as_ref(), shape.attention_dropout, train)
            }
            Sight::Rows { rows, reach } => {
                attend_rows([&query, &key, &value], rows, *reach, shape.attention_dropout, train)
            }
        };
        self.attention_output.forward(&context, train)
    }

    fn leaves(&self) -> Vec<&Tensor> {
        let matrices = [&self.projections, &self.attention_output, &self.wide, &self.narrow];
        let of_matrices = matrices.into_iter().flat_map(Dense::leaves);
        self.attention_norm.iter().chain([&self.feed_forward_norm]).chain(of_matrices).collect()
    }

    fn shallow_clone(&self) -> Self {
        Self {
            is_local: self.is_local,
            attention_norm: self.attention_norm.as_ref().map(Tensor::shallow_clone),
            projections: self.projections.shallow_clone(),
            attention_output: self.attention_output.shallow_clone(),
            feed_forward_norm: self.feed_forward_norm.shallow_clone(),
            wide: self.wide.shallow_clone(),
            narrow: self.narrow.shallow_clone(),
        }
    }
}

/// Cosines, and sines that are negated in the first half, of all positions. `[positions, 1, 1, head]`
pub(crate) fn rotary_tables(shape: &ModelShape, theta: f64) -> [Tensor; 2] {
    let Rotary { cosine, sine } = Rotary::new(shape, theta, Device::Cpu);
    [cosine, sine]
}

/// Rotary positions (Su et al. 2021), in the half-and-half order of Hugging Face.
struct Rotary {
    /// `[positions, 1, 1, head]`
    cosine: Tensor,
    /// The sine, negated in the first half. `[positions, 1, 1, head]`
    sine: Tensor,
}

impl Rotary {
    fn new(shape: &ModelShape, theta: f64, device: Device) -> Self {
        let head = shape.hidden / shape.heads;
        let options = (Kind::Float, device);
        let exponents = Tensor::arange_start_step(0, head, 2, options) / head as f64;
        let frequencies = Tensor::full([head / 2], theta, options).pow(&exponents).reciprocal();
        let angles = Tensor::arange(shape.max_positions, options).unsqueeze(1) * frequencies;
        let table =
            |first: Tensor, second: Tensor| Tensor::cat(&[first, second], 1).view([shape.max_positions, 1, 1, head]);
        Self { cosine: table(angles.cos(), angles.cos()), sine: table(-angles.sin(), angles.sin()) }
    }

    /// The tables for the first `length` positions.
    fn first(&self, length: i64) -> Self {
        Self { cosine: self.cosine.narrow(0, 0, length), sine: self.sine.narrow(0, 0, length) }
    }

    /// The tables for these positions.
    fn at(&self, positions: &Tensor) -> Self {
        Self { cosine: self.cosine.index_select(0, positions), sine: self.sine.index_select(0, positions) }
    }

    /// Rotates `[batch, length, …, heads, head]`. Swapping the halves is a roll by half the width.
    fn rotate(&self, vectors: &Tensor) -> Tensor {
        let half = self.cosine.size()[3] / 2;
        (vectors * &self.cosine).addcmul(&vectors.roll(half, -1), &self.sine)
    }
}

fn norm(input: &Tensor, weight: &Tensor, shape: &ModelShape) -> Tensor {
    input.layer_norm::<&Tensor>(weight.size(), Some(weight), None, shape.layer_norm_epsilon, false)
}
