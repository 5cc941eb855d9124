//! Which parameters a model has: names, shapes, how they start. The one list that construction, loading and export share.

use crate::heads::Head;
use crate::heads::span_boundary::{self, Part};
use crate::lora;
use crate::names::{EncoderNames, GENERATOR, HeadNames};
use config::{Architecture, LoraConfig, LoraTarget, ModelShape, Pooling};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Drawn from the initializer.
    Drawn,
    /// All zeros: biases.
    Zeros,
    /// All ones: the scale of a LayerNorm.
    Ones,
    /// Uniform in ± the root of 1 / inputs (He et al. 2015 with a slope of √5, as in PEFT): the first matrix of an adapter.
    Uniform,
}

/// One parameter.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Hugging Face's name.
    pub name: String,
    /// Its shape.
    pub size: Vec<i64>,
    /// How it starts.
    pub start: Start,
    /// A weight matrix inside an encoder layer.
    pub hidden_matrix: bool,
    /// Part of a head: may be absent in weights that a fine-tuning starts from.
    pub head: bool,
    /// One of the two matrices of an adapter, which are no part of Hugging Face's model.
    pub adapter: bool,
    /// 0 for the embeddings, 1 for the first layer, and so on; [`top`] for what comes after the last one.
    pub level: i64,
}

/// The level of the heads, and of a norm behind the last layer.
pub(crate) fn top(shape: &ModelShape) -> i64 {
    EncoderNames::of(shape.architecture).map_or(shape.layers, |names| names.distinct_layers(shape)) + 1
}

/// Every parameter of the model, sorted by name.
pub(crate) fn layout(shape: &ModelShape, head: &Head, lora: Option<&LoraConfig>) -> Vec<Entry> {
    let mut list = List { lora: lora.cloned(), ..List::default() };
    match EncoderNames::of(shape.architecture) {
        Some(names) => post_norm(shape, names, head, &mut list),
        None => modern(shape, head, &mut list),
    }
    list.entries.sort_by(|a, b| a.name.cmp(&b.name));
    list.entries
}

fn post_norm(shape: &ModelShape, names: &EncoderNames, head: &Head, list: &mut List) {
    let (hidden, narrow) = (shape.hidden, shape.embedding_width());
    let table = |name: &str| format!("{}.{name}.weight", names.embeddings);
    list.matrix(&table("word_embeddings"), shape.vocabulary, narrow);
    list.matrix(&table("position_embeddings"), shape.first_position() + shape.max_positions, narrow);
    if shape.segment_types > 0 {
        list.matrix(&table("token_type_embeddings"), shape.segment_types, narrow);
    }
    list.norm(&format!("{}.LayerNorm", names.embeddings), narrow, true);
    layers(shape, names, list);
    list.begin_head(top(shape));
    let heads = HeadNames::of(shape.architecture);
    if let Some(pooler) = heads.pooler.filter(|_| head.has_pooler(shape.architecture)) {
        list.linear(pooler, hidden, hidden);
    }
    if head.predicts_masked() {
        let below = if let Head::ReplacedTokens { generator: Some(generator) } = head {
            let generator = generator.beside(shape);
            layers(&generator, &GENERATOR, list);
            generator.hidden
        } else {
            hidden
        };
        // Only ALBERT and ELECTRA have narrow embeddings, and both go back to their width before the vocabulary.
        list.linear(heads.dense, narrow, below);
        list.norm(heads.norm, narrow, true);
        list.zeros(heads.bias, shape.vocabulary);
    }
    match head {
        Head::PreTraining => list.linear(heads.pair.expect("checked: there are pairs"), 2, hidden),
        Head::ReplacedTokens { .. } => {
            list.linear("discriminator_predictions.dense", hidden, hidden);
            list.linear("discriminator_predictions.dense_prediction", 1, hidden);
        }
        _ => {}
    }
    if *head == Head::SpanBoundary {
        list.span_boundary(shape);
    }
    if *head == Head::QuestionAnswering {
        list.linear("qa_outputs", 2, hidden);
    }
    if matches!(head, Head::MultipleChoice { .. }) {
        match shape.architecture {
            Architecture::Electra => list.linear("sequence_summary.summary", hidden, hidden),
            Architecture::Distilbert => list.linear("pre_classifier", hidden, hidden),
            _ => {}
        }
        list.linear("classifier", 1, hidden);
    }
    let Some(labels) = head.labels() else { return };
    match (shape.architecture, head) {
        (Architecture::Electra | Architecture::Roberta, Head::SequenceClassifier { .. }) => {
            list.linear("classifier.dense", hidden, hidden);
            list.linear("classifier.out_proj", labels.len() as i64, hidden);
        }
        (Architecture::Distilbert, Head::SequenceClassifier { .. }) => {
            list.linear("pre_classifier", hidden, hidden);
            list.linear("classifier", labels.len() as i64, hidden);
        }
        _ => list.linear("classifier", labels.len() as i64, hidden),
    }
}

