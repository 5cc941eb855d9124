//! What sits on the encoder: masked words, next sentence, a class for a text, a tag for each token.

pub(crate) mod span_boundary;

use crate::attention::activate;
use crate::names::HeadNames;
use config::{Activation, Architecture, GeneratorShape, ModelShape, Pooling};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// What the model predicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// The masked words.
    MaskedLm,
    /// The masked words, and a label for the pair of segments: for `bert` whether the second follows the first, for
    /// `albert` whether they are in their order.
    PreTraining,
    /// A class for a text.
    SequenceClassifier {
        /// The classes in the order of the logits.
        labels: Vec<String>,
        /// How a text becomes one vector.
        pooling: Pooling,
    },
    /// A tag for each token.
    TokenClassifier {
        /// The tags in the order of the logits.
        labels: Vec<String>,
    },
    /// The encoder alone.
    None,
    /// For each token whether it was replaced (`electra` only).
    ReplacedTokens {
        /// The generator that replaces tokens, beside the model; None: the discriminator alone.
        generator: Option<GeneratorShape>,
    },
    /// For each token, how likely an answer begins and ends there.
    QuestionAnswering,
    /// A vector for a text: the mean over its tokens. Nothing of the head is trained, and there is no pooler.
    Embedder,
    /// The masked words, and those of spans once more from what stands beside the span (SpanBERT).
    SpanBoundary,
    /// A score for a choice: of those of one text the right one is to have the highest.
    MultipleChoice {
        /// How a sequence becomes one vector; only `modern` knows the mean.
        pooling: Pooling,
    },
}

impl Head {
    /// The labels of a classifier.
    pub fn labels(&self) -> Option<&[String]> {
        match self {
            Self::SequenceClassifier { labels, .. } | Self::TokenClassifier { labels } => Some(labels),
            _ => None,
        }
    }

    /// Whether there is a head over the vocabulary.
    pub fn predicts_masked(&self) -> bool {
        matches!(
            self,
            Self::MaskedLm | Self::PreTraining | Self::ReplacedTokens { generator: Some(_) } | Self::SpanBoundary
        )
    }
}

impl Head {
    /// Whether a parameter serves pretraining alone and has no name of Hugging Face's, so that it is kept beside the model:
    /// what is the generator's and not the discriminator's, and the head over spans.
    pub fn is_beside(&self, name: &str) -> bool {
        let beside = match self {
            Self::ReplacedTokens { generator: Some(_) } => {
                &["generator.", "generator_predictions.", "generator_lm_head."][..]
            }
            Self::SpanBoundary => &[span_boundary::PREFIX],
            _ => &[],
        };
        beside.iter().any(|it| name.starts_with(it))
    }
}

/// The dense layers of the heads, by parameter name.
pub(crate) struct Heads {
    architecture: Architecture,
    names: HeadNames,
    activation: Activation,
    epsilon: f64,
    dropout: f64,
    /// The head's parameters that this model has.
    parameters: BTreeMap<String, Tensor>,
    /// The table that the output layer shares. `[vocabulary, hidden]`
    embeddings: Tensor,
}

impl Heads {
    pub fn new(shape: &ModelShape, parameters: BTreeMap<String, Tensor>, embeddings: Tensor) -> Self {
        Self {
            architecture: shape.architecture,
            names: HeadNames::of(shape.architecture),
            activation: shape.activation,
            epsilon: shape.layer_norm_epsilon,
            dropout: shape.dropout,
            parameters,
            embeddings,
        }
    }

    fn parameter(&self, name: &str) -> &Tensor {
        self.parameters.get(name).unwrap_or_else(|| panic!("this model's head has no `{name}`"))
    }

    fn linear(&self, input: &Tensor, prefix: &str) -> Tensor {
        let weight = self.parameter(&format!("{prefix}.weight"));
        kernels::linear(input, weight, self.parameters.get(&format!("{prefix}.bias")))
    }

    fn norm(&self, input: &Tensor, prefix: &str) -> Tensor {
        let weight = self.parameter(&format!("{prefix}.weight"));
        let bias = self.parameters.get(&format!("{prefix}.bias"));
        input.layer_norm(weight.size(), Some(weight), bias, self.epsilon, false)
    }

    /// Dense, non-linearity, LayerNorm: before the vocabulary in all architectures, before every head in `modern`.
    fn transform(&self, input: &Tensor) -> Tensor {
        // Hugging Face's ELECTRA and RoBERTa have GELU here whatever their other non-linearities are.
        let is_gelu = matches!(self.architecture, Architecture::Electra | Architecture::Roberta);
        let activation = if is_gelu { Activation::Gelu } else { self.activation };
        self.norm(&activate(&self.linear(input, self.names.dense), activation), self.names.norm)
    }

    /// `[batch, hidden]`: dense and tanh on the first token.
    fn pooler(&self, hidden: &Tensor) -> Tensor {
        let name = self.names.pooler.unwrap_or_else(|| panic!("{:?} has no pooler", self.architecture));
        self.linear(&hidden.select(1, 0), name).tanh()
    }

    /// `[positions, vocabulary]`.
    pub fn mlm_logits(&self, hidden: &Tensor, positions: &Tensor) -> Tensor {
        kernels::linear(&self.chosen(hidden, positions), &self.embeddings, Some(self.mlm_bias()))
    }

    /// `[positions, words]`: the columns of these words, without those of all others.
    pub fn word_logits(&self, hidden: &Tensor, positions: &Tensor, words: &Tensor) -> Tensor {
        let rows = self.embeddings.index_select(0, words);
        kernels::linear(&self.chosen(hidden, positions), &rows, Some(&self.mlm_bias().index_select(0, words)))
    }

