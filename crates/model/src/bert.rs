//! BERT as published (Devlin et al. 2018, google-research/bert modeling.py): three embeddings, post-norm layers. And
//! what differs from it in little more than names (names.rs): ALBERT, whose embeddings are narrow and whose layers are one
//! layer used again and again; ELECTRA's two encoders; DistilBERT, which has no segments; RoBERTa, where all text is of one
//! segment and positions begin behind the id of `<pad>`.

use crate::attention::{Sight, activate, attend, attend_rows};
use crate::graphs::Graphs;
use crate::heads::dropout;
use crate::lora::Adapter;
use crate::names::{EncoderNames, LayerNames};
use crate::network::{Execution, Input, Named};
use crate::rows::Rows;
use config::ModelShape;
use tch::Tensor;

/// The encoder. Tensors are shared with the parameter list.
pub(crate) struct Bert {
    shape: ModelShape,
    words: Tensor,
    positions: Tensor,
    /// None: the architecture has no segments.
    segments: Option<Tensor>,
    norm: Norm,
    /// From the embeddings' width to the layers'.
    projection: Option<Linear>,
    layers: Vec<Layer>,
    graphs: Graphs,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

struct Linear {
    weight: Tensor,
    bias: Tensor,
    adapter: Option<Adapter>,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl Linear {
    fn new(named: &Named, prefix: &str) -> Self {
        Self {
            weight: named.get(&format!("{prefix}.weight")),
            bias: named.get(&format!("{prefix}.bias")),
            adapter: named.adapter(prefix),
        }
    }

    fn forward(&self, input: &Tensor, train: bool) -> Tensor {
        self.adapt(kernels::linear(input, &self.weight, Some(&self.bias)), input, train)
    }

    /// With what an adapter adds to the product.
    fn adapt(&self, product: Tensor, input: &Tensor, train: bool) -> Tensor {
        match &self.adapter {
            Some(adapter) => product + adapter.forward(input, train),
            None => product,
        }
    }

    fn leaves(&self) -> impl Iterator<Item = &Tensor> {
        [&self.weight, &self.bias].into_iter().chain(self.adapter.iter().flat_map(Adapter::leaves))
    }

    fn shallow_clone(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            adapter: self.adapter.as_ref().map(Adapter::shallow_clone),
        }
    }
}

impl Norm {
    fn new(named: &Named, prefix: &str, epsilon: f64) -> Self {
        Self { weight: named.get(&format!("{prefix}.weight")), bias: named.get(&format!("{prefix}.bias")), epsilon }
    }

    fn forward(&self, input: &Tensor) -> Tensor {
        input.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.epsilon, false)
    }

    fn shallow_clone(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone(), epsilon: self.epsilon }
    }
}

impl Bert {
    pub fn new(shape: &ModelShape, names: &EncoderNames, named: &Named) -> Self {
        let epsilon = shape.layer_norm_epsilon;
        let table = |name: &str| named.get(&format!("{}.{name}.weight", names.embeddings));
        Self {
            shape: shape.clone(),
            words: table("word_embeddings"),
            positions: table("position_embeddings"),
            segments: (shape.segment_types > 0).then(|| table("token_type_embeddings")),
            norm: Norm::new(named, &format!("{}.LayerNorm", names.embeddings), epsilon),
            projection: names.projects(shape).then(|| Linear::new(named, names.projection)),
            layers: (0..shape.layers).map(|at| Layer::new(named, &names.prefix(at), &names.layer, epsilon)).collect(),
            graphs: Graphs::default(),
        }
    }

    /// `[batch, length, hidden]`; of `rows`, which are the input then, `[1, tokens, hidden]`.
    pub fn encode(&self, input: &Input, rows: Option<&Rows>, execution: Execution, train: bool) -> Tensor {
        let mut hidden = dropout(&self.norm.forward(&self.embed(input, rows)), self.shape.dropout, train);
        if let Some(projection) = &self.projection {
            hidden = projection.forward(&hidden, train);
        }
        let mask = input.mask.as_ref();
        if execution.records(&hidden, train) {
            let leaves = || self.layers.iter().flat_map(Layer::leaves).collect();
            return self.graphs.run((&hidden, mask), leaves, |hidden, mask| {
                self.run_layers(hidden, &Sight::new(mask, None, None, hidden.size()[1], hidden.device()), false, train)
            });
        }
        let sight = Sight::new(mask, rows, None, input.ids.size()[1], input.ids.device());
        self.run_layers(&hidden, &sight, train && execution.activation_checkpointing, train)
    }

    /// See [`Graphs::count`].
    pub fn recordings(&self) -> usize {
        self.graphs.count()
    }

    fn run_layers(&self, hidden: &Tensor, sight: &Sight, checkpoints: bool, train: bool) -> Tensor {
        let run = |hidden: Tensor, layer: &Layer| {
            if checkpoints {
                layer.checkpointed(&hidden, sight, &self.shape, train)
            } else {
                layer.forward(&hidden, sight, &self.shape, train)
            }
        };
        self.layers.iter().fold(hidden.shallow_clone(), run)
    }

