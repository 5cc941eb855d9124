//! The workers' sessions: bounded queues to them. A worker that does not keep up loses its session; it never holds up
//! the others.

use proto::v1;
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use types::WorkerId;

/// Directives that wait for one worker.
pub const QUEUE: usize = 64;

/// How to reach a session.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    /// Its queue.
    pub messages: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
    /// Ends it.
    pub cut: CancellationToken,
}

/// All sessions, and which one is each worker's present one.
#[derive(Debug, Default)]
pub struct Sessions {
    handles: BTreeMap<u64, SessionHandle>,
    present: BTreeMap<WorkerId, u64>,
}

/// How often a worker says that it lives.
const HEARTBEAT_MS: u32 = 250;

impl Sessions {
    /// A session that control has yet to judge.
    pub fn offer(&mut self, session: u64, handle: SessionHandle) {
        self.handles.insert(session, handle);
    }

    /// Control took it: it is welcomed, and an older one of the same worker ends.
    pub fn accept(&mut self, worker: &WorkerId, session: u64) {
        // Two that came at once may be handled in the wrong order: the later one stays.
        let (old, new) = match self.present.get(worker) {
            Some(present) if *present > session => (Some(session), *present),
            present => (present.copied(), session),
        };
        self.present.insert(worker.clone(), new);
        if let Some(handle) = old.and_then(|old| self.handles.remove(&old)) {
            handle.cut.cancel();
        }
        if new != session {
            return;
        }
        let welcome = v1::coordinator_message::Kind::Welcome(v1::Welcome { heartbeat_ms: HEARTBEAT_MS });
        self.send(worker, v1::CoordinatorMessage { kind: Some(welcome) });
    }

    /// Whether this session is its worker's present one.
    pub fn is_present(&self, session: u64) -> bool {
        self.present.values().any(|present| *present == session)
    }

    /// The session has ended.
    pub fn remove(&mut self, worker: &WorkerId, session: u64) {
        self.handles.remove(&session);
        if self.present.get(worker) == Some(&session) {
            self.present.remove(worker);
        }
    }

    /// To the worker's present session, if there is one.
    pub fn send(&mut self, worker: &WorkerId, message: v1::CoordinatorMessage) {
        let Some(handle) = self.present.get(worker).and_then(|session| self.handles.get(session)) else {
            return;
        };
        if handle.messages.try_send(Ok(message)).is_err() {
            tracing::warn!(worker = %worker, queue = QUEUE, "the worker does not take its messages; its session ends");
            handle.cut.cancel();
        }
    }

    /// Says why, and ends the session.
    pub fn refuse(&mut self, worker: &WorkerId, session: u64, reason: &str) {
        tracing::warn!(worker = %worker, session, reason, "session refused");
        let Some(handle) = self.handles.remove(&session) else {
            return;
        };
        if self.present.get(worker) == Some(&session) {
            self.present.remove(worker);
        }
        let goodbye = v1::coordinator_message::Kind::Goodbye(v1::Goodbye { reason: reason.to_owned() });
        // Its queue is empty; the stream ends after this message.
        let _ = handle.messages.try_send(Ok(v1::CoordinatorMessage { kind: Some(goodbye) }));
        handle.cut.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(queue: usize) -> (SessionHandle, mpsc::Receiver<Result<v1::CoordinatorMessage, Status>>) {
        let (messages, receiver) = mpsc::channel(queue);
        (SessionHandle { messages, cut: CancellationToken::new() }, receiver)
    }

    #[test]
    fn a_worker_that_does_not_keep_up_loses_its_session() {
        let worker: WorkerId = "w".parse().unwrap();
        let mut sessions = Sessions::default();
        let (session, _receiver) = handle(2);
        let cut = session.cut.clone();
        sessions.offer(1, session);
        sessions.accept(&worker, 1);
        sessions.send(&worker, v1::CoordinatorMessage::default());
        assert!(!cut.is_cancelled());
        sessions.send(&worker, v1::CoordinatorMessage::default());
        assert!(cut.is_cancelled());
    }

    #[test]
    fn a_new_session_replaces_the_old_one() {
        let worker: WorkerId = "w".parse().unwrap();
        let mut sessions = Sessions::default();
        let (old, _old_receiver) = handle(2);
        let (new, mut receiver) = handle(2);
        let cut = old.cut.clone();
        sessions.offer(1, old);
        sessions.accept(&worker, 1);
        sessions.offer(2, new);
        sessions.accept(&worker, 2);
        assert!(cut.is_cancelled());
        assert!(sessions.is_present(2) && !sessions.is_present(1));
        // The end of the old one is not the end of the new one.
        sessions.remove(&worker, 1);
        assert!(sessions.is_present(2));
        assert!(receiver.try_recv().is_ok(), "it was welcomed");
    }
}
