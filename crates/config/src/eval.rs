//! `[eval]`

use crate::{ObjectiveConfig, ObjectiveKind, TagScheme};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Measuring on held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Steps between evaluations; 0: only at the end. The last step is always evaluated.
    pub every_steps: u64,
    /// Held-out samples used each time, at most; questions for `answer`. Of labelled data which ones is drawn by the seed.
    pub samples: u64,
    /// Which of the numbers that are reported as `eval/…` tells how good the model is: by it the best checkpoints are kept
    /// (`checkpoint.keep_best`), and the run may end early (`patience`). Of losses and the perplexity less is better, of
    /// all others more. Default: `loss`.
    #[serde(skip_serializing_if = "is_loss")]
    pub best_metric: String,
    /// Early stopping: the run ends, as completed, after so many evaluations in a row of which none was better than the
    /// best one before them. Default: it does all its steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// With `patience`: by how much an evaluation has to be better to count as better. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_delta: Option<f64>,
}

const LOSS: &str = "loss";

fn is_loss(metric: &str) -> bool {
    metric == LOSS
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { every_steps: 500, samples: 2048, best_metric: LOSS.to_owned(), patience: None, min_delta: None }
    }
}

impl EvalConfig {
    /// Whether more of `best_metric` is better.
    pub fn greater_is_better(&self) -> bool {
        let name = self.best_metric.as_str();
        name != LOSS && !name.ends_with("_loss") && name != "perplexity"
    }

    /// Whether `value` of `best_metric` is better than the best before it.
    pub fn improves(&self, value: f64, best: f64) -> bool {
        let gain = if self.greater_is_better() { value - best } else { best - value };
        gain > self.min_delta.unwrap_or(0.0)
    }
}

impl ObjectiveConfig {
    /// What is reported of held-out samples every time, as `eval/…`; what is there only for some data is left out.
    pub fn measured(&self) -> Vec<&'static str> {
        let masked = ["mlm_loss", "perplexity", "mlm_accuracy"];
        let classes = ["accuracy", "macro_f1", "mcc"];
        let more: &[&str] = match self.kind {
            ObjectiveKind::Classify if self.regression => &["pearson", "spearman"],
            ObjectiveKind::Classify | ObjectiveKind::Cloze => &classes,
            ObjectiveKind::Tag if self.tag_scheme == TagScheme::Bio => {
                &["accuracy", "macro_f1", "mcc", "entity_precision", "entity_recall", "entity_f1"]
            }
            ObjectiveKind::Tag => &classes,
            ObjectiveKind::Answer => &["exact_match", "f1"],
            ObjectiveKind::Match | ObjectiveKind::Choose => &["accuracy"],
            ObjectiveKind::Mlm | ObjectiveKind::Distill => &masked,
            ObjectiveKind::MlmNsp => &["mlm_loss", "perplexity", "mlm_accuracy", "nsp_loss", "nsp_accuracy"],
            ObjectiveKind::MlmSop => &["mlm_loss", "perplexity", "mlm_accuracy", "sop_loss", "sop_accuracy"],
            ObjectiveKind::ReplacedTokens => {
                &["mlm_loss", "perplexity", "mlm_accuracy", "replaced_loss", "replaced_accuracy"]
            }
        };
        [&[LOSS], more].concat()
    }
}
