//! The model: an encoder, its heads, and the list of parameters that both share.

use crate::bert::Bert;
use crate::error::ModelError;
use crate::heads::span_boundary::Boundaries;
use crate::heads::{Head, Heads, mean};
use crate::initial::initial;
use crate::layout::{Entry, layout, top};
use crate::load::{self, LoadReport, Missing};
use crate::lora::{self, Adapter};
use crate::modern::Modern;
use crate::names::{self, EncoderNames, GENERATOR};
use crate::rows::Rows;
use config::{Architecture, LoraConfig, ModelShape, Pooling};
use std::collections::BTreeMap;
use tch::{Device, Tensor};

/// One micro-batch.
#[derive(Debug)]
pub struct Input {
    /// `[batch, length]`, int64.
    pub ids: Tensor,
    /// `[batch, length]`, int64; None: all in segment 0. `modern` has no segments and does not read it.
    pub segments: Option<Tensor>,
    /// `[batch, length]`, bool, true = a real token; None: there is no padding, which is faster.
    pub mask: Option<Tensor>,
}

/// How a network is run; what it is a function of is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Execution {
    /// Padding is taken out before the first layer and put back behind the last one, where hidden states are 0.
    pub unpadded: bool,
    /// In training only what goes into each layer is kept; the backward pass runs the layers again.
    pub activation_checkpointing: bool,
    /// On a CUDA device the layers' launches are recorded once for each shape of a micro-batch in training, and replayed
    /// from then on. Then each forward pass must be followed by its one backward pass. Not without padding, nor where layers
    /// are run again.
    pub cuda_graphs: bool,
}

/// One tensor of the weights.
#[derive(Debug)]
pub struct Parameter {
    /// Hugging Face's name.
    pub name: String,
    /// The leaf itself (shared with the model, not a copy).
    pub tensor: Tensor,
    /// Whether weight decay applies: not to biases and LayerNorm.
    pub decay: bool,
    /// A weight matrix inside an encoder layer: what Muon orthogonalises. Embeddings and heads are not.
    pub hidden_matrix: bool,
    /// How far below the heads it is: 0 for the heads, 1 for the last layer, and so on down to the embeddings.
    pub below_head: i64,
    /// Whether it is learned: not if it was frozen ([`Model::freeze`]), or lies beside adapters.
    pub trained: bool,
    /// One of the two matrices of an adapter: no part of [`Model::merged`].
    pub adapter: bool,
    /// It has an adapter: in [`Model::merged`] it is another.
    pub adapted: bool,
}

/// An encoder with a head on one device.
pub struct Model {
    shape: ModelShape,
    head: Head,
    entries: Vec<Entry>,
    /// Alongside `entries`.
    tensors: Vec<Tensor>,
    encoder: Encoder,
    /// ELECTRA's, beside the discriminator.
    pub(crate) generator: Option<Bert>,
    pub(crate) heads: Heads,
    device: Device,
    pub(crate) execution: Execution,
    /// The levels below this one are frozen.
    frozen_levels: i64,
    /// What its adapters are like.
    lora: Option<LoraConfig>,
}

enum Encoder {
    Bert(Bert),
    Modern(Modern),
}

/// Tensors by name, while the layers take theirs.
pub(crate) struct Named<'a>(BTreeMap<&'a str, &'a Tensor>, Option<&'a LoraConfig>);

impl Named<'_> {
    /// A handle on the named leaf.
    pub fn get(&self, name: &str) -> Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("the layout lacks `{name}`")).shallow_clone()
    }

    /// What lies beside the matrix `PREFIX.weight`.
    pub fn adapter(&self, prefix: &str) -> Option<Adapter> {
        let down = self.0.get(lora::down(prefix).as_str())?;
        Some(Adapter::new(down.shallow_clone(), self.get(&lora::up(prefix)), self.1?))
    }
}

impl Model {
    /// A model drawn from `seed`: equal for equal (shape, head, seed), and the encoder does not depend on the head.
    pub fn new(shape: &ModelShape, head: Head, seed: u64, device: Device) -> Result<Self, ModelError> {
        Self::adapted(shape, head, None, seed, device)
    }

