//! What somebody who uses a model must know of the run that made it.

use crate::{AnswerRule, AnswerWindows, ObjectiveConfig, ObjectiveKind, RunConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where an export's config.json has the identity of the tokenizer that its model was trained with.
pub const TOKENIZER_KEY: &str = "trireme_tokenizer";

/// The files in which a folder's weights may lie, as Hugging Face names them: the first that is there, one file or an index
/// of several.
pub const WEIGHTS_FILES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// How a pointer of Git LFS begins: what stands in the place of a file that was not fetched.
pub const LFS_POINTER_BEGINNING: &[u8] = b"version https://git-lfs";

/// What is wrong with a file of a model that begins so, if it is such a pointer.
#[must_use]
pub fn lfs_pointer(beginning: &[u8]) -> Option<&'static str> {
    let wrong = "it is a pointer of Git LFS, not the file itself: run `git lfs pull` where it came from";
    beginning.starts_with(LFS_POINTER_BEGINNING).then_some(wrong)
}

/// How a model was trained to read its texts. An export's config.json holds it under [`Reading::KEY`], so that a folder is
/// used as the run's own checkpoint is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Tokens in a row at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_length: Option<usize>,
    /// Texts came in pairs; choices with a question.
    #[serde(default)]
    pub pairs: bool,
    /// As in `[objective]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// As in `[objective]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_question_length: Option<usize>,
    /// As in `[objective]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_answer_length: Option<usize>,
    /// As in `[objective]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_answer_threshold: Option<f64>,
    /// As in `[objective]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// As in `[objective]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verbalizers: BTreeMap<String, Vec<String>>,
}

impl Reading {
    /// Where config.json has it.
    pub const KEY: &'static str = "trireme_reading";

    /// What a run's config says.
    pub fn of(config: &RunConfig) -> Self {
        let objective = &config.objective;
        let may_be_pairs =
            matches!(objective.kind, ObjectiveKind::Classify | ObjectiveKind::Match | ObjectiveKind::Choose);
        Self {
            sequence_length: Some(config.batch.sequence_length),
            pairs: may_be_pairs && config.data.pair_column.is_some(),
            stride: objective.stride,
            max_question_length: objective.max_question_length,
            max_answer_length: objective.max_answer_length,
            no_answer_threshold: objective.no_answer_threshold,
            prompt: objective.prompt.clone(),
            verbalizers: objective.verbalizers.clone(),
        }
    }

    /// How questions and passages become rows of `sequence_length` tokens at most. The error says which number is wrong.
    pub fn windows(&self, sequence_length: usize) -> Result<AnswerWindows, String> {
        let windows = self.objective().windows(sequence_length);
        let AnswerWindows { question_length, stride, .. } = windows;
        let room = sequence_length.saturating_sub(question_length + SPECIAL_TOKENS);
        if room == 0 {
            return Err(format!(
                "{sequence_length} tokens have no room for a passage beside {question_length} of the question"
            ));
        }
        if !(1..=room).contains(&stride) {
            return Err(format!(
                "a stride of {stride} is not between 1 and the {room} tokens of a passage in a window"
            ));
        }
        Ok(windows)
    }

    /// Which answers are looked for.
    pub fn rule(&self) -> AnswerRule {
        self.objective().answer_rule()
    }

    fn objective(&self) -> ObjectiveConfig {
        ObjectiveConfig {
            stride: self.stride,
            max_question_length: self.max_question_length,
            max_answer_length: self.max_answer_length,
            no_answer_threshold: self.no_answer_threshold,
            ..ObjectiveConfig::default()
        }
    }
}

/// `[CLS]` and two `[SEP]`.
const SPECIAL_TOKENS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_the_defaults_of_a_run_and_room_for_the_passage() {
        let windows = Reading::default().windows(384).unwrap();
        assert_eq!((windows.question_length, windows.stride), (64, 128));
        let reading = Reading { stride: Some(10), max_question_length: Some(5), ..Reading::default() };
        assert_eq!(reading.windows(18).unwrap().stride, 10);
        assert!(reading.windows(17).unwrap_err().contains("a stride of 10"));
        assert!(reading.windows(8).unwrap_err().contains("no room"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let reading = Reading { sequence_length: Some(384), no_answer_threshold: Some(-0.5), ..Reading::default() };
        let text = serde_json::to_string(&reading).unwrap();
        assert_eq!(serde_json::from_str::<Reading>(&text).unwrap(), reading);
        assert_eq!(serde_json::from_str::<Reading>("{}").unwrap(), Reading::default());
    }
}
