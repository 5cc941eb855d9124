//! Checkpoints on their way to the coordinator, in the background.
//!
//! One capture is under way at most: who comes with the next one waits, so that memory is bounded and a slow disk slows
//! the run instead of filling the host.

use crate::training::remote::{Insist, Remote, storing};
use crate::training::reporter::Reporter;
use bytes::Bytes;
use proto::v1::upload_part::Kind;
use proto::v1::{CheckpointFile, CheckpointRef, Chunk, CompleteShardRequest, UploadHeader, UploadPart};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trainer::Capture;

const CHUNK_BYTES: usize = 1 << 20;

struct Job {
    run: String,
    capture: Capture,
    given_up: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Of the one that was handed over and is neither stored nor given up: how to give it up.
    under_way: Option<CancellationToken>,
    /// Why the newest capture is not stored.
    failure: Option<String>,
}

type Shared = Arc<watch::Sender<State>>;

fn done(shared: &Shared, failure: Option<String>) {
    shared.send_replace(State { under_way: None, failure });
}

/// The background thread's queue.
pub struct Uploads {
    jobs: SyncSender<Job>,
    shared: Shared,
    runtime: Handle,
}

impl Uploads {
    /// Starts the thread.
    pub fn start(remote: Remote, reporter: Arc<Reporter>, worker: String) -> std::io::Result<Self> {
        let (jobs, receiver) = sync_channel(1);
        let shared = Shared::default();
        let (for_thread, runtime) = (shared.clone(), remote.runtime.clone());
        std::thread::Builder::new()
            .name("uploads".to_owned())
            .spawn(move || work(&remote, &reporter, &worker, &receiver, &for_thread))?;
        Ok(Self { jobs, shared, runtime })
    }

    /// Hands a capture over; waits while an earlier one is under way. A capture whose assignment ends in that time is
    /// dropped: its generation cannot complete the checkpoint any more.
    pub fn add(&self, run: String, capture: Capture, over: &CancellationToken) {
        if !self.wait_until_free(over.cancelled()) {
            tracing::warn!(run, step = capture.step.0, "not stored: the assignment ended before its turn came");
            return;
        }
        let given_up = CancellationToken::new();
        self.shared.send_replace(State { under_way: Some(given_up.clone()), failure: None });
        if self.jobs.send(Job { run, capture, given_up }).is_err() {
            done(&self.shared, Some("the thread that stores checkpoints has ended".to_owned()));
        }
    }

    /// Waits until nothing is under way, or the assignment is over; an error says why the newest capture is not stored.
    pub fn finish(&self, over: &CancellationToken) -> Result<(), String> {
        if !self.wait_until_free(over.cancelled()) {
            return Err("the assignment ended before the checkpoint was stored".to_owned());
        }
        self.shared.borrow().failure.clone().map_or(Ok(()), Err)
    }

    /// The run is over: what is under way has so long to be stored, and is given up then.
    pub fn end(&self, patience: Duration) -> Result<(), String> {
        if !self.wait_until_free(async { tokio::time::sleep(patience).await }) {
            if let Some(given_up) = &self.shared.borrow().under_way {
                given_up.cancel();
            }
            self.wait_until_free(std::future::pending());
        }
        self.shared.borrow().failure.clone().map_or(Ok(()), Err)
    }

    /// A new generation: what failed in an older one does not matter to it.
    pub fn forget_failure(&self) {
        self.shared.send_modify(|state| state.failure = None);
    }

    /// False if `end` came first.
    fn wait_until_free(&self, end: impl Future<Output = ()>) -> bool {
        let mut state = self.shared.subscribe();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                // An error is impossible: the sender lives in `self`.
                _ = state.wait_for(|state| state.under_way.is_none()) => true,
                () = end => false,
            }
        })
    }
}

fn work(remote: &Remote, reporter: &Arc<Reporter>, worker: &str, jobs: &Receiver<Job>, shared: &Shared) {
    // If this thread dies of a panic, those who wait are told.
    struct Guard<'a>(&'a Shared);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                done(self.0, Some("storing a checkpoint ended in a defect".to_owned()));
            }
        }
    }
    let _guard = Guard(shared);
    while let Ok(job) = jobs.recv() {
        let (run, generation, step) = (&job.run, job.capture.generation.0, job.capture.step.0);
        let started = std::time::Instant::now();
        match store(remote, reporter, worker, &job) {
            Ok(bytes) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(run, generation, step, bytes, seconds, "checkpoint share stored");
                done(shared, None);
            }
            Err(message) => {
                tracing::error!(run, generation, step, message, "checkpoint share not stored");
                done(shared, Some(format!("the checkpoint of step {step} could not be stored: {message}")));
            }
        }
    }
}

