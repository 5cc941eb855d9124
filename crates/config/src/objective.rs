//! `[objective]`

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveKind {
    /// BERT's: masked words and next sentence, on sentence pairs.
    #[default]
    MlmNsp,
    /// Masked words only, on packed blocks.
    Mlm,
    /// A class for each text or pair of texts.
    Classify,
    /// A tag for each word.
    Tag,
    /// ALBERT's: masked words and whether two pieces of text are in their order, on sentence pairs.
    MlmSop,
    /// ELECTRA's: which tokens a small generator has replaced, on packed blocks.
    ReplacedTokens,
    /// DistilBERT's: what a teacher predicts, and masked words, on packed blocks.
    Distill,
    /// The part of a passage that answers a question (SQuAD).
    Answer,
    /// Vectors of texts, near for the two texts of a pair.
    Match,
    /// A class for each text, by the word that a model of masked words puts into a sentence around it (PET).
    Cloze,
    /// The right one of a few choices for each text (multiple choice: SWAG, RACE, CommonsenseQA).
    Choose,
}

/// Choices of a row of `choose` at most: as many as there are letters to name them by.
pub const CHOICES_MAX: usize = 26;

impl ObjectiveKind {
    /// The name in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MlmNsp => "mlm_nsp",
            Self::Mlm => "mlm",
            Self::Classify => "classify",
            Self::Tag => "tag",
            Self::MlmSop => "mlm_sop",
            Self::ReplacedTokens => "replaced_tokens",
            Self::Distill => "distill",
            Self::Answer => "answer",
            Self::Match => "match",
            Self::Cloze => "cloze",
            Self::Choose => "choose",
        }
    }

    /// Whether it is learned from labelled data, not from raw text.
    pub fn is_supervised(self) -> bool {
        matches!(self, Self::Classify | Self::Tag | Self::Answer | Self::Match | Self::Cloze | Self::Choose)
    }

    /// Whether words are masked.
    pub fn masks(self) -> bool {
        !self.is_supervised()
    }

    /// Whether its model has a head over the vocabulary; the generator of `replaced_tokens` is not part of the model.
    pub fn predicts_words(self) -> bool {
        matches!(self, Self::MlmNsp | Self::Mlm | Self::MlmSop | Self::Distill | Self::Cloze)
    }

    /// Whether the samples are sentence pairs with a label of their own.
    pub fn has_pairs(self) -> bool {
        matches!(self, Self::MlmNsp | Self::MlmSop)
    }
}

/// How a sequence becomes one vector for `classify`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// BERT's pooler: dense and tanh on the first token.
    #[default]
    Cls,
    /// The mean over real tokens.
    Mean,
}

/// What the tags of `tag` mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TagScheme {
    /// One tag a word (parts of speech).
    #[default]
    Plain,
    /// B-X, I-X, O: entity F1 is reported too.
    Bio,
}

impl TagScheme {
    /// Whether a tag is one of this scheme.
    pub fn has(self, tag: &str) -> bool {
        let entity = tag.strip_prefix("B-").or_else(|| tag.strip_prefix("I-"));
        self == Self::Plain || tag == "O" || entity.is_some_and(|entity| !entity.trim().is_empty())
    }
}

/// Which tokens are masked together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Masking {
    /// Each piece by itself, or each word (`whole_word`): BERT's.
    #[default]
    Word,
    /// Spans of one to ten words that begin with a word, short ones more often (Joshi et al. 2020, SpanBERT).
    Span,
}

/// How text without spaces is cut into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WordSegmenter {
    /// Chinese, by jieba with its own dictionary.
    Jieba,
}

/// How `mlm` makes samples of documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Documents behind one another, cut wherever a block is full: no padding.
    #[default]
    Blocks,
    /// As many whole sentences as fit, across documents, with a separator between two of these (Liu et al. 2019,
    /// RoBERTa's FULL-SENTENCES).
    FullSentences,
    /// The same, but never across documents (DOC-SENTENCES).
    DocSentences,
}

