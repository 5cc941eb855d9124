//! What is looked at before a run is queued, so that it does not fail for a reason that was plain to see.

use super::checkpoints::{self, Pin, Repository};
use super::clock::Clock;
use super::corpora::{self, Corpora, Opened, blocking};
use super::driver::RunDetails;
use super::on_thread::OnThread;
use super::parent::{self, ItsTokenizer, Parent};
use config::{CheckedConfig, ModelShape, RunConfig};
use control::RunSpec;
use corpus::Loader;
use proto::{Failure, FailureKind};
use std::sync::Arc;
use store::Reader;
use types::{Cursor, RunId, SlotId, Step};

const UNCHECKED_GRAPHS: &str = "`run.cuda_graphs` has been checked on no device: neither its speed nor its bits are \
                                known, and what it trains may be wrong (docs/guide/cuda.md)";

/// A run that may be queued.
#[derive(Debug)]
pub struct Submission {
    /// Its new id.
    pub run: RunId,
    /// What control needs of it.
    pub spec: RunSpec,
    /// What only the shell needs.
    pub details: RunDetails,
    /// Keeps the parent checkpoint until the run's row does.
    pub parent: Option<Pin>,
    /// The shape that its model has from what it starts from.
    inherited: Option<ModelShape>,
    /// Room that its checkpoints take, roughly.
    pub bytes: u64,
    /// What is odd about its config, its data, or about what it starts from, but may be meant.
    pub warnings: Vec<String>,
}

/// Checks a config, its data, its tokenizer, what it starts from, and the room for its checkpoints.
pub async fn check(
    text: &str,
    reader: &OnThread<Reader>,
    repository: &Arc<Repository>,
    corpora: &Corpora,
) -> Result<Submission, Failure> {
    let config = read(text)?;
    if config.sweep.is_some() {
        let message = "`sweep`: these are several runs\n  help: submit them with `coordinator sweep submit`";
        return Err(Failure::new(FailureKind::Invalid, message));
    }
    let parent = parent::of(&config, reader, repository).await?;
    let submission = look_at(&config, parent, corpora).await?;
    repository.store().check_space(submission.bytes).map_err(checkpoints::failure)?;
    Ok(submission)
}

/// The config that was sent.
pub fn read(text: &str) -> Result<CheckedConfig, Failure> {
    config::parse("config", text).map_err(invalid)?.check("config").map_err(invalid)
}

fn invalid(error: config::ConfigError) -> Failure {
    Failure::new(FailureKind::Invalid, error.to_string())
}

/// Checks a run's data, its tokenizer, and that they fit what it starts from.
pub async fn look_at(config: &CheckedConfig, parent: Parent, corpora: &Corpora) -> Result<Submission, Failure> {
    let Parent { pin: parent, shape: inherited, tokenizer, note } = parent;
    // What the run's row and its workers get.
    told(config, inherited.as_ref()).check("config").map_err(invalid)?;
    let (opened, shape, odd) = blocking({
        let (config, inherited) = (config.clone(), inherited.clone());
        move || open(&config, inherited, &tokenizer)
    })
    .await?;
    let averaged = config.optimizer.ema_decay.is_some();
    let bytes = checkpoint_bytes(&shape, averaged).saturating_mul(checkpoints_kept(config));
    let unchecked = config.run.cuda_graphs.then(|| UNCHECKED_GRAPHS.to_owned());
    let warnings =
        unchecked.into_iter().chain(note).chain(opened.corpus.warnings().iter().cloned()).chain(odd).collect();
    let submission = Submission { warnings, ..Submission::new(config, inherited, parent, bytes) };
    corpora.keep(submission.run.clone(), opened);
    Ok(submission)
}

/// The config with the model that the run has.
fn told(config: &CheckedConfig, inherited: Option<&ModelShape>) -> RunConfig {
    inherited.map_or_else(|| RunConfig::clone(config), |shape| config.with_shape(shape))
}

impl Submission {
    fn new(config: &CheckedConfig, inherited: Option<ModelShape>, parent: Option<Pin>, bytes: u64) -> Self {
        let run: RunId = uuid::Uuid::now_v7().to_string().parse().expect("a UUID is an identifier");
        let id = parent.as_ref().map(|pin| pin.id().clone());
        let text = config::to_toml(&told(config, inherited.as_ref()));
        let details = RunDetails { config: text, parent: id, created_ms: Clock::wall_ms() };
        Self { run, spec: RunSpec::of(config), details, parent, inherited, bytes, warnings: Vec::new() }
    }

