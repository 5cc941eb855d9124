//! The runs' corpora, opened when somebody needs one and kept for a while: a plan is made from the footers of all files.

use super::on_thread::OnThread;
use super::runs::find;
use config::CheckedConfig;
use corpus::{Corpus, CorpusError, ErrorKind, Tokenizer};
use proto::{Failure, FailureKind};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::Reader;
use types::RunId;

/// Corpora kept open.
const KEPT: usize = 4;

/// A run's corpus and tokenizer.
pub struct Opened {
    /// The files and the plan.
    pub corpus: Arc<Corpus>,
    /// Text to ids.
    pub tokenizer: Arc<Tokenizer>,
}

/// The opened ones, most recently used last.
pub struct Corpora {
    reader: OnThread<Reader>,
    kept: Mutex<VecDeque<(RunId, Arc<Opened>)>>,
    // Those that are being opened for people, or could not be.
    tried: Mutex<HashSet<RunId>>,
}

impl std::fmt::Debug for Corpora {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Corpora")
    }
}

/// A corpus that cannot be used, for the other side.
pub fn failure(error: &CorpusError) -> Failure {
    let kind = match error.kind {
        // A worker asks again for as long as it is told this, so it is only for what may pass by itself.
        ErrorKind::Io => FailureKind::Unavailable,
        ErrorKind::Internal => FailureKind::Internal,
        _ => FailureKind::Invalid,
    };
    Failure::new(kind, error.to_string())
}

/// Runs what blocks, off the async threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Failure::new(FailureKind::Internal, format!("reading the corpus: {error}"))))
}

/// Opens a corpus and its tokenizer.
pub fn open(config: &CheckedConfig) -> Result<Opened, Failure> {
    let tokenizer = Tokenizer::open(&config.tokenizer).map_err(|error| failure(&error))?;
    let corpus = Corpus::open(config).map_err(|error| failure(&error))?;
    Ok(Opened { corpus: Arc::new(corpus), tokenizer: Arc::new(tokenizer) })
}

/// A config as it was stored with a run.
pub fn stored_config(run: &RunId, text: &str) -> Result<CheckedConfig, Failure> {
    let internal = |error: config::ConfigError| {
        Failure::new(FailureKind::Internal, format!("the config stored with run {run} is no longer valid: {error}"))
    };
    config::parse(run.as_str(), text).map_err(internal)?.check(run.as_str()).map_err(internal)
}

impl Corpora {
    /// Nothing opened yet.
    pub fn new(reader: OnThread<Reader>) -> Self {
        Self { reader, kept: Mutex::default(), tried: Mutex::default() }
    }

    fn take(&self, run: &RunId) -> Option<Arc<Opened>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().position(|(id, _)| id == run)?;
        let entry = kept.remove(index)?;
        kept.push_back(entry.clone());
        Some(entry.1)
    }

    /// A run's corpus. `wanted` is as in [`super::request::find_run`].
    pub async fn of(&self, wanted: &str) -> Result<Arc<Opened>, Failure> {
        if let Some(opened) = wanted.parse().ok().and_then(|run| self.take(&run)) {
            return Ok(opened);
        }
        let row = find(&self.reader, wanted).await?;
        if let Some(opened) = self.take(&row.id) {
            return Ok(opened);
        }
        let config = stored_config(&row.id, &row.config)?;
        let opened = Arc::new(blocking(move || open(&config)).await?);
        self.keep(row.id, Arc::clone(&opened));
        Ok(opened)
    }

    /// A run's corpus if it is open. If not it will be before long, if it can be: nobody waits for it.
    pub fn at_hand(self: &Arc<Self>, run: &RunId) -> Option<Arc<Opened>> {
        let opened = self.take(run);
        if opened.is_none() && self.tried().insert(run.clone()) {
            let (this, run) = (Arc::clone(self), run.clone());
            tokio::spawn(async move {
                match this.of(run.as_str()).await {
                    Ok(_) => drop(this.tried().remove(&run)),
                    Err(failure) => tracing::debug!(run = %run, error = %failure, "the corpus cannot be opened"),
                }
            });
        }
        opened
    }

    fn tried(&self) -> MutexGuard<'_, HashSet<RunId>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one that was opened elsewhere.
    pub fn keep(&self, run: RunId, opened: Arc<Opened>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| *known != run);
        kept.push_back((run, opened));
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
}
