//! Checkpoints between the wire, the repository and the run database.
//!
//! The repository holds the bytes and decides what is whole; here it is seen to that only the present state of a run is
//! written, that the database knows what is committed, and that old ones go.

mod service;

#[cfg(test)]
mod tests;

pub use service::CheckpointsService;

use super::clock::Clock;
use super::driver::Command;
use super::on_thread::OnThread;
use super::wire;
use control::{CheckpointAt, Control, Event};
use proto::{Failure, FailureKind};
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use store::{
    Best, Change, CheckpointError, CheckpointId, CheckpointProblem, CheckpointRepository, CheckpointRow, EventRow,
    Manifest, Reader, RetentionPolicy, RunRow, Standing,
};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use types::{Generation, RunId, Step};

/// Scrubbing looks this often whether there is anything to read.
const SCRUB_IDLE: Duration = Duration::from_secs(600);

/// The repository together with what is known of the runs.
#[derive(Debug)]
pub struct Repository {
    store: CheckpointRepository,
    reader: OnThread<Reader>,
    commands: mpsc::Sender<Command>,
    // Retention reads a whole checkpoint: one at a time.
    tending: Mutex<()>,
    // What retention must leave although no row says so yet. One that two wait for is in it twice.
    pinned: std::sync::Mutex<Vec<CheckpointId>>,
    // Of each run the newest one of which people were told that it could not be stored.
    not_stored: std::sync::Mutex<HashMap<RunId, CheckpointId>>,
}

/// What the database has yet to learn of a run's checkpoints.
#[derive(Debug, Default)]
pub struct Stock {
    /// Committed, but no row says so.
    pub unrecorded: Vec<CheckpointRow>,
    /// Rows whose checkpoint was deleted.
    pub gone: Vec<CheckpointId>,
}

/// Keeps a checkpoint from retention for as long as it lives: until the row that does is durable.
#[derive(Debug)]
pub struct Pin {
    repository: Arc<Repository>,
    id: CheckpointId,
}

impl Pin {
    /// Which checkpoint.
    pub fn id(&self) -> &CheckpointId {
        &self.id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.repository.pinned();
        if let Some(index) = pinned.iter().position(|id| *id == self.id) {
            pinned.swap_remove(index);
        }
    }
}

/// A checkpoint that cannot be written or read, for the other side.
pub fn failure(error: CheckpointError) -> Failure {
    let kind = match &error {
        CheckpointError::Full { .. } => FailureKind::Full,
        CheckpointError::NotFound(_) | CheckpointError::NoSuchFile { .. } => FailureKind::NotFound,
        CheckpointError::FileName(_) | CheckpointError::Content { .. } => FailureKind::Invalid,
        CheckpointError::Interrupted { .. } => FailureKind::Unavailable,
        CheckpointError::Shard { .. } => FailureKind::Conflict,
        CheckpointError::Damaged { .. } => FailureKind::Corrupt,
        CheckpointError::Store { .. } | CheckpointError::Io { .. } => FailureKind::Internal,
    };
    Failure::new(kind, error.to_string())
}

fn ending() -> Failure {
    Failure::new(FailureKind::Unavailable, "the coordinator is shutting down; try again when it is back")
}

impl Repository {
    /// Over an opened store.
    pub fn new(store: CheckpointRepository, reader: OnThread<Reader>, commands: mpsc::Sender<Command>) -> Self {
        Self {
            store,
            reader,
            commands,
            tending: Mutex::default(),
            pinned: Default::default(),
            not_stored: Default::default(),
        }
    }

    /// The store itself.
    pub fn store(&self) -> &CheckpointRepository {
        &self.store
    }

    fn pinned(&self) -> MutexGuard<'_, Vec<CheckpointId>> {
        // Every critical section leaves the list whole.
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a checkpoint from retention. Whether it is still there is to be looked at afterwards.
    pub async fn pin(self: &Arc<Self>, id: CheckpointId) -> Pin {
        // One that is at work has asked already what is in use.
        let _one = self.tending.lock().await;
        self.pinned().push(id.clone());
        Pin { repository: Arc::clone(self), id }
    }

    /// What the run's history says of its checkpoints.
    async fn standings(&self, run: &RunRow) -> Result<Vec<(Manifest, Standing)>, Failure> {
        let of = run.id.clone();
        let rows = self.reader.call(move |reader| reader.checkpoints(&of)).await.map_err(wire::database_failure)?;
        let mut all = Vec::new();
        for manifest in self.store.list(&run.id).await.map_err(failure)? {
            let standing = if rows.iter().any(|row| row.id == manifest.id && row.damaged) {
                Standing::Damaged
            } else if manifest.id.step > run.step {
                Standing::Uncommitted
            } else if self.stands(&manifest.id).await? {
                Standing::Stands
            } else {
                Standing::Superseded
            };
            all.push((manifest, standing));
        }
        Ok(all)
    }

