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
    open: BTreeMap<u64, Session>,
    present: BTreeMap<WorkerId, u64>,
}

#[derive(Debug)]
struct Session {
    handle: SessionHandle,
    /// It is its worker's present one.
    is_present: bool,
}

/// How often a worker says that it lives.
const HEARTBEAT_MS: u32 = 250;

impl Sessions {
    /// A session that control has yet to judge.
    pub fn offer(&mut self, session: u64, handle: SessionHandle) {
        self.open.insert(session, Session { handle, is_present: false });
    }

    /// Control took it: it is welcomed, and an older one of the same worker ends.
    pub fn accept(&mut self, worker: &WorkerId, session: u64) {
        // Two that came at once may be handled in the wrong order: the later one stays.
        let (old, new) = match self.present.get(worker) {
            Some(present) if *present > session => (Some(session), *present),
            present => (present.copied(), session),
        };
        self.present.insert(worker.clone(), new);
        if let Some(old) = old.filter(|old| *old != new).and_then(|old| self.open.remove(&old)) {
            old.handle.cut.cancel();
        }
        if let Some(new) = self.open.get_mut(&new) {
            new.is_present = true;
        }
        if new != session {
            return;
        }
        let welcome = v1::coordinator_message::Kind::Welcome(v1::Welcome { heartbeat_ms: HEARTBEAT_MS });
        self.send(worker, v1::CoordinatorMessage { kind: Some(welcome) });
    }

    /// Whether this session is its worker's present one.
    pub fn is_present(&self, session: u64) -> bool {
        self.open.get(&session).is_some_and(|open| open.is_present)
    }

    /// The session has ended.
    pub fn remove(&mut self, worker: &WorkerId, session: u64) {
        self.open.remove(&session);
        if self.present.get(worker) == Some(&session) {
            self.present.remove(worker);
        }
    }

    /// To the worker's present session, if there is one.
    pub fn send(&mut self, worker: &WorkerId, message: v1::CoordinatorMessage) {
        let Some(handle) = self.handle(worker) else { return };
        if handle.messages.try_send(Ok(message)).is_err() {
            tracing::warn!(worker = %worker, queue = QUEUE, "the worker does not take its messages; its session ends");
            handle.cut.cancel();
        }
    }

    /// To the worker's present session, unless much waits for it already: then it does without.
    pub fn mention(&self, worker: &WorkerId, message: v1::CoordinatorMessage) {
        let Some(handle) = self.handle(worker) else { return };
        if handle.messages.capacity() > handle.messages.max_capacity() / 2 {
            // One whose session has just ended does without, too.
            let _ = handle.messages.try_send(Ok(message));
        }
    }

    fn handle(&self, worker: &WorkerId) -> Option<&SessionHandle> {
        Some(&self.open.get(self.present.get(worker)?)?.handle)
    }

    /// Says why, and ends the session.
    pub fn refuse(&mut self, worker: &WorkerId, session: u64, reason: &str) {
        tracing::warn!(worker = %worker, session, reason, "session refused");
        let Some(Session { handle, .. }) = self.open.remove(&session) else { return };
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
    fn what_is_only_mentioned_ends_no_session() {
        let worker: WorkerId = "w".parse().unwrap();
        let mut sessions = Sessions::default();
        let (session, mut receiver) = handle(4);
        let cut = session.cut.clone();
        sessions.offer(1, session);
        sessions.accept(&worker, 1);
        for _ in 0..10 {
            sessions.mention(&worker, v1::CoordinatorMessage::default());
        }
        assert!(!cut.is_cancelled());
        let received = std::iter::from_fn(|| receiver.try_recv().ok()).count();
        assert_eq!(received, 2, "half of the queue is left to what must arrive");
    }

    #[test]
    fn of_two_that_came_in_the_wrong_order_the_later_one_stays() {
        let worker: WorkerId = "w".parse().unwrap();
        let mut sessions = Sessions::default();
        let ((old, _old_receiver), (new, _receiver)) = (handle(2), handle(2));
        let cuts = [old.cut.clone(), new.cut.clone()];
        sessions.offer(2, new);
        sessions.accept(&worker, 2);
        sessions.offer(1, old);
        sessions.accept(&worker, 1);
        assert_eq!(cuts.map(|cut| cut.is_cancelled()), [true, false]);
        assert!(sessions.is_present(2) && !sessions.is_present(1));
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
