//! From the last hidden states to what is asked for, as in heads.rs.

use super::{BATCH, CHOICES, LENGTH, Network};
use crate::heads::Head;
use crate::names::HeadNames;
use crate::network::Model;
use config::{Activation, Architecture, Pooling};
use onnx::{Attribute, Dimension, Element, Value};

impl Network<'_> {
    /// Ends the graph.
    pub(super) fn outputs(&mut self, model: &Model, hidden: &Value) {
        let names = HeadNames::of(self.shape.architecture);
        let width = Dimension::Fixed(self.shape.hidden);
        let words = Dimension::Fixed(self.parameter(&self.words).size()[0]);
        let classes = Dimension::Fixed(model.head().labels().map_or(0, |labels| labels.len() as i64));
        let output = |this: &mut Self, name: &str, value: &Value, shape: &[Dimension]| {
            this.graph.output(name, value, Element::Float, shape);
        };
        match model.head() {
            // SpanBERT's second head is for pretraining alone.
            Head::MaskedLm | Head::SpanBoundary => {
                let logits = self.masked(hidden, &names);
                output(self, "logits", &logits, &[BATCH, LENGTH, words]);
            }
            Head::PreTraining => {
                let logits = self.masked(hidden, &names);
                output(self, "prediction_logits", &logits, &[BATCH, LENGTH, words]);
                let pooled = self.pooled(hidden, &names);
                let pair = self.linear(&pooled, names.pair.expect("checked: there is a head for pairs"));
                let name = if self.shape.architecture == Architecture::Albert {
                    "sop_logits"
                } else {
                    "seq_relationship_logits"
                };
                output(self, name, &pair, &[BATCH, Dimension::Fixed(2)]);
            }
            Head::ReplacedTokens { .. } => {
                let dense = self.linear(hidden, "discriminator_predictions.dense");
                let dense = self.activate(&dense, self.shape.activation);
                let logits = self.linear(&dense, "discriminator_predictions.dense_prediction");
                let logits = self.select(&logits, 2, 0);
                output(self, "logits", &logits, &[BATCH, LENGTH]);
            }
            Head::SequenceClassifier { pooling, .. } => {
                let logits = self.classes(hidden, *pooling, &names);
                output(self, "logits", &logits, &[BATCH, classes]);
            }
            Head::TokenClassifier { .. } => {
                let transformed = self.transformed_in_modern(hidden, &names);
                let logits = self.linear(&transformed, "classifier");
                output(self, "logits", &logits, &[BATCH, LENGTH, classes]);
            }
            Head::QuestionAnswering => {
                let modern = self.shape.architecture == Architecture::Modern;
                let transformed = self.transformed_in_modern(hidden, &names);
                let both = self.linear(&transformed, if modern { "classifier" } else { "qa_outputs" });
                for (name, place) in [("start_logits", 0), ("end_logits", 1)] {
                    let logits = self.select(&both, 2, place);
                    output(self, name, &logits, &[BATCH, LENGTH]);
                }
            }
            Head::MultipleChoice { pooling } => {
                let logits = self.choices(hidden, *pooling, &names);
                let size = self.choices.clone().expect("made for choices");
                let logits = self.graph.node("Reshape", &[&logits, &size], &[]);
                output(self, "logits", &logits, &[BATCH, CHOICES]);
            }
            Head::None => output(self, "last_hidden_state", hidden, &[BATCH, LENGTH, width]),
            Head::Embedder => {
                output(self, "last_hidden_state", hidden, &[BATCH, LENGTH, width]);
                let mean = self.mean(hidden);
                let axes = [("axes", Attribute::Integers(vec![-1])), ("keepdims", Attribute::Integer(1))];
                let norm = self.graph.node("ReduceL2", &[&mean], &axes);
                let least = self.graph.number(1e-12);
                let norm = self.graph.node("Max", &[&norm, &least], &[]);
                let vector = self.graph.node("Div", &[&mean, &norm], &[]);
                output(self, "sentence_embedding", &vector, &[BATCH, width]);
            }
        }
    }

    /// `[batch, length, words]`
    fn masked(&mut self, hidden: &Value, names: &HeadNames) -> Value {
        let transformed = self.transformed(hidden, names);
        let logits = self.vocabulary_product(&transformed);
        let bias = self.stored(names.bias);
        self.graph.node("Add", &[&logits, &bias], &[])
    }

    fn transformed(&mut self, hidden: &Value, names: &HeadNames) -> Value {
        let is_gelu = matches!(self.shape.architecture, Architecture::Electra | Architecture::Roberta);
        let dense = self.linear(hidden, names.dense);
        let dense = self.activate(&dense, if is_gelu { Activation::Gelu } else { self.shape.activation });
        self.norm(&dense, names.norm)
    }

    fn transformed_in_modern(&mut self, hidden: &Value, names: &HeadNames) -> Value {
        if self.shape.architecture == Architecture::Modern { self.transformed(hidden, names) } else { hidden.clone() }
    }

    /// `[batch, hidden]`: dense and tanh on the first token.
    fn pooled(&mut self, hidden: &Value, names: &HeadNames) -> Value {
        let first = self.select(hidden, 1, 0);
        let dense = self.linear(&first, names.pooler.expect("checked: there is a pooler"));
        self.graph.node("Tanh", &[&dense], &[])
    }

    fn classes(&mut self, hidden: &Value, pooling: Pooling, names: &HeadNames) -> Value {
        let architecture = self.shape.architecture;
        if matches!(architecture, Architecture::Bert | Architecture::Albert) && pooling == Pooling::Cls {
            let pooled = self.pooled(hidden, names);
            return self.linear(&pooled, "classifier");
        }
        let pooled = match pooling {
            Pooling::Cls => self.select(hidden, 1, 0),
            Pooling::Mean => self.mean(hidden),
        };
        match architecture {
            Architecture::Bert | Architecture::Albert => self.linear(&pooled, "classifier"),
            Architecture::Modern => {
                let transformed = self.transformed(&pooled, names);
                self.linear(&transformed, "classifier")
            }
            Architecture::Electra => {
                let dense = self.linear(&pooled, "classifier.dense");
                let dense = self.activate(&dense, Activation::Gelu);
                self.linear(&dense, "classifier.out_proj")
            }
            Architecture::Roberta => {
                let dense = self.linear(&pooled, "classifier.dense");
                let dense = self.graph.node("Tanh", &[&dense], &[]);
                self.linear(&dense, "classifier.out_proj")
            }
            Architecture::Distilbert => {
                let dense = self.linear(&pooled, "pre_classifier");
                let dense = self.activate(&dense, Activation::Relu);
                self.linear(&dense, "classifier")
            }
        }
    }

    /// `[rows, 1]`
    fn choices(&mut self, hidden: &Value, pooling: Pooling, names: &HeadNames) -> Value {
        let pooled = match self.shape.architecture {
            Architecture::Bert | Architecture::Albert | Architecture::Roberta => self.pooled(hidden, names),
            Architecture::Modern => {
                let pooled = match pooling {
                    Pooling::Cls => self.select(hidden, 1, 0),
                    Pooling::Mean => self.mean(hidden),
                };
                self.transformed(&pooled, names)
            }
            Architecture::Electra | Architecture::Distilbert => {
                let is_electra = self.shape.architecture == Architecture::Electra;
                let first = self.select(hidden, 1, 0);
                let dense = self.linear(&first, if is_electra { "sequence_summary.summary" } else { "pre_classifier" });
                self.activate(&dense, if is_electra { Activation::Gelu } else { Activation::Relu })
            }
        };
        self.linear(&pooled, "classifier")
    }

    /// The mean over real tokens. `[batch, hidden]`
    fn mean(&mut self, hidden: &Value) -> Value {
        let (last, along) = (self.graph.integers(&[2]), self.graph.integers(&[1]));
        let mask = self.graph.node("Unsqueeze", &[&self.mask, &last], &[]);
        let real = self.graph.node("Mul", &[hidden, &mask], &[]);
        let flat = [("keepdims", Attribute::Integer(0))];
        let sum = self.graph.node("ReduceSum", &[&real, &along], &flat);
        let count = self.graph.node("ReduceSum", &[&mask, &along], &flat);
        self.graph.node("Div", &[&sum, &count], &[])
    }
}