    /// Whether a checkpoint belongs to the run's history as it stands: no rewind has superseded it.
    async fn stands(&self, id: &CheckpointId) -> Result<bool, Failure> {
        let Some(before) = id.step.0.checked_sub(1) else { return Ok(true) };
        let run = id.run.clone();
        let commits = self.reader.call(move |reader| reader.commits(&run, Step(before), 1)).await;
        let commits = commits.map_err(wire::database_failure)?;
        Ok(commits.first().is_some_and(|commit| commit.step == id.step && commit.generation <= id.generation))
    }

    /// Refuses what a generation writes that is over, unless it finishes what still stands: members go on uploading
    /// while the next generation is formed.
    pub async fn admit(&self, id: &CheckpointId) -> Result<(), Failure> {
        let (answer, present) = oneshot::channel();
        let run = id.run.clone();
        let question = move |control: &Control| {
            // Who asked may have gone.
            let _ = answer.send(control.run(&run).map(|record| record.generation));
        };
        let question = super::driver::Question(Box::new(question));
        self.commands.send(Command::Ask(question)).await.map_err(|_| ending())?;
        let present: Option<Generation> = present.await.map_err(|_| ending())?;
        let Some(present) = present else {
            return Err(Failure::new(FailureKind::NotFound, format!("there is no run {}", id.run)));
        };
        if id.generation == present || (id.generation < present && self.stands(id).await?) {
            return Ok(());
        }
        let message = format!(
            "checkpoint {id}: generation {} of the run is over, it is at {present}; what it computed was superseded",
            id.generation
        );
        Err(Failure::new(FailureKind::Fenced, message))
    }

    fn row(&self, manifest: &Manifest, verified: bool) -> CheckpointRow {
        CheckpointRow {
            id: manifest.id.clone(),
            path: self.store.location(&manifest.id),
            bytes: manifest.bytes(),
            verified,
            damaged: false,
            eval_loss: manifest.eval_loss,
            score: manifest.score,
            weights_digest: manifest.weights_digest,
            created_ms: manifest.created_ms,
        }
    }

    /// A manifest was written: the database and control learn of it, and retention begins.
    pub async fn committed(self: &Arc<Self>, manifest: &Manifest) -> Result<(), Failure> {
        let (done, answer) = oneshot::channel();
        let row = self.row(manifest, false);
        self.commands.send(Command::CheckpointCommitted { row, done }).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?;
        self.tend_later(manifest.id.clone());
        Ok(())
    }

