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
const HEARTBEAT_MS: u32 = 1_000;

impl Sessions {
    /// A session that control has yet to judge.
    pub fn offer(&mut self, session: u64, handle: SessionHandle) {
        self.handles.insert(session, handle);
    }

    /// Control took it: it is welcomed, and an older one of the same worker ends.
    pub fn accept(&mut self, worker: &WorkerId, session: u64) {
        if let Some(old) = self.present.insert(worker.clone(), session)
            && let Some(handle) = self.handles.remove(&old)
        {
            handle.cut.cancel();
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
        // Its queue is empty; the stream ends after this message, because the handle is dropped.
        let _ = handle.messages.try_send(Ok(v1::CoordinatorMessage { kind: Some(goodbye) }));
    }
}