/// What comes between the embeddings and the heads.
fn layers(shape: &ModelShape, names: &EncoderNames, list: &mut List) {
    let (hidden, wide) = (shape.hidden, shape.intermediate);
    if names.projects(shape) {
        list.linear(names.projection, hidden, shape.embedding_width());
    }
    list.in_layers = true;
    for layer in 0..names.distinct_layers(shape) {
        list.begin_layer(layer);
        let prefix = names.prefix(layer);
        let part = |name: &str| format!("{prefix}.{name}");
        for (projection, target) in [
            (names.layer.query, LoraTarget::Query),
            (names.layer.key, LoraTarget::Key),
            (names.layer.value, LoraTarget::Value),
            (names.layer.attention_output, LoraTarget::AttentionOutput),
        ] {
            list.linear(&part(projection), hidden, hidden);
            list.adapter(&part(projection), target, hidden, hidden);
        }
        list.norm(&part(names.layer.attention_norm), hidden, true);
        list.linear(&part(names.layer.intermediate), wide, hidden);
        list.adapter(&part(names.layer.intermediate), LoraTarget::FeedForward, wide, hidden);
        list.linear(&part(names.layer.output), hidden, wide);
        list.adapter(&part(names.layer.output), LoraTarget::FeedForward, hidden, wide);
        list.norm(&part(names.layer.output_norm), hidden, true);
    }
    list.in_layers = false;
}

fn modern(shape: &ModelShape, head: &Head, list: &mut List) {
    let hidden = shape.hidden;
    list.matrix("model.embeddings.tok_embeddings.weight", shape.vocabulary, hidden);
    list.norm("model.embeddings.norm", hidden, false);
    list.in_layers = true;
    for layer in 0..shape.layers {
        list.begin_layer(layer);
        let prefix = format!("model.layers.{layer}");
        if layer > 0 {
            // The embeddings were normalised a moment ago: layer 0 has no norm before its attention.
            list.norm(&format!("{prefix}.attn_norm"), hidden, false);
        }
        list.norm(&format!("{prefix}.mlp_norm"), hidden, false);
        for (name, target, outputs, inputs) in [
            // Of queries, keys and values, which are named together or not at all.
            ("attn.Wqkv", LoraTarget::Query, 3 * hidden, hidden),
            ("attn.Wo", LoraTarget::AttentionOutput, hidden, hidden),
            ("mlp.Wi", LoraTarget::FeedForward, 2 * shape.intermediate, hidden),
            ("mlp.Wo", LoraTarget::FeedForward, hidden, shape.intermediate),
        ] {
            let name = format!("{prefix}.{name}");
            list.matrix(&format!("{name}.weight"), outputs, inputs);
            list.adapter(&name, target, outputs, inputs);
        }
    }
    list.in_layers = false;
    list.level = top(shape);
    list.norm("model.final_norm", hidden, false);
    list.begin_head(top(shape));
    if !matches!(head, Head::None | Head::Embedder) {
        list.matrix("head.dense.weight", hidden, hidden);
        list.norm("head.norm", hidden, false);
    }
    if head.predicts_masked() {
        list.zeros("decoder.bias", shape.vocabulary);
    }
    if *head == Head::SpanBoundary {
        list.span_boundary(shape);
    }
    if *head == Head::QuestionAnswering {
        list.linear("classifier", 2, hidden);
    }
    if matches!(head, Head::MultipleChoice { .. }) {
        list.linear("classifier", 1, hidden);
    }
    if let Some(labels) = head.labels() {
        list.linear("classifier", labels.len() as i64, hidden);
    }
}

