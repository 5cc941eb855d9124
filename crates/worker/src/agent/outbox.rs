//! The reports that the coordinator may not have yet, in order.
//!
//! The session has no acknowledgements: whatever was sent before a connection broke may or may not have been handled.
//! So what tells of steps is kept after sending and sent again in a new session; the coordinator knows repeated reports
//! by generation and step. A new assignment shows that the coordinator has what it needs of the older ones. What tells
//! of the trainer process is not repeated, because the new session's Register says how things stand.

use prost::Message;
use proto::v1::{WorkerMessage, worker_message::Kind};
use std::collections::VecDeque;

/// How much may wait to be sent, in bytes, before the trainer has to wait: hours of steps with the coordinator away.
const UNSENT_BYTES_MAX: usize = 64 << 20;

/// How many are kept after they were sent: more than HTTP/2's windows and both sides' queues can hold.
const SENT_MAX: usize = 4096;

/// Reports in order: first those that were sent in this session, then those that were not.
#[derive(Default)]
pub struct Outbox {
    kept: VecDeque<WorkerMessage>,
    sent: usize,
    unsent_bytes: usize,
}

impl Outbox {
    /// Adds a report.
    pub fn push(&mut self, kind: Kind) {
        let message = WorkerMessage { kind: Some(kind) };
        self.unsent_bytes += message.encoded_len();
        self.kept.push_back(message);
    }

    /// False: take no more from the trainer until something could be sent.
    pub fn has_room(&self) -> bool {
        self.unsent_bytes < UNSENT_BYTES_MAX
    }

    /// Whether [`Outbox::take`] has something.
    pub fn has_unsent(&self) -> bool {
        self.sent < self.kept.len()
    }

    /// The next report to send; one of a step stays for a later session.
    pub fn take(&mut self) -> Option<WorkerMessage> {
        let message = self.kept.get(self.sent)?.clone();
        self.unsent_bytes -= message.encoded_len();
        if !is_of_a_step(&message) {
            return self.kept.remove(self.sent);
        }
        self.sent += 1;
        if self.sent > SENT_MAX {
            self.kept.pop_front();
            self.sent -= 1;
        }
        Some(message)
    }

    /// A new session: everything that tells of steps is sent again.
    pub fn rewind(&mut self) {
        self.kept.retain(is_of_a_step);
        self.sent = 0;
        self.unsent_bytes = self.kept.iter().map(Message::encoded_len).sum();
    }

    /// The coordinator has given a new assignment or a release: nothing that was sent before matters any more.
    pub fn forget_sent(&mut self) {
        self.kept.drain(..self.sent);
        self.sent = 0;
    }
}

fn is_of_a_step(message: &WorkerMessage) -> bool {
    matches!(
        message.kind,
        Some(Kind::Progress(_) | Kind::StepFailed(_) | Kind::Paused(_) | Kind::Finished(_) | Kind::RunFailed(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Leaving, Progress};

    fn progress(run: &str, step: u64) -> Kind {
        Kind::Progress(Progress { run: run.to_owned(), step, ..Default::default() })
    }

    fn drain(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.take())
            .map(|message| match message.kind {
                Some(Kind::Progress(progress)) => progress.step,
                _ => 0,
            })
            .collect()
    }

    #[test]
    fn a_new_session_gets_everything_again_in_order() {
        let mut outbox = Outbox::default();
        for step in 1..=3 {
            outbox.push(progress("a", step));
        }
        assert_eq!(drain(&mut outbox), [1, 2, 3]);
        outbox.push(progress("a", 4));
        assert_eq!(drain(&mut outbox), [4]);
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [1, 2, 3, 4]);
    }

    #[test]
    fn unsent_reports_are_never_dropped_and_sent_ones_are_bounded() {
        let mut outbox = Outbox::default();
        let count = 2 * SENT_MAX as u64;
        for step in 1..=count {
            outbox.push(progress("a", step));
        }
        assert_eq!(drain(&mut outbox), (1..=count).collect::<Vec<_>>());
        outbox.rewind();
        assert_eq!(drain(&mut outbox), (count - SENT_MAX as u64 + 1..=count).collect::<Vec<_>>());
    }

    #[test]
    fn what_tells_of_the_process_is_said_once() {
        let mut outbox = Outbox::default();
        outbox.push(progress("a", 1));
        outbox.push(Kind::Leaving(Leaving {}));
        outbox.push(progress("a", 2));
        assert_eq!(drain(&mut outbox), [1, 0, 2]);
        outbox.push(Kind::Leaving(Leaving {}));
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [1, 2]);
        assert_eq!(outbox.unsent_bytes, 0);
    }

    #[test]
    fn an_assignment_forgets_what_was_sent_and_keeps_what_was_not() {
        let mut outbox = Outbox::default();
        outbox.push(progress("a", 1));
        outbox.take();
        outbox.push(progress("a", 2));
        outbox.forget_sent();
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [2]);
        assert!(outbox.has_room() && !outbox.has_unsent());
    }

    #[test]
    fn a_full_outbox_says_so() {
        let mut outbox = Outbox::default();
        let large = "x".repeat(1 << 20);
        while outbox.has_room() {
            outbox.push(progress(&large, 1));
        }
        assert_eq!(outbox.kept.len(), 64);
        outbox.take();
        assert!(outbox.has_room());
    }
}