    /// A run whose config differs from this one's in its name and seed alone, so that it need not be looked at again.
    pub async fn with_seed(&self, config: &CheckedConfig, repository: &Arc<Repository>) -> Self {
        let pin = match &self.parent {
            Some(pin) => Some(repository.pin(pin.id().clone()).await),
            None => None,
        };
        Self::new(config, self.inherited.clone(), pin, self.bytes)
    }
}

/// Opens the data and makes the first samples of one slot from it. The text is what is odd about the tokenizer.
fn open(
    config: &CheckedConfig,
    inherited: Option<ModelShape>,
    its_tokenizer: &ItsTokenizer,
) -> Result<(Arc<Opened>, ModelShape, Option<String>), Failure> {
    let failure = |error: corpus::CorpusError| corpora::failure(&error);
    let Opened { corpus, tokenizer } = corpora::open(config)?;
    if let Some(error) = corpus.unmeasured() {
        return Err(corpora::failure(error));
    }
    let size = i64::try_from(tokenizer.size()).unwrap_or(i64::MAX);
    let length = i64::try_from(config.batch.sequence_length).unwrap_or(i64::MAX);
    let shape = inherited.unwrap_or_else(|| config.model.shape(size, length));
    corpus::check_vocabulary(&tokenizer, &shape).map_err(failure)?;
    let odd = its_tokenizer.check(&tokenizer, &config.tokenizer.path).map_err(failure)?;
    corpus::check_segmenter(&config.objective, &tokenizer).map_err(failure)?;
    let mut loader = Loader::new(Arc::clone(&corpus), Arc::clone(&tokenizer), config);
    loader.assign(&[(SlotId(0), Cursor::default())]);
    loader.next(SlotId(0), Step(1)).map_err(failure)?;
    drop(loader);
    Ok((Arc::new(Opened { corpus, tokenizer }), shape, odd))
}

/// How many checkpoints lie there at the same time: those that are kept and one that is being written, but never more
/// than the run makes.
fn checkpoints_kept(config: &CheckedConfig) -> u64 {
    let checkpoint = &config.checkpoint;
    let kept = (checkpoint.keep_latest as u64).saturating_add(checkpoint.keep_best as u64).saturating_add(1);
    let made = config.run.steps.checked_div(checkpoint.every_steps).unwrap_or(0) + 1;
    kept.min(made)
}

/// Weights, two moments and, if there is one, the average in float32, roughly: biases and norms are small beside the rest.
fn checkpoint_bytes(shape: &ModelShape, averaged: bool) -> u64 {
    let number = |value: i64| u128::from(value.unsigned_abs());
    let (hidden, intermediate) = (number(shape.hidden), number(shape.intermediate));
    let embeddings = (number(shape.vocabulary) + number(shape.max_positions)).saturating_mul(hidden);
    let layer = (4 * hidden + 3 * intermediate).saturating_mul(hidden);
    let values = embeddings.saturating_add(number(shape.layers).saturating_mul(layer));
    let copies = 3 + u128::from(averaged);
    u64::try_from(values.saturating_mul(copies * 4)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(checkpoint: &str) -> CheckedConfig {
        let text = format!(
            "[run]\nname = \"r\"\nkind = \"pretrain\"\nsteps = 10\n[data]\npaths = [\"/c\"]\n[tokenizer]\npath = \"/t\"\n\
             [batch]\nslots = 1\nmicro_batch = 1\nsequence_length = 16\n[checkpoint]\n{checkpoint}"
        );
        config::parse("r", &text).unwrap().check("r").unwrap()
    }

    #[test]
    fn to_keep_every_checkpoint_takes_no_more_room_than_they_do() {
        assert_eq!(checkpoints_kept(&config("every_steps = 1\nkeep_latest = 2\nkeep_best = 1")), 4);
        assert_eq!(checkpoints_kept(&config("every_steps = 5\nkeep_latest = 9223372036854775807")), 3);
        assert_eq!(checkpoints_kept(&config("every_steps = 0\nkeep_latest = 5")), 1);
    }

    #[test]
    fn a_model_beyond_all_numbers_needs_more_than_any_disk_has() {
        let mut config = config("").model.clone();
        let mini = |averaged| checkpoint_bytes(&config.shape(30_522, 16), averaged);
        assert!(mini(false) > 100 << 20, "BERT-mini with its moments");
        assert_eq!(mini(true), mini(false) / 3 * 4, "and with an average of its weights");
        config.hidden = Some(i64::MAX);
        config.layers = Some(i64::MAX);
        assert_eq!(checkpoint_bytes(&config.shape(30_522, 16), false), u64::MAX);
    }
}
