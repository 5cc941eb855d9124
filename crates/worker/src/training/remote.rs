//! Blocking calls to the coordinator from the trainer process's threads.
//!
//! While the coordinator is away a call is repeated with back-off; it ends early when the assignment it serves is over.

use crate::connect::Coordinator;
use proto::{Failure, FailureKind};
use std::ops::RangeInclusive;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// Between two tries. Short enough to go on in well under two seconds once the coordinator is back.
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(1);
/// The same for what only somebody's help makes possible.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// A connection that breaks during a call looks like a call that breaks its connection (an answer that cannot be
/// decoded, say). So often in a row it is taken for the former; a coordinator that is away is seen to be away soon.
const BREAKS_MAX: u32 = 10;

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
        call: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        self.persist_through(over, what, |_| Insist::No, call)
    }

    /// The same, and some answers are not taken for one.
    pub fn persist_through<T, F: Future<Output = Result<T, Status>>>(
        &self,
        over: &CancellationToken,
        what: &str,
        insists: fn(Code) -> Insist,
        call: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = over.cancelled() => Err(ended()),
                result = repeat(what, PAUSES, insists, call) => result.map_err(Failure::from),
            }
        })
    }
}

/// Whether a call that was answered with an error is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insist {
    /// It is an answer.
    No,
    /// A few times: it may have been a hiccup.
    AFewTimes,
    /// Until somebody has made it possible.
    Always,
}

/// What cannot be stored now can be stored when somebody has made room, or the disk is back.
pub fn storing(code: Code) -> Insist {
    if matches!(code, Code::ResourceExhausted | Code::Internal) { Insist::Always } else { Insist::No }
}

/// What cannot be read in this moment may be read in the next.
pub fn reading(code: Code) -> Insist {
    if code == Code::Internal { Insist::AFewTimes } else { Insist::No }
}

async fn repeat<T, F: Future<Output = Result<T, Status>>>(
    what: &str,
    pauses: RangeInclusive<Duration>,
    insists: fn(Code) -> Insist,
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    let (mut pause, mut breaks) = (*pauses.start(), 0);
    loop {
        let status = match call().await {
            Ok(value) => return Ok(value),
            Err(status) => status,
        };
        let insists = insists(status.code());
        breaks = if status.code() == Code::Unavailable || insists == Insist::Always { 0 } else { breaks + 1 };
        if (!is_absence(&status) && insists == Insist::No) || breaks > BREAKS_MAX {
            return Err(status);
        }
        if pause == *pauses.start() {
            let reason = crate::agent::session::root_cause(&status);
            tracing::warn!(what, reason, "the coordinator cannot be reached, or cannot do it; trying again");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(if insists == Insist::Always { LONG_PAUSE } else { *pauses.end() });
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::Arc;

    /// A failure of the transport while a call was under way.
    fn broken() -> Status {
        Status::from_error(Box::new(std::io::Error::other("connection reset")))
    }

    async fn calls_until_an_end(answer: impl Fn(u32) -> Result<u32, Status>) -> (u32, Result<u32, Code>) {
        insisting(|_| Insist::No, answer).await
    }

    async fn insisting(
        insists: fn(Code) -> Insist,
        answer: impl Fn(u32) -> Result<u32, Status>,
    ) -> (u32, Result<u32, Code>) {
        let calls = Cell::new(0);
        let result = repeat("test", Duration::from_micros(1)..=Duration::from_micros(2), insists, || {
            calls.set(calls.get() + 1);
            std::future::ready(answer(calls.get()))
        });
        let result = result.await.map_err(|status| status.code());
        (calls.get(), result)
    }

    #[tokio::test]
    async fn absence_is_waited_out_and_an_answer_is_an_answer() {
        let back_later = |call| if call < 50 { Err(Status::unavailable("away")) } else { Ok(call) };
        assert_eq!(calls_until_an_end(back_later).await, (50, Ok(50)));
        let refused = |_| Err(Status::data_loss("the file is damaged"));
        assert_eq!(calls_until_an_end(refused).await, (1, Err(Code::DataLoss)));
    }

    #[tokio::test]
    async fn a_call_that_breaks_every_connection_is_given_up() {
        assert!(is_absence(&broken()));
        let (calls, result) = calls_until_an_end(|_| Err(broken())).await;
        assert_eq!((calls, result.is_err()), (BREAKS_MAX + 1, true));
        let restarts = |call| match call {
            1..=90 if call % 3 == 0 => Err(broken()),
            1..=90 => Err(Status::unavailable("away")),
            _ => Ok(call),
        };
        assert_eq!(calls_until_an_end(restarts).await, (91, Ok(91)));
    }

    #[tokio::test]
    async fn what_may_go_better_later_is_tried_again() {
        let internal = || Status::internal("input/output error");
        let hiccup = |call| if call < 4 { Err(internal()) } else { Ok(call) };
        assert_eq!(insisting(reading, hiccup).await, (4, Ok(4)));
        assert_eq!(calls_until_an_end(hiccup).await, (1, Err(Code::Internal)));
        let broken = |_| Err(internal());
        assert_eq!(insisting(reading, broken).await, (BREAKS_MAX + 1, Err(Code::Internal)));
        let full = |call| if call < 14 { Err(Status::resource_exhausted("no space")) } else { Ok(call) };
        assert_eq!(insisting(storing, full).await, (14, Ok(14)));
        assert_eq!(insisting(reading, full).await, (1, Err(Code::ResourceExhausted)));
        let damaged = |_| Err(Status::data_loss("the file is damaged"));
        assert_eq!(insisting(reading, damaged).await, (1, Err(Code::DataLoss)));
    }

    #[test]
    fn the_end_of_the_assignment_ends_the_wait() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let coordinator = {
            let _within = runtime.enter();
            // Nobody listens on port 1.
            Coordinator::new("127.0.0.1:1", None).unwrap()
        };
        let remote = Arc::new(Remote { coordinator, runtime: runtime.handle().clone() });
        let over = CancellationToken::new();
        let (waiting, end) = (remote.clone(), over.clone());
        let waiter = std::thread::spawn(move || {
            let request = proto::v1::DescribeRequest { run: "a".to_owned() };
            waiting.persist(&end, "corpus", || async { waiting.coordinator.data().describe(request.clone()).await })
        });
        over.cancel();
        assert_eq!(waiter.join().unwrap().err().unwrap().kind, FailureKind::Fenced);
    }
}
