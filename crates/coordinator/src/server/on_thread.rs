//! A value that blocks, on a thread of its own: SQLite's connections.

use std::thread;
use tokio::sync::{mpsc, oneshot};

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// More callers than this wait for their turn to ask.
const QUEUE: usize = 256;

/// Calls reach the value one after the other, in the order in which they were made.
#[derive(Debug)]
pub struct OnThread<T> {
    jobs: mpsc::Sender<Job<T>>,
}

impl<T> Clone for OnThread<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

/// Waits until the thread has done all it was asked for and dropped the value.
#[derive(Debug)]
pub struct Joiner(thread::JoinHandle<()>);

impl Joiner {
    /// Blocks; every [`OnThread`] of the value must have been dropped.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("a database thread panicked");
        }
    }
}

impl<T: Send + 'static> OnThread<T> {
    /// Starts the thread. It ends when the last handle is dropped.
    pub fn start(name: &str, mut value: T) -> std::io::Result<(Self, Joiner)> {
        let (jobs, mut queue) = mpsc::channel::<Job<T>>(QUEUE);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut value);
            }
        })?;
        Ok((Self { jobs }, Joiner(thread)))
    }

    /// Runs `work` on the thread and answers its result.
    pub async fn call<R: Send + 'static>(&self, work: impl FnOnce(&mut T) -> R + Send + 'static) -> R {
        let (answer, result) = oneshot::channel();
        let job: Job<T> = Box::new(move |value| {
            // The caller may have been cancelled; the work is done all the same.
            let _ = answer.send(work(value));
        });
        if self.jobs.send(job).await.is_err() {
            unreachable!("the thread lives as long as a handle");
        }
        result.await.expect("the thread answers every job, or the process has a defect that it already logged")
    }
}
