//! The state of a run outside libtorch: what a checkpoint is made of.
//!
//! A checkpoint's files: `model.safetensors`, `state.json`, and `config.json` and the tokenizer as Hugging Face lays them
//! out, by rank 0; `optimizer-<rank>-of-<world>.safetensors` by every rank, holding the optimizer's tensors of the
//! parameters whose index in name order, modulo the world size, is the rank. Reading does not care how many ranks wrote.
//! ELECTRA's generator is not in `model.safetensors`, which is the discriminator as Hugging Face lays it out, but in
//! `generator.safetensors` beside it, without the embeddings that both share; SpanBERT's second head is in
//! `span_boundary.safetensors`. Where weights are averaged, `model.safetensors` holds the average, and the optimizer files
//! also the weights. With adapters it holds the weights with what they add, and the optimizer files also the adapters, and
//! the matrices beside them as they were.

use crate::stopping::Evaluated;
use config::{ModelShape, OptimizerKind};
use corpus::Tokenizer;
use model::{Head, ModelError, hugging_face, safetensors_io};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tch::Tensor;
use types::{Attempt, Cursor, Digest, Generation, Rank, Step, WorldSize};

/// The version of `state.json` and of the tensors' names in the optimizer files.
pub(crate) const FORMAT: u32 = 1;

/// The generator's own weights, beside a discriminator.
pub(crate) const GENERATOR: &str = "generator.safetensors";
/// The head over spans, beside a model of masked words.
pub(crate) const SPAN_BOUNDARY: &str = "span_boundary.safetensors";

/// Everything of the state that is no tensor: `state.json`, and what a source sends before its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateHeader {
    /// Version of the format: 1.
    pub format: u32,
    /// Steps done.
    pub step: Step,
    /// The attempt it was made in.
    pub attempt: Attempt,
    /// Optimizer updates done: steps, less the skipped ones. The t of Adam's bias correction.
    pub updates: u64,
    /// Skipped steps since the last update.
    pub skipped_in_a_row: u32,
    /// Where each slot stands, in slot order.
    pub cursors: Vec<Cursor>,
    /// The chain of samples (blake3).
    pub samples_digest: Digest,
    /// blake3 of the resolved config's TOML.
    pub config_digest: Digest,
    /// Whose tensors the optimizer files hold.
    pub optimizer: OptimizerKind,
    /// Whether `model.safetensors` holds the average of the weights, and the optimizer files the weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub averaged: bool,
    /// With `eval.patience`: how evaluations have gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluated: Option<Evaluated>,
    /// What the last evaluation said, and of which step: a checkpoint of it may have to be made again, by whoever has the
    /// state then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) measured: Option<(Step, Measured)>,
    /// The model's labels, for `classify` and `tag`.
    pub labels: Vec<String>,
    /// The model's shape.
    pub shape: ModelShape,
}

impl StateHeader {
    /// What an evaluation of the present step said, if there was one.
    pub(crate) fn known(&self) -> Measured {
        self.measured.filter(|(step, _)| *step == self.step).map_or_else(Measured::default, |(_, measured)| measured)
    }
}

/// What an evaluation says of the model, if there was one at this step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub loss: Option<f64>,
    pub score: Option<f64>,
}

/// A copy of this worker's share of the state at one step, made at once; serialising it may happen later, elsewhere.
#[derive(Debug)]
pub struct Capture {
    /// Steps done.
    pub step: Step,
    /// The generation it was made in.
    pub generation: Generation,
    /// The rank that made it.
    pub rank: Rank,
    /// How many ranks made one.
    pub world: WorldSize,
    /// It is that of the run's last step: the state lives on nowhere else, and nothing waits for memory but itself.
    pub last: bool,
    /// `eval/loss` at this step, if it was measured.
    pub eval_loss: Option<f64>,
    /// What `eval.best_metric` names, at this step, if it was measured.
    pub score: Option<f64>,
    pub(crate) header: StateHeader,
    /// Rank 0's part.
    pub(crate) whole: Option<Whole>,
    /// Copies in main memory.
    pub(crate) optimizer: Vec<(String, Tensor)>,
}

/// What only rank 0 saves.
#[derive(Debug)]
pub(crate) struct Whole {
    /// Copies in main memory, sorted by name.
    pub parameters: Vec<(String, Tensor)>,
    pub head: Head,
    pub tokenizer: Arc<Tokenizer>,
}

impl Capture {
    /// The state without its tensors, as in `state.json`.
    pub fn header(&self) -> &StateHeader {
        &self.header
    }

    /// SHA-256 of all parameters of `model.safetensors`, and of a generator beside it, in name order; rank 0 only.
    pub fn weights_digest(&self) -> Result<Option<Digest>, ModelError> {
        let Some(whole) = &self.whole else { return Ok(None) };
        safetensors_io::digest(whole.parameters.iter().map(|(_, tensor)| tensor)).map(Some)
    }

    /// This rank's files: name and bytes.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>, ModelError> {
        let mut files = Vec::new();
        if let Some(whole) = &self.whole {
            let named = whole.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
            let (beside, model): (Vec<_>, Vec<_>) = named.partition(|(name, _)| whole.head.is_beside(name));
            files.push(("model.safetensors".to_owned(), safetensors_io::write(&model)?));
            if !beside.is_empty() {
                let name = if whole.head == Head::SpanBoundary { SPAN_BOUNDARY } else { GENERATOR };
                files.push((name.to_owned(), safetensors_io::write(&beside)?));
            }
            let sides = hugging_face::side_files(&self.header.shape, &whole.head, whole.tokenizer.bytes())?;
            files.extend(sides.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
            let state = serde_json::to_vec_pretty(&self.header).expect("a header is always expressible as JSON");
            files.push(("state.json".to_owned(), state));
        }
        let name = format!("optimizer-{}-of-{}.safetensors", self.rank, self.world);
        files.push((name, safetensors_io::write(&self.optimizer)?));
        Ok(files)
    }
}
