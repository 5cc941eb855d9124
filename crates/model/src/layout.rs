//! Which parameters a model has: names, shapes, how they start. The one list that construction, loading and export share.

use crate::heads::Head;
use crate::heads::span_boundary::{self, Part};
use crate::names::{EncoderNames, GENERATOR, HeadNames};
use config::Pooling;
use config::{Architecture, ModelShape};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Drawn from the initializer.
    Drawn,
    /// All zeros: biases.
    Zeros,
    /// All ones: the scale of a LayerNorm.
    Ones,
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
}

/// Every parameter of the model, sorted by name.
pub(crate) fn layout(shape: &ModelShape, head: &Head) -> Vec<Entry> {
    let mut list = List::default();
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
    list.in_head = true;
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
        let prefix = names.prefix(layer);
        let part = |name: &str| format!("{prefix}.{name}");
        for projection in [names.layer.query, names.layer.key, names.layer.value] {
            list.linear(&part(projection), hidden, hidden);
        }
        list.linear(&part(names.layer.attention_output), hidden, hidden);
        list.norm(&part(names.layer.attention_norm), hidden, true);
        list.linear(&part(names.layer.intermediate), wide, hidden);
        list.linear(&part(names.layer.output), hidden, wide);
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
        let prefix = format!("model.layers.{layer}");
        if layer > 0 {
            // The embeddings were normalised a moment ago: layer 0 has no norm before its attention.
            list.norm(&format!("{prefix}.attn_norm"), hidden, false);
        }
        list.matrix(&format!("{prefix}.attn.Wqkv.weight"), 3 * hidden, hidden);
        list.matrix(&format!("{prefix}.attn.Wo.weight"), hidden, hidden);
        list.norm(&format!("{prefix}.mlp_norm"), hidden, false);
        list.matrix(&format!("{prefix}.mlp.Wi.weight"), 2 * shape.intermediate, hidden);
        list.matrix(&format!("{prefix}.mlp.Wo.weight"), hidden, shape.intermediate);
    }
    list.in_layers = false;
    list.norm("model.final_norm", hidden, false);
    list.in_head = true;
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
    if let Some(labels) = head.labels() {
        list.linear("classifier", labels.len() as i64, hidden);
    }
}

impl Head {
    /// BERT's dense and tanh on the first token. Models that do not use it do not have it, as in Hugging Face, whose
    /// RoBERTa classifies with a head of its own.
    fn has_pooler(&self, architecture: Architecture) -> bool {
        match self {
            Self::PreTraining | Self::None => true,
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
}

impl List {
    fn push(&mut self, name: String, size: Vec<i64>, start: Start) {
        let hidden_matrix = self.in_layers && size.len() == 2;
        self.entries.push(Entry { name, size, start, hidden_matrix, head: self.in_head });
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