    /// The same with adapters, of which the first matrix is drawn from the seed too, and the second one is 0. Only they and
    /// the heads are trained then.
    pub fn adapted(
        shape: &ModelShape,
        head: Head,
        lora: Option<&LoraConfig>,
        seed: u64,
        device: Device,
    ) -> Result<Self, ModelError> {
        check(shape, &head)?;
        let entries = layout(shape, &head, lora);
        let trained = |entry: &Entry| lora.is_none() || entry.adapter || entry.head;
        let draw = |entry: &Entry| initial(entry, shape, seed, device).set_requires_grad(trained(entry));
        let tensors = entries.iter().map(draw).collect();
        Ok(Self::of(shape, head, entries, tensors, lora.cloned(), device))
    }

    /// Another model with the same weights, in memory of its own but for what is frozen, which both share. It is not
    /// there to be trained: nothing asks for its gradients.
    pub fn duplicate(&self) -> Self {
        let own = |(entry, tensor): (&Entry, &Tensor)| {
            if self.trains(entry) { tensor.detach().copy() } else { tensor.shallow_clone() }
        };
        let tensors = self.entries.iter().zip(&self.tensors).map(own).collect();
        let mut other =
            Self::of(&self.shape, self.head.clone(), self.entries.clone(), tensors, self.lora.clone(), self.device);
        other.frozen_levels = self.frozen_levels;
        other.set_execution(self.execution);
        other
    }

    /// Freezes the embeddings and the first `layers` layers for good: they have no gradients, so that the backward pass
    /// ends above them.
    pub fn freeze(&mut self, layers: i64) {
        self.frozen_levels = layers + 1;
        for (entry, tensor) in self.entries.iter().zip(&self.tensors) {
            if !self.trains(entry) {
                let _ = tensor.set_requires_grad(false);
            }
        }
    }

    fn trains(&self, entry: &Entry) -> bool {
        let beside_adapters = self.lora.is_some() && !entry.adapter && !entry.head;
        entry.level >= self.frozen_levels && !beside_adapters
    }

    /// Hugging Face's model, sorted by name: the weights without adapters, and those that have one with what it adds. What
    /// is not changed shares storage with the model. Cut off from the graph.
    pub fn merged(&self) -> Vec<(String, Tensor)> {
        let named: BTreeMap<&str, &Tensor> =
            self.entries.iter().map(|it| it.name.as_str()).zip(&self.tensors).collect();
        let scale = self.lora.as_ref().map_or(0.0, LoraConfig::scale);
        let merge = |(entry, tensor): (&Entry, &Tensor)| {
            let adapter =
                self.adapter_of(entry).and_then(|(down, up)| named.get(down.as_str()).zip(named.get(up.as_str())));
            let merged = adapter.map(|(down, up)| lora::merged(tensor, down, up, scale));
            (entry.name.clone(), merged.unwrap_or_else(|| tensor.detach()))
        };
        self.entries.iter().zip(&self.tensors).filter(|(entry, _)| !entry.adapter).map(merge).collect()
    }

    /// The names of the two matrices beside this one.
    fn adapter_of(&self, entry: &Entry) -> Option<(String, String)> {
        let prefix = entry.name.strip_suffix(".weight").filter(|_| self.lora.is_some() && !entry.adapter)?;
        let (down, up) = (lora::down(prefix), lora::up(prefix));
        self.entries.binary_search_by(|it| it.name.cmp(&down)).is_ok().then_some((down, up))
    }

    /// How it is run from now on.
    pub fn set_execution(&mut self, execution: Execution) {
        self.execution = execution;
    }

    /// How many CUDA graphs its encoders' layers have been recorded as, one for each shape of a micro-batch
    /// ([`Execution::cuda_graphs`]).
    pub fn recordings(&self) -> usize {
        let encoder = match &self.encoder {
            Encoder::Bert(encoder) => encoder.recordings(),
            Encoder::Modern(encoder) => encoder.recordings(),
        };
        encoder + self.generator.as_ref().map_or(0, Bert::recordings)
    }

