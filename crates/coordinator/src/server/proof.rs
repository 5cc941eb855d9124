//! `ledger verify`: reads a run's commits page by page for the proof in [`super::ledger`], and makes the units again for
//! it if that is wanted.

use super::corpora::{Opened, blocking, failure, stored_config};
use super::ledger::{self, Ledger};
use super::runs::{Shown, find};
use super::wire;
use corpus::{Dealt, UnitCounter};
use proto::{Failure, FailureKind, v1};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use store::{CommitRow, RunRow};
use tokio::sync::mpsc;
use tonic::Status;
use types::{RunId, Step};

/// Commits read at once.
const COMMITS: usize = 1024;
/// A run that goes back to a checkpoint while its ledger is read is read so often at most.
const TRIES: usize = 5;
/// Units that each thread makes between two words of progress.
const UNITS_EACH: usize = 2;

/// Where the progress of a deep proof goes.
pub type Progress = mpsc::Sender<Result<v1::LedgerProgress, Status>>;

/// Proves a run's ledger; with `deep`, every unit is made again.
pub async fn prove(shown: &Shown, wanted: &str, deep: Option<&Progress>) -> Result<v1::LedgerReport, Failure> {
    let row = find(&shown.reader, wanted).await?;
    let opened = shown.corpora.of(row.id.as_str()).await?;
    for _ in 0..TRIES {
        // The run may go on meanwhile: what is proved is what stands now, up to this step.
        let Some(run) = read(shown, &row.id).await? else { break };
        let report = walk(shown, &run, &opened, deep).await?;
        // A rewind in between has mixed two histories.
        if read(shown, &row.id).await?.is_some_and(|now| now.attempt == run.attempt) {
            return Ok(report);
        }
    }
    let message = format!("run {} went back to a checkpoint again and again while it was read; try again", row.id);
    Err(Failure::new(FailureKind::Unavailable, message))
}

async fn read(shown: &Shown, run: &RunId) -> Result<Option<RunRow>, Failure> {
    let run = run.clone();
    shown.reader.call(move |reader| reader.run(&run)).await.map_err(wire::database_failure)
}

/// Proves the commits of a run up to the step that its row tells.
async fn walk(
    shown: &Shown,
    row: &RunRow,
    opened: &Opened,
    deep: Option<&Progress>,
) -> Result<v1::LedgerReport, Failure> {
    let config = stored_config(&row.id, &row.config)?;
    let mut ledger = Ledger::new(opened.corpus.plan().clone(), config.batch.clone(), config.run.steps);
    let again = deep.map(|progress| Again {
        counter: Arc::new(UnitCounter::new(Arc::clone(&opened.corpus), Arc::clone(&opened.tokenizer), &config)),
        progress,
        total_steps: row.step.0,
    });
    let mut after = Step(0);
    loop {
        let id = row.id.clone();
        let read = shown.reader.call(move |reader| reader.commits(&id, after, COMMITS));
        let mut page = read.await.map_err(wire::database_failure)?;
        let last = page.len() < COMMITS;
        let before = after;
        if let Some(commit) = page.last() {
            after = commit.step;
        }
        page.retain(|commit| commit.step <= row.step);
        if let Some(again) = &again {
            again.make(&mut ledger, &page, before).await?;
        }
        for commit in &page {
            ledger.add(commit.step, &commit.segments, commit.samples_digest);
        }
        if last || after >= row.step {
            break;
        }
        tokio::task::yield_now().await;
    }
    let ledger::Report { ok, epochs, samples, duplicates, missing, chain, problems, steps } =
        ledger.finish(row.step, row.samples_digest);
    let (chain, deep) = (chain.to_string(), deep.is_some());
    Ok(v1::LedgerReport { ok, epochs, samples, duplicates, missing, chain, problems, steps, deep })
}

/// Makes units again.
struct Again<'a> {
    counter: Arc<UnitCounter>,
    progress: &'a Progress,
    total_steps: u64,
}

impl Again<'_> {
    /// All units of these commits, which come after step `before`.
    async fn make(&self, ledger: &mut Ledger, page: &[CommitRow], before: Step) -> Result<(), Failure> {
        // The rest of the machine trains, or serves.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2).clamp(1, 8);
        let units = ledger.unmade(page.iter().flat_map(|commit| &commit.segments));
        let units: Vec<Dealt> = units.into_iter().map(|(epoch, unit)| Dealt { epoch, unit }).collect();
        let mut made = 0;
        for some in units.chunks(threads * UNITS_EACH) {
            self.tell(before.0 + (page.len() * made / units.len()) as u64).await?;
            made += some.len();
            let (counter, some) = (Arc::clone(&self.counter), some.to_vec());
            for (dealt, samples) in blocking(move || count(&counter, &some, threads)).await? {
                ledger.made(dealt, samples);
            }
        }
        self.tell(before.0 + page.len() as u64).await
    }

    async fn tell(&self, steps: u64) -> Result<(), Failure> {
        let progress = v1::LedgerProgress { steps, total_steps: self.total_steps, report: None };
        let gone = |_| Failure::new(FailureKind::Unavailable, "who asked has gone");
        self.progress.send(Ok(progress)).await.map_err(gone)
    }
}

/// Makes `units` on several threads.
fn count(counter: &UnitCounter, units: &[Dealt], threads: usize) -> Result<Vec<(Dealt, u64)>, Failure> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(Dealt, u64)>, Failure> {
        let mut counted = Vec::new();
        while let Some(dealt) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
            counted.push((*dealt, counter.count(*dealt).map_err(|error| failure(&error))?));
        }
        Ok(counted)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut counted = Vec::new();
        for thread in threads {
            let broken = |_| Failure::new(FailureKind::Internal, "a thread that made units again panicked");
            counted.extend(thread.join().map_err(broken)??);
        }
        Ok(counted)
    })
}