/// What is learned, and how the samples are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveConfig {
    /// `mlm_nsp`, `mlm`, `classify`, `tag`, `mlm_sop`, `replaced_tokens`, `distill`, `answer`, `match`, `cloze`,
    /// `choose`.
    pub kind: ObjectiveKind,
    /// Share of tokens to predict.
    pub mask_rate: f64,
    /// `mlm_nsp`, `mlm`: the share at the last step, which moves there from `mask_rate` in a straight line, step by step.
    /// Held-out samples are masked at this rate at all times, so that their losses can be compared. Default: `mask_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_mask_rate: Option<f64>,
    /// Of those: share that becomes `[MASK]`.
    pub mask_token_share: f64,
    /// Of those: share that becomes a random id; the rest stays.
    pub random_token_share: f64,
    /// Mask all pieces of a word together.
    pub whole_word: bool,
    /// With `whole_word` or `masking = "span"`: `jieba` cuts Chinese text, whose characters are tokens of their own in a
    /// WordPiece vocabulary, into words. Default: each character is a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub word_segmenter: Option<WordSegmenter>,
    /// Mask runs of up to so many words (with `whole_word`) or tokens together: a run of n is chosen with a probability
    /// proportional to 1/n. 3 is ALBERT's.
    #[serde(skip_serializing_if = "is_one")]
    pub ngram_max: usize,
    /// `replaced_tokens`: the factor of the discriminator's loss beside the generator's.
    #[serde(skip_serializing_if = "is_electras")]
    pub discriminator_weight: f64,
    /// `word` or `span`. A span is masked, replaced or left as a whole, and ceil(rate × text tokens)
    /// positions are predicted; the last span is cut where they are reached.
    #[serde(skip_serializing_if = "is_default")]
    pub masking: Masking,
    /// With `masking = "span"` and `mlm`: SpanBERT's span-boundary objective too. Each word of a span is predicted a second
    /// time, from the two tokens beside the span and its place in it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub span_boundary: bool,
    /// `mlm`: `blocks`, `full-sentences` or `doc-sentences`. Only blocks are all of one length. With `doc-sentences` the
    /// end of each document makes a short sample, so that a batch of as many samples holds fewer tokens: raise
    /// `batch.micro_batch` for a fair comparison.
    #[serde(skip_serializing_if = "is_default")]
    pub packing: Packing,
    /// `mlm_nsp`, `mlm_sop`: share of pairs that are made shorter than the sequence.
    pub short_sequence_probability: f64,
    /// Positions to predict in one sequence at most, all short rows of it (`batch.short_length`) together. Default:
    /// ceil(rate × length) of each row, at the rate of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_predictions: Option<usize>,
    /// `classify`, `tag`: the labels in order. Empty: the sorted set of labels found in the training data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// `classify`; `choose` with `modern`: how a sequence becomes one vector.
    pub pooling: Pooling,
    /// `tag`: what the tags mean.
    pub tag_scheme: TagScheme,
    /// `classify`: the label is a number, such as a degree of similarity. One output, squared error; Pearson's and
    /// Spearman's correlation are reported.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub regression: bool,
    /// `answer`: tokens from the beginning of one window of a long passage to that of the next. Default: a third of
    /// `batch.sequence_length`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// `answer`: tokens of a question that are read at most. Default: 64, or a third of `batch.sequence_length` if that
    /// is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_question_length: Option<usize>,
    /// `answer`: tokens of an answer at most. Default: 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_answer_length: Option<usize>,
    /// `answer`: questions may have no answer (SQuAD v2). The answer is that there is none where the score of none is
    /// greater than that of the best answer by more than this. Default: every question has an answer (SQuAD v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_answer_threshold: Option<f64>,
    /// `match`: what cosines are multiplied by before the softmax over the texts of a micro-batch. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_scale: Option<f64>,
    /// `cloze`: the sentence around a text, with `{text}` (and `{pair}` for the text of `data.pair_column`) and one
    /// `[MASK]`: `"{text} It was [MASK]."`. A text that is too long is cut, the rest of the sentence never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// `cloze`: for each label the words that stand for it in the place of `[MASK]`, each one token of the tokenizer:
    /// `positive = ["great", "good"]`. The score of a label is the mean over its words. Labels are in alphabetical order.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub verbalizers: BTreeMap<String, Vec<String>>,
}

/// Clark et al. 2020.
const DISCRIMINATOR_WEIGHT: f64 = 50.0;

fn is_electras(weight: &f64) -> bool {
    *weight == DISCRIMINATOR_WEIGHT
}

fn is_one(number: &usize) -> bool {
    *number == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self {
            kind: ObjectiveKind::MlmNsp,
            mask_rate: 0.15,
            final_mask_rate: None,
            mask_token_share: 0.8,
            random_token_share: 0.1,
            whole_word: false,
            word_segmenter: None,
            ngram_max: 1,
            discriminator_weight: DISCRIMINATOR_WEIGHT,
            masking: Masking::Word,
            span_boundary: false,
            packing: Packing::Blocks,
            short_sequence_probability: 0.1,
            max_predictions: None,
            labels: Vec::new(),
            pooling: Pooling::Cls,
            tag_scheme: TagScheme::Plain,
            regression: false,
            stride: None,
            max_question_length: None,
            max_answer_length: None,
            no_answer_threshold: None,
            similarity_scale: None,
            prompt: None,
            verbalizers: BTreeMap::new(),
        }
    }
}