    /// `tensors` go with `entries`, which are the layout of (shape, head).
    fn of(
        shape: &ModelShape,
        head: Head,
        entries: Vec<Entry>,
        tensors: Vec<Tensor>,
        lora: Option<LoraConfig>,
        device: Device,
    ) -> Self {
        let by_name = entries.iter().map(|entry| entry.name.as_str()).zip(&tensors).collect();
        let named = Named(by_name, lora.as_ref());
        let encoder = match EncoderNames::of(shape.architecture) {
            Some(names) => Encoder::Bert(Bert::new(shape, names, &named)),
            None => Encoder::Modern(Modern::new(shape, &named, device)),
        };
        let generator = match &head {
            Head::ReplacedTokens { generator } => generator.as_ref(),
            _ => None,
        };
        let generator = generator.map(|generator| Bert::new(&generator.beside(shape), &GENERATOR, &named));
        let embeddings = named.get(&names::words(shape.architecture));
        let of_heads = entries.iter().filter(|entry| entry.head).map(|entry| entry.name.clone());
        let of_heads = of_heads.map(|name| (name.clone(), named.get(&name))).collect();
        let heads = Heads::new(shape, of_heads, embeddings);
        Self {
            shape: shape.clone(),
            head,
            entries,
            tensors,
            encoder,
            generator,
            heads,
            device,
            execution: Execution::default(),
            frozen_levels: 0,
            lora,
        }
    }

    /// Every number of the encoder.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// What it predicts.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The weights, sorted by name; a tied weight is there once, under the embedding's name.
    pub fn parameters(&self) -> Vec<Parameter> {
        let top = top(&self.shape);
        self.entries
            .iter()
            .zip(&self.tensors)
            .map(|(entry, tensor)| Parameter {
                name: entry.name.clone(),
                tensor: tensor.shallow_clone(),
                // Exactly the matrices: biases and LayerNorm are vectors.
                decay: entry.size.len() > 1,
                hidden_matrix: entry.hidden_matrix,
                below_head: top - entry.level,
                trained: self.trains(entry),
                adapter: entry.adapter,
                adapted: self.adapter_of(entry).is_some(),
            })
            .collect()
    }

    /// The last hidden states. `[batch, length, hidden]`
    ///
    /// # Panics
    /// If the sequence is longer than the model's positions, or an id is not in the vocabulary; without padding also if a
    /// mask has real tokens behind padding.
    pub fn encode(&self, input: &Input, train: bool) -> Tensor {
        let (length, most) = (input.ids.size()[1], self.shape.max_positions);
        assert!(length <= most, "a sequence of {length} tokens is longer than the model's {most} positions");
        if !self.execution.unpadded {
            return self.encode_as(input, None, train);
        }
        let rows = Rows::of(input);
        let tokens = Input {
            ids: rows.without_padding(&input.ids),
            segments: input.segments.as_ref().map(|segments| rows.without_padding(segments)),
            mask: None,
        };
        rows.with_padding(&self.encode_as(&tokens, Some(&rows), train))
    }

    fn encode_as(&self, input: &Input, rows: Option<&Rows>, train: bool) -> Tensor {
        match &self.encoder {
            Encoder::Bert(encoder) => encoder.encode(input, rows, self.execution, train),
            Encoder::Modern(encoder) => encoder.encode(input, rows, self.execution, train),
        }
    }

    /// The cross-entropy of the masked words in nats, summed (a scalar), and how many were right (int64 scalar; a label
    /// whose logit ties with the greatest counts). `positions` and `labels`: `[predicted]`, int64, positions flat in
    /// batch × length.
    pub fn mlm_loss_sum(&self, hidden: &Tensor, positions: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
        self.heads.mlm_loss_sum(hidden, positions, labels)
    }

    /// The cross-entropy of words of spans in nats, summed, predicted from the tokens beside the spans, and how many were
    /// right (int64 scalar). `labels`: `[words]`, int64.
    ///
    /// # Panics
    /// If the head is not [`Head::SpanBoundary`].
    pub fn span_boundary_loss_sum(&self, hidden: &Tensor, at: &Boundaries, labels: &Tensor) -> (Tensor, Tensor) {
        self.heads.span_boundary_loss_sum(hidden, at, labels)
    }

    /// Scores of every word at the given flat positions. `[predicted, vocabulary]`
    pub fn mlm_logits(&self, hidden: &Tensor, positions: &Tensor) -> Tensor {
        self.heads.mlm_logits(hidden, positions)
    }

    /// Scores of some words alone at the given flat positions. `[positions, words]`; `words`: `[words]`, int64.
    pub fn word_logits(&self, hidden: &Tensor, positions: &Tensor, words: &Tensor) -> Tensor {
        self.heads.word_logits(hidden, positions, words)
    }

    /// Scores of "follows" and "random", or for `albert` of "in order" and "swapped". `[batch, 2]`
    pub fn nsp_logits(&self, hidden: &Tensor) -> Tensor {
        self.heads.nsp_logits(hidden)
    }

