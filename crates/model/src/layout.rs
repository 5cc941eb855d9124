//! Which parameters a model has: names, shapes, how they start. The one list that construction, loading and export share.

use crate::heads::Head;
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
    match shape.architecture {
        Architecture::Bert => bert(shape, head, &mut list),
        Architecture::Modern => modern(shape, head, &mut list),
    }
    list.entries.sort_by(|a, b| a.name.cmp(&b.name));
    list.entries
}

fn bert(shape: &ModelShape, head: &Head, list: &mut List) {
    let (hidden, wide) = (shape.hidden, shape.intermediate);
    list.matrix("bert.embeddings.word_embeddings.weight", shape.vocabulary, hidden);
    list.matrix("bert.embeddings.position_embeddings.weight", shape.max_positions, hidden);
    list.matrix("bert.embeddings.token_type_embeddings.weight", shape.segment_types, hidden);
    list.norm("bert.embeddings.LayerNorm", hidden, true);
    list.in_layers = true;
    for layer in 0..shape.layers {
        let prefix = format!("bert.encoder.layer.{layer}");
        for projection in ["query", "key", "value"] {
            list.linear(&format!("{prefix}.attention.self.{projection}"), hidden, hidden);
        }
        list.linear(&format!("{prefix}.attention.output.dense"), hidden, hidden);
        list.norm(&format!("{prefix}.attention.output.LayerNorm"), hidden, true);
        list.linear(&format!("{prefix}.intermediate.dense"), wide, hidden);
        list.linear(&format!("{prefix}.output.dense"), hidden, wide);
        list.norm(&format!("{prefix}.output.LayerNorm"), hidden, true);
    }
    list.in_layers = false;
    list.in_head = true;
    if head.has_bert_pooler() {
        list.linear("bert.pooler.dense", hidden, hidden);
    }
    if head.predicts_masked() {
        list.linear("cls.predictions.transform.dense", hidden, hidden);
        list.norm("cls.predictions.transform.LayerNorm", hidden, true);
        list.zeros("cls.predictions.bias", shape.vocabulary);
    }
    if *head == Head::PreTraining {
        list.linear("cls.seq_relationship", 2, hidden);
    }
    if *head == Head::QuestionAnswering {
        list.linear("qa_outputs", 2, hidden);
    }
    if let Some(labels) = head.labels() {
        list.linear("classifier", labels.len() as i64, hidden);
    }
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
    if *head == Head::QuestionAnswering {
        list.linear("classifier", 2, hidden);
    }
    if let Some(labels) = head.labels() {
        list.linear("classifier", labels.len() as i64, hidden);
    }
}

impl Head {
    /// BERT's dense and tanh on the first token. Models that do not use it do not have it, as in Hugging Face.
    fn has_bert_pooler(&self) -> bool {
        matches!(self, Self::PreTraining | Self::None | Self::SequenceClassifier { pooling: Pooling::Cls, .. })
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

    fn norm(&mut self, prefix: &str, size: i64, bias: bool) {
        self.push(format!("{prefix}.weight"), vec![size], Start::Ones);
        if bias {
            self.zeros(&format!("{prefix}.bias"), size);
        }
    }
}
