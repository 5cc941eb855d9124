//! Checkpoints on their way to the coordinator, in the background.
//!
//! One capture is under way at most: who comes with the next one waits, so that memory is bounded and a slow disk slows
//! the run instead of filling the host.

use crate::training::remote::Remote;
use bytes::Bytes;
use proto::v1::upload_part::Kind;
use proto::v1::{CheckpointFile, CheckpointRef, Chunk, CompleteShardRequest, UploadHeader, UploadPart};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;
use trainer::Capture;

const CHUNK_BYTES: usize = 1 << 20;

struct Job {
    run: String,
    capture: Capture,
}

#[derive(Default)]
struct State {
    /// Handed over and neither stored nor given up.
    under_way: bool,
    /// Why the newest capture is not stored.
    failure: Option<String>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_free(&self) -> MutexGuard<'_, State> {
        let state = self.lock();
        self.changed.wait_while(state, |state| state.under_way).unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, failure: Option<String>) {
        *self.lock() = State { under_way: false, failure };
        self.changed.notify_all();
    }
}

/// The background thread's queue.
pub struct Uploads {
    jobs: Sender<Job>,
    shared: Arc<Shared>,
}

impl Uploads {
    /// Starts the thread.
    pub fn start(remote: Remote, worker: String) -> std::io::Result<Self> {
        let (jobs, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let for_thread = shared.clone();
        std::thread::Builder::new()
            .name("uploads".to_owned())
            .spawn(move || work(&remote, &worker, &receiver, &for_thread))?;
        Ok(Self { jobs, shared })
    }

    /// Hands a capture over; waits while an earlier one is under way.
    pub fn add(&self, run: String, capture: Capture) {
        let mut state = self.shared.wait_until_free();
        *state = State { under_way: true, failure: None };
        drop(state);
        if self.jobs.send(Job { run, capture }).is_err() {
            self.shared.done(Some("the thread that stores checkpoints has ended".to_owned()));
        }
    }

    /// Waits until nothing is under way; an error says why the newest capture is not stored.
    pub fn finish(&self) -> Result<(), String> {
        self.shared.wait_until_free().failure.clone().map_or(Ok(()), Err)
    }

    /// A new generation: what failed in an older one does not matter to it.
    pub fn forget_failure(&self) {
        self.shared.lock().failure = None;
    }
}

fn work(remote: &Remote, worker: &str, jobs: &Receiver<Job>, shared: &Shared) {
    // If this thread dies of a panic, those who wait are told.
    struct Guard<'a>(&'a Shared);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.done(Some("storing a checkpoint ended in a defect".to_owned()));
            }
        }
    }
    let _guard = Guard(shared);
    while let Ok(Job { run, capture }) = jobs.recv() {
        let (generation, step) = (capture.generation.0, capture.step.0);
        let started = std::time::Instant::now();
        match store(remote, worker, &run, &capture) {
            Ok(bytes) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(run, generation, step, bytes, seconds, "checkpoint share stored");
                shared.done(None);
            }
            Err(message) => {
                tracing::error!(run, generation, step, message, "checkpoint share not stored");
                shared.done(Some(format!("the checkpoint of step {step} could not be stored: {message}")));
            }
        }
    }
}

/// All files of this rank, then the word that the shard is complete. Returns the number of bytes.
fn store(remote: &Remote, worker: &str, run: &str, capture: &Capture) -> Result<u64, String> {
    let checkpoint = CheckpointRef { run: run.to_owned(), generation: capture.generation.0, step: capture.step.0 };
    // A share is worth storing even when its generation is over, so nothing but the coordinator's answer ends this.
    let forever = CancellationToken::new();
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
            let parts = parts(header.clone(), contents.clone());
            remote.coordinator.checkpoints().upload(tokio_stream::iter(parts)).await
        };
        remote.persist(&forever, "checkpoint upload", call).map_err(|failure| format!("{name}: {failure}"))?;
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
        weights_digest: weights_digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
    };
    let call = || async { remote.coordinator.checkpoints().complete_shard(request.clone()).await };
    remote.persist(&forever, "checkpoint", call).map_err(|failure| failure.to_string())?;
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
