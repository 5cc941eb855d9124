//! What sits on the encoder: masked words, next sentence, a class for a text, a tag for each token.

use crate::attention::activate;
use config::{Activation, Architecture, ModelShape, Pooling};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// What the model predicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// The masked words.
    MaskedLm,
    /// The masked words and whether the second segment follows the first (`bert` only).
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
    /// For each token, how likely an answer begins and ends there.
    QuestionAnswering,
    /// A vector for a text: the mean over its tokens. Nothing of the head is trained, and there is no pooler.
    Embedder,
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
        matches!(self, Self::MaskedLm | Self::PreTraining)
    }
}

/// The dense layers of the heads, by parameter name.
pub(crate) struct Heads {
    architecture: Architecture,
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

    /// Dense, non-linearity, LayerNorm: before the vocabulary in both architectures, before every head in `modern`.
    fn transform(&self, input: &Tensor) -> Tensor {
        let (dense, norm) = match self.architecture {
            Architecture::Bert => ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
            Architecture::Modern => ("head.dense", "head.norm"),
        };
        self.norm(&activate(&self.linear(input, dense), self.activation), norm)
    }

    /// `[batch, hidden]`: dense and tanh on the first token.
    fn bert_pooler(&self, hidden: &Tensor) -> Tensor {
        self.linear(&hidden.select(1, 0), "bert.pooler.dense").tanh()
    }

    /// `[positions, vocabulary]`.
    pub fn mlm_logits(&self, hidden: &Tensor, positions: &Tensor) -> Tensor {
        kernels::linear(&self.chosen(hidden, positions), &self.embeddings, Some(self.mlm_bias()))
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
        self.parameter(match self.architecture {
            Architecture::Bert => "cls.predictions.bias",
            Architecture::Modern => "decoder.bias",
        })
    }

    /// `[batch, 2]`: 0 = the second segment follows the first, 1 = it is random.
    pub fn nsp_logits(&self, hidden: &Tensor) -> Tensor {
        self.linear(&self.bert_pooler(hidden), "cls.seq_relationship")
    }

    /// `[batch, classes]`.
    pub fn class_logits(&self, hidden: &Tensor, pooling: Pooling, mask: Option<&Tensor>, train: bool) -> Tensor {
        let pooled = match (pooling, self.architecture) {
            (Pooling::Cls, Architecture::Bert) => self.bert_pooler(hidden),
            (Pooling::Cls, Architecture::Modern) => self.transform(&hidden.select(1, 0)),
            (Pooling::Mean, Architecture::Bert) => mean(hidden, mask),
            (Pooling::Mean, Architecture::Modern) => self.transform(&mean(hidden, mask)),
        };
        self.linear(&dropout(&pooled, self.dropout, train), "classifier")
    }

    /// `[batch, length, 2]`: beginnings and ends. BERT's head has no dropout, as in Hugging Face.
    pub fn answer_logits(&self, hidden: &Tensor, train: bool) -> Tensor {
        match self.architecture {
            Architecture::Bert => self.linear(hidden, "qa_outputs"),
            Architecture::Modern => self.linear(&dropout(&self.transform(hidden), self.dropout, train), "classifier"),
        }
    }

    /// `[batch, length, tags]`.
    pub fn token_logits(&self, hidden: &Tensor, train: bool) -> Tensor {
        let transformed = match self.architecture {
            Architecture::Bert => hidden.shallow_clone(),
            Architecture::Modern => self.transform(hidden),
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