    /// Retention, off the caller's task.
    pub fn tend_later(self: &Arc<Self>, id: CheckpointId) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(failure) = this.tend(&id).await {
                tracing::warn!(run = %id.run, step = id.step.0, error = %failure, "retention failed; nothing is lost");
            }
        });
    }

    /// Whether the database knows it.
    pub async fn is_known(&self, id: &CheckpointId) -> Result<bool, Failure> {
        let (run, id) = (id.run.clone(), id.clone());
        let rows = self.reader.call(move |reader| reader.checkpoints(&run)).await.map_err(wire::database_failure)?;
        Ok(rows.iter().any(|row| row.id == id))
    }

    /// Verifies the newest checkpoint, then deletes what the policy does not keep.
    async fn tend(&self, id: &CheckpointId) -> Result<(), Failure> {
        let one = self.tending.lock().await;
        let rows = self.reader.call(|reader| reader.runs()).await.map_err(wire::database_failure)?;
        let Some(row) = rows.iter().find(|row| row.id == id.run) else { return Ok(()) };
        let policy = policy(row)?;
        let mut in_use: Vec<CheckpointId> =
            rows.iter().flat_map(|row| [row.restore.clone(), row.parent.clone()]).flatten().collect();
        in_use.extend(self.pinned().iter().cloned());
        let all = self.standings(row).await?;
        let retained = self.store.retain(&all, policy, &in_use).await.map_err(failure)?;
        let Some(newest) = retained.newest else { return Ok(()) };
        if retained.newest_problems.is_empty() {
            let manifest = self.store.manifest(&newest).await.map_err(failure)?;
            let mut changes = vec![Change::Checkpoint(self.row(&manifest, true))];
            changes.extend(retained.deleted.into_iter().map(Change::CheckpointDeleted));
            self.send(Command::Write { changes }).await;
            self.store.clean_unfinished(&id.run, newest.generation).await.map_err(failure)?;
        } else {
            drop(one);
            self.verified(&newest, &retained.newest_problems).await?;
        }
        Ok(())
    }

    /// Notes what a look at every byte of a checkpoint showed; damage is told once.
    pub async fn verified(&self, id: &CheckpointId, problems: &[CheckpointProblem]) -> Result<(), Failure> {
        // Not while retention works: what it deletes must not come back as a row.
        let _one = self.tending.lock().await;
        if matches!(self.store.manifest(id).await, Err(CheckpointError::NotFound(_))) {
            return Ok(());
        }
        let run = id.run.clone();
        let rows = self.reader.call(move |reader| reader.checkpoints(&run)).await.map_err(wire::database_failure)?;
        let Some(row) = rows.into_iter().find(|row| row.id == *id) else { return Ok(()) };
        let (verified, was_damaged) = (problems.is_empty(), row.damaged);
        let mut changes = Vec::new();
        if row.verified != verified || row.damaged == verified {
            changes.push(Change::Checkpoint(CheckpointRow { verified, damaged: !verified, ..row }));
        }
        if !verified && !was_damaged {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            let text = format!("the checkpoint at step {} is damaged: {}", id.step, problems.join("; "));
            tracing::error!(checkpoint = %id, problems = problems.join("; "), "a stored checkpoint is damaged");
            changes.push(Change::Event(EventRow { run: id.run.clone(), time_ms: Clock::wall_ms(), text }));
            // Control must not send anybody to it.
            let at = CheckpointAt { generation: id.generation, step: id.step };
            self.send(Command::Happened { event: Event::CheckpointLost { run: id.run.clone(), at } }).await;
        }
        if !changes.is_empty() {
            self.send(Command::Write { changes }).await;
        }
        Ok(())
    }

    /// The failure to answer who reads a checkpoint. If it is damaged, control knows of it before the answer is there.
    pub async fn unreadable(&self, id: &CheckpointId, error: CheckpointError) -> Failure {
        if let CheckpointError::Damaged { problems, .. } = &error
            && let Err(failure) = self.verified(id, problems).await
        {
            tracing::warn!(checkpoint = %id, error = %failure, "damage could not be noted");
        }
        failure(error)
    }

    /// A checkpoint that has a row is not there: retention was quicker, or ended between the two.
    async fn gone(&self, id: &CheckpointId) -> Result<(), Failure> {
        // What retention is about to write is known afterwards.
        let _one = self.tending.lock().await;
        if !matches!(self.store.manifest(id).await, Err(CheckpointError::NotFound(_))) {
            return Ok(());
        }
        let run = id.run.clone();
        let row = self.reader.call(move |reader| reader.run(&run)).await.map_err(wire::database_failure)?;
        self.send(Command::Write { changes: vec![Change::CheckpointDeleted(id.clone())] }).await;
        if row.is_some_and(|row| row.restore.as_ref() == Some(id)) {
            let at = CheckpointAt { generation: id.generation, step: id.step };
            self.send(Command::Happened { event: Event::CheckpointLost { run: id.run.clone(), at } }).await;
        }
        Ok(())
    }

    /// Tells people, the first time, that something of a checkpoint could not be stored.
    pub async fn not_stored(&self, id: &CheckpointId, error: &CheckpointError) {
        // A sender that went away is told of where its session ends.
        if matches!(error, CheckpointError::Interrupted { .. }) || !self.first_refusal(id) {
            return;
        }
        let text = format!("the checkpoint at step {} could not be stored: {error}", id.step);
        let event = Change::Event(EventRow { run: id.run.clone(), time_ms: Clock::wall_ms(), text });
        self.send(Command::Write { changes: vec![event] }).await;
    }

    fn first_refusal(&self, id: &CheckpointId) -> bool {
        let mut told = self.not_stored.lock().unwrap_or_else(PoisonError::into_inner);
        // Of those before that one people need no word any more.
        let first = told.get(&id.run).is_none_or(|newest| newest.age() < id.age());
        if first {
            told.insert(id.run.clone(), id.clone());
        }
        first
    }

    /// Reads all stored checkpoints again and again, one at a time and spread evenly over `period`, so that damage is
    /// found before somebody needs them. Until `shutdown`.
    pub async fn scrub(&self, period: Duration, shutdown: CancellationToken) {
        let mut last = None;
        loop {
            let stored = self.stored().await.unwrap_or_else(|failure| {
                tracing::warn!(error = %failure, "the list of checkpoints cannot be read");
                Vec::new()
            });
            let share = u32::try_from(stored.len()).unwrap_or(u32::MAX).max(1);
            // With nothing there it is looked again before long.
            let pause = if stored.is_empty() { period.min(SCRUB_IDLE) } else { period / share };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let place = |id: &CheckpointId| (id.run.clone(), id.age());
            let next = stored.iter().find(|id| last.as_ref().is_none_or(|last| place(id) > *last)).or(stored.first());
            let Some(id) = next else { continue };
            last = Some(place(id));
            let done = match self.store.verify(id).await {
                Ok(problems) => self.verified(id, &problems).await,
                Err(CheckpointError::NotFound(_)) => self.gone(id).await,
                Err(error) => Err(failure(error)),
            };
            if let Err(failure) = done {
                tracing::warn!(checkpoint = %id, error = %failure, "a stored checkpoint cannot be read again");
            }
        }
    }

    /// All checkpoints that the database knows, by run and age.
    async fn stored(&self) -> Result<Vec<CheckpointId>, Failure> {
        let read = |reader: &mut Reader| -> Result<Vec<CheckpointId>, store::DatabaseError> {
            let mut stored = Vec::new();
            for run in reader.runs()? {
                stored.extend(reader.checkpoints(&run.id)?.into_iter().map(|row| row.id));
            }
            stored.sort_by_key(|id| (id.run.clone(), id.age()));
            Ok(stored)
        };
        self.reader.call(read).await.map_err(wire::database_failure)
    }

    async fn send(&self, command: Command) {
        // Only a coordinator that is ending no longer listens; what is not written now is found at the next start.
        let _ = self.commands.send(command).await;
    }

    /// The newest checkpoint of a run that stands, is whole and is not past `at_most`, kept from retention; and what
    /// people should know.
    ///
    /// # Errors
    /// The store or the database cannot be read: that says nothing about what is in it.
    pub async fn find_restore(
        self: &Arc<Self>,
        run: &RunId,
        at_most: Step,
    ) -> Result<(Option<Pin>, Vec<String>), Failure> {
        loop {
            let (good, notes) = self.newest_good(run, at_most).await?;
            let Some(id) = good else { return Ok((None, notes)) };
            let pin = self.pin(id).await;
            match self.store.manifest(pin.id()).await {
                Ok(_) => return Ok((Some(pin), notes)),
                // Retention was quicker: there is a newer one.
                Err(CheckpointError::NotFound(_)) => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }

    /// The same, as an id that nothing keeps.
    pub async fn newest_good(
        &self,
        run: &RunId,
        at_most: Step,
    ) -> Result<(Option<CheckpointId>, Vec<String>), Failure> {
        // By folder, not by manifest: one whose manifest is damaged or cannot be read is looked at, and named.
        let mut superseded = Vec::new();
        for id in self.store.folders(run).await.map_err(failure)? {
            if id.step <= at_most && !self.stands(&id).await? {
                superseded.push(id);
            }
        }
        let usable = |id: &CheckpointId| id.step <= at_most && !superseded.contains(id);
        let found = self.store.newest_good(run, usable).await.map_err(failure)?;
        let notes = found.bad.iter().map(|(id, problems)| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            format!("the checkpoint at step {} was passed over: {}", id.step, problems.join("; "))
        });
        Ok((found.good.map(|manifest| manifest.id), notes.collect()))
    }

    /// Where store and database differ because the process ended in between.
    pub async fn stock(&self, run: &RunId) -> Result<Stock, Failure> {
        let of = run.clone();
        let rows = self.reader.call(move |reader| reader.checkpoints(&of)).await.map_err(wire::database_failure)?;
        let mut stock = Stock::default();
        let found = self.store.list(run).await.map_err(failure)?;
        for manifest in found.iter().filter(|manifest| !rows.iter().any(|row| row.id == manifest.id)) {
            stock.unrecorded.push(self.row(manifest, false));
        }
        for row in rows.into_iter().filter(|row| !found.iter().any(|manifest| manifest.id == row.id)) {
            // One that is damaged is still there.
            if matches!(self.store.manifest(&row.id).await, Err(CheckpointError::NotFound(_))) {
                stock.gone.push(row.id);
            }
        }
        Ok(stock)
    }
}

fn policy(row: &RunRow) -> Result<RetentionPolicy, Failure> {
    let config = config::parse(row.id.as_str(), &row.config)
        .map_err(|error| Failure::new(FailureKind::Internal, format!("the stored config: {error}")))?;
    let config::CheckpointConfig { keep_latest, keep_best, .. } = config.checkpoint;
    Ok(RetentionPolicy { keep_latest, keep_best, best: best(&config.eval) })
}

/// Which of a run's checkpoints are the best.
pub fn best(eval: &config::EvalConfig) -> Best {
    match (eval.best_metric.as_str(), eval.greater_is_better()) {
        ("loss", _) => Best::Loss,
        (_, false) => Best::Lower,
        (_, true) => Best::Higher,
    }
}