/// All files of this rank, then the word that the shard is complete. Returns the number of bytes.
fn store(remote: &Remote, reporter: &Arc<Reporter>, worker: &str, job: &Job) -> Result<u64, String> {
    let Job { run, capture, given_up } = job;
    let checkpoint = CheckpointRef { run: run.clone(), generation: capture.generation.0, step: capture.step.0 };
    // Without the last one all was in vain: a full disk is waited out. Others are tried again with the next one.
    let insists: fn(tonic::Code) -> Insist = if capture.last { storing } else { |_| Insist::No };
    // A share is worth storing even when its generation is over, so that does not end this.
    let mut files = Vec::new();
    for (name, contents) in capture.files().map_err(|error| error.to_string())? {
        let contents = Bytes::from(contents);
        let hash = blake3::hash(&contents).as_bytes().to_vec();
        let header = UploadHeader {
            checkpoint: Some(checkpoint.clone()),
            worker: worker.to_owned(),
            file: name.clone(),
            bytes: contents.len() as u64,
            blake3: hash.clone(),
        };
        let call = || async {
            // Each piece, and each try: a coordinator that is away does not make us hang.
            let reporter = reporter.clone();
            let parts = parts(header.clone(), contents.clone()).inspect(move |_| reporter.transferred());
            remote.coordinator.checkpoints().upload(tokio_stream::iter(parts)).await
        };
        remote
            .persist_through(given_up, "checkpoint upload", insists, call)
            .map_err(|failure| format!("{name}: {failure}"))?;
        files.push(CheckpointFile { name, bytes: contents.len() as u64, blake3: hash });
    }
    let bytes = files.iter().map(|file| file.bytes).sum();
    let weights_digest = capture.weights_digest().map_err(|error| error.to_string())?;
    let request = CompleteShardRequest {
        checkpoint: Some(checkpoint),
        worker: worker.to_owned(),
        rank: capture.rank.0,
        world: capture.world.0,
        files,
        eval_loss: capture.eval_loss,
        score: capture.score,
        weights_digest: weights_digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
    };
    let call = || async {
        reporter.transferred();
        remote.coordinator.checkpoints().complete_shard(request.clone()).await
    };
    remote.persist_through(given_up, "checkpoint", insists, call).map_err(|failure| failure.to_string())?;
    Ok(bytes)
}

fn parts(header: UploadHeader, contents: Bytes) -> impl Iterator<Item = UploadPart> {
    let chunks = (0..contents.len()).step_by(CHUNK_BYTES).map(move |start| {
        let end = contents.len().min(start + CHUNK_BYTES);
        Kind::Chunk(Chunk { offset: start as u64, data: contents[start..end].to_vec() })
    });
    std::iter::once(Kind::Header(header)).chain(chunks).map(|kind| UploadPart { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_an_upload_hears_of_the_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (jobs, _receiver) = sync_channel(1);
        let (shared, given_up) = (Shared::default(), CancellationToken::new());
        shared.send_replace(State { under_way: Some(given_up.clone()), failure: None });
        let uploads = Uploads { jobs, shared: shared.clone(), runtime: runtime.handle().clone() };

        let over = CancellationToken::new();
        over.cancel();
        assert!(uploads.finish(&over).unwrap_err().contains("the assignment ended"));
        assert!(!given_up.is_cancelled(), "the end of an assignment leaves the upload alone");

        let thread = runtime.spawn(async move {
            given_up.cancelled().await;
            done(&shared, Some("given up".to_owned()));
        });
        assert_eq!(uploads.end(Duration::from_millis(1)), Err("given up".to_owned()));
        runtime.block_on(thread).unwrap();
        uploads.forget_failure();
        assert_eq!(uploads.finish(&CancellationToken::new()), Ok(()));
    }

    #[test]
    fn chunks_cover_a_file_exactly() {
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5] {
            let contents: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let mut seen = Vec::new();
            let mut all = parts(UploadHeader::default(), Bytes::from(contents.clone()));
            assert!(matches!(all.next().unwrap().kind, Some(Kind::Header(_))));
            for part in all {
                let Some(Kind::Chunk(chunk)) = part.kind else { panic!("a second header") };
                assert_eq!(chunk.offset as usize, seen.len());
                assert!(!chunk.data.is_empty());
                seen.extend(chunk.data);
            }
            assert_eq!(seen, contents, "{size}");
        }
    }
}