    /// Scores of the classes. `[batch, classes]`. `mask` as in [`Input`], for mean pooling.
    pub fn class_logits(&self, hidden: &Tensor, mask: Option<&Tensor>, train: bool) -> Tensor {
        let pooling = match &self.head {
            Head::SequenceClassifier { pooling, .. } => *pooling,
            _ => Pooling::Cls,
        };
        self.heads.class_logits(hidden, pooling, mask, train)
    }

    /// Scores of the tags. `[batch, length, tags]`
    pub fn token_logits(&self, hidden: &Tensor, train: bool) -> Tensor {
        self.heads.token_logits(hidden, train)
    }

    /// Scores of an answer's first and last token. `[batch, length, 2]`
    pub fn answer_logits(&self, hidden: &Tensor, train: bool) -> Tensor {
        self.heads.answer_logits(hidden, train)
    }

    /// A score for each sequence, which is a text with one of its choices. `[batch]`. `mask` as in [`Input`], for mean
    /// pooling.
    ///
    /// # Panics
    /// If the head is not [`Head::MultipleChoice`].
    pub fn choice_logits(&self, hidden: &Tensor, mask: Option<&Tensor>, train: bool) -> Tensor {
        let Head::MultipleChoice { pooling } = &self.head else { panic!("{:?} scores no choices", self.head) };
        self.heads.choice_logits(hidden, *pooling, mask, train)
    }

    /// Vectors of length 1 for texts: the mean over real tokens. `[batch, hidden]`. `mask` as in [`Input`].
    pub fn embeddings(&self, hidden: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let pooled = mean(hidden, mask);
        let norm = pooled.norm_scalaropt_dim(2.0, [-1i64], true);
        // A vector of nothing stays one.
        pooled / norm.clamp_min(1e-12)
    }

    /// Copies weights in Hugging Face's names into the model, in place. Fails before anything is changed.
    pub fn load_parameters(
        &mut self,
        tensors: &[(String, Tensor)],
        missing: Missing,
    ) -> Result<LoadReport, ModelError> {
        load::load(&self.shape, &self.entries, &self.tensors, tensors, missing)
    }
}

fn check(shape: &ModelShape, head: &Head) -> Result<(), ModelError> {
    let refuse = |text: String| Err(ModelError::Unsupported(text));
    if shape.heads <= 0 || shape.hidden % shape.heads != 0 {
        return refuse(format!("{} heads do not divide hidden = {}", shape.heads, shape.hidden));
    }
    match (shape.architecture, head) {
        (Architecture::Bert | Architecture::Albert | Architecture::Electra | Architecture::Roberta, _)
            if shape.segment_types < 1 =>
        {
            refuse("this architecture needs at least one segment type".to_owned())
        }
        (Architecture::Modern, _) if (shape.hidden / shape.heads) % 2 != 0 => {
            refuse(format!("rotary positions need an even head width, not {}", shape.hidden / shape.heads))
        }
        (Architecture::Modern, Head::PreTraining) => {
            refuse("the modern encoder has no next-sentence head: use objective.kind = \"mlm\"".to_owned())
        }
        (Architecture::Electra | Architecture::Distilbert | Architecture::Roberta, Head::PreTraining) => {
            refuse("this architecture has no head for pairs: use objective.kind = \"mlm\"".to_owned())
        }
        (Architecture::Distilbert, _) if shape.layer_norm_epsilon != 1e-12 => refuse(
            "the LayerNorm of `distilbert` has an epsilon of 1e-12: leave out model.layer_norm_epsilon".to_owned(),
        ),
        (Architecture::Electra, Head::ReplacedTokens { generator: Some(it) })
            if it.heads <= 0 || it.layers <= 0 || it.hidden <= 0 || it.hidden % it.heads != 0 =>
        {
            refuse(format!("a generator of {} layers × {} with {} heads", it.layers, it.hidden, it.heads))
        }
        (Architecture::Electra, Head::ReplacedTokens { .. }) => Ok(()),
        (_, Head::ReplacedTokens { .. }) => {
            refuse("only `electra` tells replaced tokens: set model.architecture = \"electra\"".to_owned())
        }
        (architecture, Head::MultipleChoice { pooling: Pooling::Mean }) if architecture != Architecture::Modern => {
            refuse(
                "multiple choice with the mean over tokens is for `modern` alone: leave out objective.pooling"
                    .to_owned(),
            )
        }
        _ if head.labels().is_some_and(<[String]>::is_empty) => refuse("a classifier needs labels".to_owned()),
        _ => Ok(()),
    }
}