impl Head {
    /// BERT's dense and tanh on the first token. Models that do not use it do not have it, as in Hugging Face, whose
    /// RoBERTa classifies with a head of its own, but has it for multiple choice.
    fn has_pooler(&self, architecture: Architecture) -> bool {
        match self {
            Self::PreTraining | Self::None | Self::MultipleChoice { .. } => true,
            Self::SequenceClassifier { pooling, .. } => {
                *pooling == Pooling::Cls && architecture != Architecture::Roberta
            }
            _ => false,
        }
    }
}

/// The list under construction.
#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    in_layers: bool,
    in_head: bool,
    level: i64,
    lora: Option<LoraConfig>,
}

impl List {
    fn push(&mut self, name: String, size: Vec<i64>, start: Start) {
        let hidden_matrix = self.in_layers && size.len() == 2;
        self.entries.push(Entry {
            name,
            size,
            start,
            hidden_matrix,
            head: self.in_head,
            adapter: false,
            level: self.level,
        });
    }

    /// Beside the matrix of that name, if it is to have one.
    fn adapter(&mut self, prefix: &str, target: LoraTarget, outputs: i64, inputs: i64) {
        let Some(lora) = self.lora.as_ref().filter(|lora| lora.adapts(target) && !self.in_head) else { return };
        let rank = lora.rank;
        for (name, size, start) in [
            (lora::down(prefix), vec![rank, inputs], Start::Uniform),
            (lora::up(prefix), vec![outputs, rank], Start::Zeros),
        ] {
            self.push(name, size, start);
            let entry = self.entries.last_mut().expect("just pushed");
            (entry.adapter, entry.hidden_matrix) = (true, false);
        }
    }

    fn begin_head(&mut self, level: i64) {
        (self.in_head, self.level) = (true, level);
    }

    /// The layers of a generator beside a discriminator stay at the level of its heads.
    fn begin_layer(&mut self, layer: i64) {
        if !self.in_head {
            self.level = layer + 1;
        }
    }

    fn matrix(&mut self, name: &str, rows: i64, columns: i64) {
        self.push(name.to_owned(), vec![rows, columns], Start::Drawn);
    }

    fn zeros(&mut self, name: &str, size: i64) {
        self.push(name.to_owned(), vec![size], Start::Zeros);
    }

    fn linear(&mut self, prefix: &str, outputs: i64, inputs: i64) {
        self.matrix(&format!("{prefix}.weight"), outputs, inputs);
        self.zeros(&format!("{prefix}.bias"), outputs);
    }

    fn span_boundary(&mut self, shape: &ModelShape) {
        for part in span_boundary::parts(shape) {
            match part {
                Part::Table(name, rows, columns) => self.matrix(name, rows, columns),
                Part::Dense(name, outputs, inputs) => self.linear(name, outputs, inputs),
                Part::Norm(name, width) => self.norm(name, width, true),
                Part::Bias(name, length) => self.zeros(name, length),
            }
        }
    }

    fn norm(&mut self, prefix: &str, size: i64, bias: bool) {
        self.push(format!("{prefix}.weight"), vec![size], Start::Ones);
        if bias {
            self.zeros(&format!("{prefix}.bias"), size);
        }
    }
}