    fn embed(&self, input: &Input, rows: Option<&Rows>) -> Tensor {
        let length = input.ids.size()[1];
        let words = kernels::embedding(&self.words, &input.ids);
        let first = self.shape.first_position();
        let positions = match rows {
            Some(rows) if first > 0 => Tensor::embedding(&self.positions, &(&rows.positions + first), -1, false, false),
            Some(rows) => Tensor::embedding(&self.positions, &rows.positions, -1, false, false),
            None => self.positions.narrow(0, first, length),
        };
        match (&self.segments, input.segments.as_ref().filter(|_| self.shape.has_segments())) {
            (Some(table), Some(segments)) => words + Tensor::embedding(table, segments, -1, false, false) + positions,
            (Some(table), None) => words + (positions + table.select(0, 0)),
            (None, _) => words + positions,
        }
    }
}

impl Layer {
    fn new(named: &Named, prefix: &str, names: &LayerNames, epsilon: f64) -> Self {
        let linear = |name: &str| Linear::new(named, &format!("{prefix}.{name}"));
        let norm = |name: &str| Norm::new(named, &format!("{prefix}.{name}"), epsilon);
        Self {
            query: linear(names.query),
            key: linear(names.key),
            value: linear(names.value),
            attention_output: linear(names.attention_output),
            attention_norm: norm(names.attention_norm),
            intermediate: linear(names.intermediate),
            output: linear(names.output),
            output_norm: norm(names.output_norm),
        }
    }

    fn forward(&self, hidden: &Tensor, sight: &Sight, shape: &ModelShape, train: bool) -> Tensor {
        let attended = self.attention_output.forward(&self.attend(hidden, sight, shape, train), train);
        let hidden = self.attention_norm.forward(&(dropout(&attended, shape.dropout, train) + hidden));
        let wide = activate(&self.intermediate.forward(&hidden, train), shape.activation);
        let narrow = dropout(&self.output.forward(&wide, train), shape.dropout, train);
        self.output_norm.forward(&(narrow + hidden))
    }

    /// The same, of which nothing is kept but `hidden`.
    fn checkpointed(&self, hidden: &Tensor, sight: &Sight, shape: &ModelShape, train: bool) -> Tensor {
        let (layer, sight, shape) = (self.shallow_clone(), sight.shallow_clone(), shape.clone());
        kernels::checkpoint(hidden, &self.leaves(), move |hidden| layer.forward(hidden, &sight, &shape, train))
    }

    fn attend(&self, hidden: &Tensor, sight: &Sight, shape: &ModelShape, train: bool) -> Tensor {
        let size = hidden.size();
        // Three parameters, one product: the copy of the weights is small beside it.
        let weight = Tensor::cat(&[&self.query.weight, &self.key.weight, &self.value.weight], 0);
        let offset = Tensor::cat(&[&self.query.bias, &self.key.bias, &self.value.bias], 0);
        let mut heads = kernels::linear(hidden, &weight, Some(&offset));
        let parts = [&self.query, &self.key, &self.value];
        if parts.iter().any(|part| part.adapter.is_some()) {
            let products = heads.chunk(3, -1).into_iter().zip(parts);
            let adapted: Vec<Tensor> = products.map(|(product, part)| part.adapt(product, hidden, train)).collect();
            heads = Tensor::cat(&adapted, -1);
        }
        let heads = heads.view([size[0], size[1], 3, shape.heads, shape.hidden / shape.heads]);
        match sight {
            Sight::Padded(bias) if train && shape.attention_dropout > 0.0 => {
                kernels::attention(&heads, bias.as_ref(), shape.attention_dropout)
            }
            Sight::Padded(bias) => {
                let heads = heads.permute([2, 0, 3, 1, 4]);
                let (query, key, value) = (heads.get(0), heads.get(1), heads.get(2));
                attend(&query, &key, &value, bias.as_ref(), shape.attention_dropout, train)
            }
            Sight::Rows { rows, reach } => {
                let heads = heads.unbind(2);
                attend_rows([&heads[0], &heads[1], &heads[2]], rows, *reach, shape.attention_dropout, train)
            }
        }
    }

    fn leaves(&self) -> Vec<&Tensor> {
        let dense = [&self.query, &self.key, &self.value, &self.attention_output, &self.intermediate, &self.output];
        let norms = [&self.attention_norm, &self.output_norm];
        let of_dense = dense.into_iter().flat_map(Linear::leaves);
        of_dense.chain(norms.into_iter().flat_map(|norm| [&norm.weight, &norm.bias])).collect()
    }

    fn shallow_clone(&self) -> Self {
        Self {
            query: self.query.shallow_clone(),
            key: self.key.shallow_clone(),
            value: self.value.shallow_clone(),
            attention_output: self.attention_output.shallow_clone(),
            attention_norm: self.attention_norm.shallow_clone(),
            intermediate: self.intermediate.shallow_clone(),
            output: self.output.shallow_clone(),
            output_norm: self.output_norm.shallow_clone(),
        }
    }
}
