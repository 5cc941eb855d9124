//! Blocking calls to the coordinator from the trainer process's threads.
//!
//! While the coordinator is away a call is repeated with back-off; it ends early when the assignment it serves is over.

use crate::connect::Coordinator;
use proto::{Failure, FailureKind};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The coordinator and the runtime that carries calls to it.
#[derive(Clone)]
pub struct Remote {
    /// The coordinator.
    pub coordinator: Coordinator,
    /// Runs the calls. Never call from one of its own threads.
    pub runtime: Handle,
}

impl Remote {
    /// Waits for `future`, unless `over` comes first.
    pub fn wait<T>(
        &self,
        over: &CancellationToken,
        future: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Failure> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = over.cancelled() => Err(ended()),
                result = future => result.map_err(Failure::from),
            }
        })
    }

    /// Makes the call again and again until the coordinator answers it, or `over` comes.
    pub fn persist<T, F: Future<Output = Result<T, Status>>>(
        &self,
        over: &CancellationToken,
        what: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        let mut pause = PAUSE_MIN;
        loop {
            let status = match self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = over.cancelled() => None,
                    result = call() => Some(result),
                }
            }) {
                None => return Err(ended()),
                Some(Ok(value)) => return Ok(value),
                Some(Err(status)) => status,
            };
            if !is_absence(&status) {
                return Err(status.into());
            }
            if pause == PAUSE_MIN {
                let reason = crate::agent::session::root_cause(&status);
                tracing::warn!(what, reason, "the coordinator does not answer; trying again");
            }
            self.runtime.block_on(async {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            });
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// The call did not get through, or the coordinator says "not now".
pub fn is_absence(status: &Status) -> bool {
    let transport = std::error::Error::source(status).is_some();
    status.code() == Code::Unavailable
        || transport && matches!(status.code(), Code::Unknown | Code::Cancelled | Code::Internal)
}

fn ended() -> Failure {
    Failure::new(FailureKind::Fenced, "the assignment ended")
}