    /// The summed cross-entropy in nats, and how often the label's logit was the greatest (ties count).
    pub fn mlm_loss_sum(&self, hidden: &Tensor, positions: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
        kernels::masked_loss(&self.chosen(hidden, positions), &self.embeddings, self.mlm_bias(), labels)
    }

    /// `[positions, hidden]`: what the product with the vocabulary starts from. Only the chosen positions go through the
    /// head: with 15 % of the tokens predicted that product is most of a small model's work.
    fn chosen(&self, hidden: &Tensor, positions: &Tensor) -> Tensor {
        let width = hidden.size()[2];
        self.transform(&hidden.reshape([-1, width]).index_select(0, positions))
    }

    fn mlm_bias(&self) -> &Tensor {
        self.parameter(self.names.bias)
    }

    /// `[batch, 2]`: 0 = the second segment follows the first (`albert`: both are in order), 1 = not so.
    pub fn nsp_logits(&self, hidden: &Tensor) -> Tensor {
        let name = self.names.pair.unwrap_or_else(|| panic!("{:?} has no head for pairs", self.architecture));
        self.linear(&self.pooler(hidden), name)
    }

    /// `[batch, length]`: above 0 where a token looks replaced.
    pub fn replaced_logits(&self, hidden: &Tensor) -> Tensor {
        let dense = activate(&self.linear(hidden, "discriminator_predictions.dense"), self.activation);
        self.linear(&dense, "discriminator_predictions.dense_prediction").squeeze_dim(-1)
    }

    /// `[batch, classes]`.
    pub fn class_logits(&self, hidden: &Tensor, pooling: Pooling, mask: Option<&Tensor>, train: bool) -> Tensor {
        let pooled = match pooling {
            Pooling::Cls => hidden.select(1, 0),
            Pooling::Mean => mean(hidden, mask),
        };
        let (pooled, output) = match (self.architecture, pooling) {
            (Architecture::Bert | Architecture::Albert, Pooling::Cls) => (self.pooler(hidden), "classifier"),
            (Architecture::Bert | Architecture::Albert, Pooling::Mean) => (pooled, "classifier"),
            (Architecture::Modern, _) => (self.transform(&pooled), "classifier"),
            (Architecture::Electra, _) => {
                let dense = self.linear(&dropout(&pooled, self.dropout, train), "classifier.dense");
                (kernels::gelu(&dense), "classifier.out_proj")
            }
            (Architecture::Distilbert, _) => (self.linear(&pooled, "pre_classifier").relu(), "classifier"),
            (Architecture::Roberta, _) => {
                let dense = self.linear(&dropout(&pooled, self.dropout, train), "classifier.dense");
                (dense.tanh(), "classifier.out_proj")
            }
        };
        self.linear(&dropout(&pooled, self.dropout, train), output)
    }

    /// `[batch]`: with dropout as in Hugging Face.
    pub fn choice_logits(&self, hidden: &Tensor, pooling: Pooling, mask: Option<&Tensor>, train: bool) -> Tensor {
        let first = || hidden.select(1, 0);
        let pooled = match self.architecture {
            // Unlike its classifier, RoBERTa's multiple choice has a pooler.
            Architecture::Bert | Architecture::Albert | Architecture::Roberta => self.pooler(hidden),
            Architecture::Modern => self.transform(&match pooling {
                Pooling::Cls => first(),
                Pooling::Mean => mean(hidden, mask),
            }),
            Architecture::Electra => kernels::gelu(&self.linear(&first(), "sequence_summary.summary")),
            Architecture::Distilbert => self.linear(&first(), "pre_classifier").relu(),
        };
        self.linear(&dropout(&pooled, self.dropout, train), "classifier").squeeze_dim(1)
    }

    /// `[batch, length, 2]`: beginnings and ends. With or without dropout as in Hugging Face.
    pub fn answer_logits(&self, hidden: &Tensor, train: bool) -> Tensor {
        match self.architecture {
            Architecture::Bert | Architecture::Albert | Architecture::Electra | Architecture::Roberta => {
                self.linear(hidden, "qa_outputs")
            }
            Architecture::Modern => self.linear(&dropout(&self.transform(hidden), self.dropout, train), "classifier"),
            Architecture::Distilbert => self.linear(&dropout(hidden, self.dropout, train), "qa_outputs"),
        }
    }

    /// `[batch, length, tags]`.
    pub fn token_logits(&self, hidden: &Tensor, train: bool) -> Tensor {
        let transformed = match self.architecture {
            Architecture::Modern => self.transform(hidden),
            _ => hidden.shallow_clone(),
        };
        self.linear(&dropout(&transformed, self.dropout, train), "classifier")
    }
}

/// The mean over real tokens. `[batch, hidden]`
pub(crate) fn mean(hidden: &Tensor, mask: Option<&Tensor>) -> Tensor {
    match mask {
        None => hidden.mean_dim(1, false, Kind::Float),
        Some(mask) => {
            let mask = mask.to_kind(Kind::Float).unsqueeze(2);
            (hidden * &mask).sum_dim_intlist(1, false, Kind::Float) / mask.sum_dim_intlist(1, false, Kind::Float)
        }
    }
}

/// Dropout that costs nothing where it does nothing.
pub(crate) fn dropout(input: &Tensor, probability: f64, train: bool) -> Tensor {
    if train && probability > 0.0 { kernels::dropout(input, probability) } else { input.shallow_clone() }
}
