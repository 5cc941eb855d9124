//! The control session: connect, register, and do it again with back-off whenever the connection is lost.
//!
//! One task owns the connection; the agent hears of it through events and writes into the queue that each new session
//! brings along. Nothing here decides what is said.

use crate::agent::JoinError;
use crate::connect::Coordinator;
use proto::v1::coordinator_message::Kind as FromCoordinator;
use proto::v1::worker_message::Kind as FromWorker;
use proto::v1::{CoordinatorMessage, Register, WorkerMessage};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// Messages that wait for the network; the agent keeps the rest.
const QUEUE: usize = 64;
/// Between two tries. A coordinator that is back hears from its workers well within two seconds; a try that finds
/// nobody costs one packet.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long the coordinator may call our own name taken after a reconnect: it may not have noticed yet that the old
/// connection is dead.
const OWN_NAME_PATIENCE: Duration = Duration::from_secs(60);
/// No answer to a connection attempt or to Register within this is as good as a refusal.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What happens to the session.
pub enum Event {
    /// A session is about to begin, with what is answered here.
    Registers {
        /// Takes how things stand now; all that changes later has to be reported.
        answer: oneshot::Sender<Register>,
    },
    /// Registered. Whatever is put into `queue` is sent in order.
    Up {
        /// Takes the messages.
        queue: mpsc::Sender<WorkerMessage>,
        /// How often the coordinator wants to hear from us.
        heartbeat: Duration,
    },
    /// The coordinator said something.
    Message(FromCoordinator),
    /// The connection is lost; the task is already trying again.
    Down,
    /// No session will come any more.
    Over(JoinError),
}

/// Keeps a session open until the receiver is dropped. The first one is tried for as long as `patience`.
pub fn open(coordinator: Coordinator, patience: Duration) -> mpsc::Receiver<Event> {
    let (events, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        if let Err(error) = keep(&coordinator, patience, &events).await {
            let _ = events.send(Event::Over(error)).await;
        }
    });
    receiver
}

/// Why one session did not start or ended.
enum Break {
    /// The connection; try again.
    Lost(String),
    /// The coordinator's last word.
    Refused(JoinError),
    /// The agent is gone.
    Closed,
}

async fn keep(coordinator: &Coordinator, patience: Duration, events: &mpsc::Sender<Event>) -> Result<(), JoinError> {
    let mut joined = false;
    let mut down_since = Instant::now();
    let mut pause = PAUSE_MIN;
    let mut told = false;
    loop {
        let mut up = false;
        let broken = once(coordinator, events, &mut up).await;
        if up {
            (joined, down_since, pause, told) = (true, Instant::now(), PAUSE_MIN, false);
            if events.send(Event::Down).await.is_err() {
                return Ok(());
            }
        }
        let down_for = down_since.elapsed();
        let reason = match broken {
            Break::Closed => return Ok(()),
            Break::Refused(JoinError::Refused { reason, .. }) if joined && !up && down_for < OWN_NAME_PATIENCE => {
                reason
            }
            Break::Refused(error) => return Err(error),
            Break::Lost(reason) if !joined && down_for >= patience => {
                return Err(JoinError::NoCoordinator {
                    address: coordinator.address().to_owned(),
                    waited_seconds: patience.as_secs(),
                    reason,
                });
            }
            Break::Lost(reason) => reason,
        };
        if told {
            tracing::debug!(coordinator = coordinator.address(), reason, "still no session");
        } else {
            told = true;
            let patience_seconds = (!joined).then_some(patience.as_secs());
            tracing::warn!(coordinator = coordinator.address(), reason, patience_seconds, "no session; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = events.closed() => return Ok(()),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Half to all of `pause`, so that a whole cluster does not come back in the same instant.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}

/// One session from Register to its end.
async fn once(coordinator: &Coordinator, events: &mpsc::Sender<Event>, up: &mut bool) -> Break {
    let (queue, outgoing) = mpsc::channel(QUEUE);
    let (answer, register) = oneshot::channel();
    if events.send(Event::Registers { answer }).await.is_err() {
        return Break::Closed;
    }
    let Ok(register) = register.await else { return Break::Closed };
    let first = WorkerMessage { kind: Some(FromWorker::Register(register)) };
    if queue.try_send(first).is_err() {
        return Break::Lost("the queue is closed".to_owned());
    }
    let mut client = coordinator.control();
    let hello = async {
        let mut incoming = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        let welcome = incoming.message().await?;
        Ok::<_, Status>((incoming, welcome))
    };
    let (mut incoming, welcome) = match tokio::time::timeout(ANSWER_TIMEOUT, hello).await {
        Ok(Ok(pair)) => pair,
        Ok(Err(status)) => return break_of(coordinator, &status),
        Err(_) => return Break::Lost(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())),
    };
    let welcome = match welcome.and_then(|message| message.kind) {
        Some(FromCoordinator::Welcome(welcome)) => welcome,
        Some(FromCoordinator::Goodbye(goodbye)) => return refused(coordinator, goodbye.reason),
        Some(_) | None => return Break::Lost("the session ended before it began".to_owned()),
    };
    *up = true;
    let heartbeat = Duration::from_millis(u64::from(welcome.heartbeat_ms.max(50)));
    if events.send(Event::Up { queue, heartbeat }).await.is_err() {
        return Break::Closed;
    }
    loop {
        let message = tokio::select! {
            message = incoming.message() => message,
            () = events.closed() => return Break::Closed,
        };
        match message {
            Ok(Some(CoordinatorMessage { kind: Some(FromCoordinator::Goodbye(goodbye)) })) => {
                return refused(coordinator, goodbye.reason);
            }
            Ok(Some(CoordinatorMessage { kind: Some(kind) })) => {
                if events.send(Event::Message(kind)).await.is_err() {
                    return Break::Closed;
                }
            }
            Ok(Some(CoordinatorMessage { kind: None })) => {
                tracing::warn!("the coordinator said something that this version does not know");
            }
            Ok(None) => return Break::Lost("the coordinator closed the session".to_owned()),
            Err(status) => return break_of(coordinator, &status),
        }
    }
}

fn refused(coordinator: &Coordinator, reason: String) -> Break {
    Break::Refused(JoinError::Refused { address: coordinator.address().to_owned(), reason })
}

fn break_of(coordinator: &Coordinator, status: &Status) -> Break {
    let address = coordinator.address().to_owned();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            Break::Refused(JoinError::Unauthenticated { address, reason: status.message().to_owned() })
        }
        Code::InvalidArgument | Code::Unimplemented | Code::AlreadyExists => {
            Break::Refused(JoinError::Refused { address, reason: status.message().to_owned() })
        }
        _ => Break::Lost(root_cause(status)),
    }
}

/// "Connection refused" rather than "transport error".
pub(crate) fn root_cause(status: &Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::error::Error::source(status).is_some() { cause.to_string() } else { status.message().to_owned() }
}