impl ObjectiveConfig {
    /// The share of tokens to predict in the step that makes `step` done (1-based) of `total`.
    pub fn mask_rate_at(&self, step: u64, total: u64) -> f64 {
        let Some(last) = self.final_mask_rate else { return self.mask_rate };
        let way = (step.max(1) - 1) as f64 / (total.max(2) - 1) as f64;
        let way = way.min(1.0);
        // Both ends are met exactly.
        self.mask_rate * (1.0 - way) + last * way
    }

    /// The same for held-out samples, whatever the step.
    pub fn mask_rate_held_out(&self) -> f64 {
        self.final_mask_rate.unwrap_or(self.mask_rate)
    }

    /// Positions to predict at most in a row of `length` tokens, one of the `rows` of a sequence, masked at `rate`.
    pub fn predictions_max(&self, rate: f64, length: usize, rows: usize) -> usize {
        let told = self.max_predictions.map(|most| most.div_ceil(rows.max(1)));
        told.unwrap_or((rate * length as f64).ceil() as usize).max(1)
    }

    /// The labels that the config gives, in order; empty: those that are found.
    pub fn given_labels(&self) -> Vec<String> {
        match self.kind {
            ObjectiveKind::Cloze => self.verbalizers.keys().cloned().collect(),
            _ => self.labels.clone(),
        }
    }

    /// `answer`: how a question and its passage become rows of `sequence_length` tokens at most.
    pub fn windows(&self, sequence_length: usize) -> AnswerWindows {
        let third = (sequence_length / 3).max(1);
        AnswerWindows {
            sequence_length,
            question_length: self.max_question_length.unwrap_or(third.min(64)),
            stride: self.stride.unwrap_or(third),
        }
    }

    /// `answer`: which answers are looked for.
    pub fn answer_rule(&self) -> AnswerRule {
        AnswerRule { length_max: self.max_answer_length.unwrap_or(30), no_answer_threshold: self.no_answer_threshold }
    }
}

/// How a question and its passage become rows of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerWindows {
    /// Tokens in a row at most, special ones included.
    pub sequence_length: usize,
    /// Tokens of a question at most.
    pub question_length: usize,
    /// Tokens from the beginning of one window to that of the next.
    pub stride: usize,
}

/// Which answers are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnswerRule {
    /// Tokens of an answer at most.
    pub length_max: usize,
    /// None: there always is one.
    pub no_answer_threshold: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_rate_goes_from_one_end_to_the_other() {
        let falls = ObjectiveConfig { mask_rate: 0.3, final_mask_rate: Some(0.15), ..ObjectiveConfig::default() };
        assert_eq!((falls.mask_rate_at(1, 1000), falls.mask_rate_at(1000, 1000)), (0.3, 0.15));
        assert!((falls.mask_rate_at(501, 1001) - 0.225).abs() < 1e-12);
        let rates: Vec<f64> = (1..=1000).map(|step| falls.mask_rate_at(step, 1000)).collect();
        assert!(rates.windows(2).all(|pair| pair[1] < pair[0]));
        assert_eq!((falls.mask_rate_at(1, 1), falls.mask_rate_at(2000, 1000)), (0.3, 0.15));
        assert_eq!(falls.mask_rate_held_out(), 0.15);
        let flat = ObjectiveConfig { mask_rate: 0.3, ..ObjectiveConfig::default() };
        assert_eq!((flat.mask_rate_at(1, 10), flat.mask_rate_at(10, 10), flat.mask_rate_held_out()), (0.3, 0.3, 0.3));
    }

    #[test]
    fn a_tag_of_bio_names_what_it_is_of() {
        for tag in ["O", "B-X", "I-X", "B--"] {
            assert!(TagScheme::Bio.has(tag), "{tag}");
        }
        for tag in ["", "B", "B-", "I-", "I- ", "E-X", "o"] {
            assert!(!TagScheme::Bio.has(tag), "{tag}");
            assert!(TagScheme::Plain.has(tag), "{tag}");
        }
    }

    #[test]
    fn as_many_positions_are_predicted_as_the_rate_asks_for() {
        let objective = ObjectiveConfig::default();
        assert_eq!((objective.predictions_max(0.15, 128, 1), objective.predictions_max(0.3, 128, 4)), (20, 39));
        let told = ObjectiveConfig { max_predictions: Some(7), ..ObjectiveConfig::default() };
        assert_eq!((told.predictions_max(0.15, 128, 1), told.predictions_max(0.3, 128, 4)), (7, 2));
    }
}
