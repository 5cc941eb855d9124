//! The reports that the coordinator may not have yet, in order.
//!
//! The session has no acknowledgements: whatever was sent before a connection broke may or may not have been handled.
//! So what tells of steps is kept after sending and sent again in a new session; the coordinator knows repeated reports
//! by generation and step. What tells of the trainer process is not repeated, because the new session's Register says
//! how things stand.
//!
//! While the coordinator is away reports gather here: a few in memory, the others in a file. Nothing is ever dropped:
//! when the file is as large as it may be, or the disk is full, the trainer has to wait.

mod spool;

use prost::Message;
use proto::v1::{WorkerMessage, worker_message::Kind};
use spool::Spool;
use std::collections::VecDeque;

/// How much waits to be sent in memory before the rest goes to the file.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// The newest of those that were sent may still be on the network or in its buffers: what the coordinator's window takes
/// and as much again, which is more than our side's send buffer.
const NETWORK_BYTES: usize = 2 * proto::STREAM_WINDOW as usize;

/// Reports in order: those that were sent in this session, those in memory that were not, those in the file, and those
/// that the file could not take.
#[derive(Default)]
pub struct Outbox {
    kept: VecDeque<WorkerMessage>,
    sent: usize,
    /// Of those that were sent the oldest, which have left the network behind and may wait in queues.
    queued: usize,
    /// Of those that were sent after them.
    network_bytes: usize,
    unsent_bytes: usize,
    spool: Spool,
    refused: VecDeque<WorkerMessage>,
}

impl Outbox {
    /// Adds a report.
    pub fn push(&mut self, kind: Kind) {
        let message = WorkerMessage { kind: Some(kind) };
        if self.spool.is_empty() && self.refused.is_empty() && self.unsent_bytes < UNSENT_BYTES_MAX {
            return self.keep(message);
        }
        if !self.refused.is_empty() {
            return self.refused.push_back(message);
        }
        if let Err(error) = self.spool.append(&message) {
            tracing::error!(%error, "reports cannot be stored until the coordinator is back; training waits");
            self.refused.push_back(message);
        }
    }

    fn keep(&mut self, message: WorkerMessage) {
        self.unsent_bytes += message.encoded_len();
        self.kept.push_back(message);
    }

    /// False: take no more from the trainer until something could be sent.
    pub fn has_room(&self) -> bool {
        self.refused.is_empty() && !self.spool.is_full()
    }

    /// Whether [`Outbox::take`] has something.
    pub fn has_unsent(&self) -> bool {
        self.sent < self.kept.len() || !self.spool.is_empty() || !self.refused.is_empty()
    }

    /// The next report to send; one of a step stays for a later session.
    ///
    /// # Errors
    /// The file cannot be read back.
    pub fn take(&mut self) -> std::io::Result<Option<WorkerMessage>> {
        if self.sent == self.kept.len() {
            self.refill()?;
        }
        let Some(message) = self.kept.get(self.sent).cloned() else { return Ok(None) };
        self.unsent_bytes -= message.encoded_len();
        if !is_of_a_step(&message) {
            self.kept.remove(self.sent);
            return Ok(Some(message));
        }
        self.sent += 1;
        self.network_bytes += message.encoded_len();
        self.forget_arrived();
        Ok(Some(message))
    }

    /// Drops what must have been handled, because no more than what came after it can be on its way.
    fn forget_arrived(&mut self) {
        while self.queued < self.sent {
            let left = self.network_bytes.saturating_sub(self.kept[self.queued].encoded_len());
            if left < NETWORK_BYTES {
                break;
            }
            self.network_bytes = left;
            self.queued += 1;
        }
        while self.queued > proto::QUEUED_MAX {
            self.kept.pop_front();
            (self.queued, self.sent) = (self.queued - 1, self.sent - 1);
        }
    }

    /// From the file into memory, and what the file refused after it.
    fn refill(&mut self) -> std::io::Result<()> {
        while self.unsent_bytes < UNSENT_BYTES_MAX {
            let next = match self.spool.next()? {
                Some(message) => Some(message),
                None => self.refused.pop_front(),
            };
            match next {
                Some(message) => self.keep(message),
                None => break,
            }
        }
        Ok(())
    }

    /// A new session is about to begin: everything that tells of steps is sent again.
    pub fn rewind(&mut self) {
        self.kept.retain(is_of_a_step);
        (self.sent, self.queued, self.network_bytes) = (0, 0, 0);
        self.unsent_bytes = self.kept.iter().map(Message::encoded_len).sum();
    }

    /// A new assignment, in `run`. What was sent of other runs, and of how older generations ended, does not matter any
    /// more. Steps do: the assignment may have been on its way before their reports arrived.
    pub fn assigned(&mut self, run: &str) {
        self.forget_sent(|kind| matches!(kind, Kind::Progress(progress) if progress.run == run));
    }

    /// Nothing that was sent before matters any more: the coordinator has taken the run away.
    pub fn released(&mut self) {
        self.forget_sent(|_| false);
    }

    fn forget_sent(&mut self, matters: impl Fn(&Kind) -> bool) {
        let unsent = self.kept.split_off(self.sent);
        self.kept.retain(|message| message.kind.as_ref().is_some_and(&matters));
        (self.sent, self.queued) = (self.kept.len(), 0);
        self.network_bytes = self.kept.iter().map(Message::encoded_len).sum();
        self.kept.extend(unsent);
        self.forget_arrived();
    }
}

fn is_of_a_step(message: &WorkerMessage) -> bool {
    matches!(
        message.kind,
        Some(
            Kind::Progress(_)
                | Kind::StepFailed(_)
                | Kind::Paused(_)
                | Kind::Finished(_)
                | Kind::RunFailed(_)
                | Kind::Diverged(_)
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Leaving, Progress, StepFailed};

    fn progress(run: &str, step: u64) -> Kind {
        Kind::Progress(Progress { run: run.to_owned(), step, ..Default::default() })
    }

    fn drain(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.take().unwrap())
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
    fn what_may_be_on_its_way_is_kept() {
        // A usual report, and one of many slots.
        for bytes in [500, 4000] {
            let run = "r".repeat(bytes);
            let size = WorkerMessage { kind: Some(progress(&run, 1 << 20)) }.encoded_len();
            let on_its_way = (proto::STREAM_WINDOW as usize / size + proto::QUEUED_MAX) as u64;
            let mut outbox = Outbox::default();
            let count = 2 * on_its_way;
            for step in 1..=count {
                outbox.push(progress(&run, step));
                assert_eq!(drain(&mut outbox), [step]);
            }
            outbox.rewind();
            let again = drain(&mut outbox);
            assert!(again.len() as u64 >= on_its_way, "{} of {on_its_way} are kept", again.len());
            assert_eq!(again, (count - again.len() as u64 + 1..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn unsent_reports_are_never_dropped_and_sent_ones_are_bounded() {
        let mut outbox = Outbox::default();
        let run = "r".repeat(5000);
        let size = WorkerMessage { kind: Some(progress(&run, 1 << 20)) }.encoded_len();
        let bound = NETWORK_BYTES / size + proto::QUEUED_MAX + 100;
        let count = 3 * bound as u64;
        for step in 1..=count {
            outbox.push(progress(&run, step));
        }
        assert_eq!(drain(&mut outbox), (1..=count).collect::<Vec<_>>());
        assert!(outbox.kept.len() < bound, "{} are kept", outbox.kept.len());
        // Those of another run do not matter once this worker is assigned to a new one.
        outbox.assigned("b");
        assert_eq!((outbox.kept.len(), outbox.queued, outbox.network_bytes), (0, 0, 0));
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
    fn an_assignment_forgets_how_other_generations_ended_and_keeps_the_steps() {
        let mut outbox = Outbox::default();
        outbox.push(progress("b", 7));
        outbox.push(progress("a", 1));
        outbox.push(Kind::StepFailed(StepFailed { run: "a".to_owned(), ..Default::default() }));
        assert_eq!(drain(&mut outbox), [7, 1, 0]);
        outbox.push(progress("a", 2));
        outbox.assigned("a");
        // The report of step 1 may have been lost with the session over which the assignment came.
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [1, 2]);
        outbox.released();
        outbox.rewind();
        assert_eq!(drain(&mut outbox), [0; 0]);
        assert!(outbox.has_room() && !outbox.has_unsent());
    }

    #[test]
    fn what_memory_does_not_hold_goes_through_the_file_in_order() {
        let mut outbox = Outbox::default();
        let large = "x".repeat(100 << 10);
        for step in 1..=30 {
            outbox.push(progress(&large, step));
        }
        assert!(outbox.kept.len() < 15 && !outbox.spool.is_empty());
        let first: Vec<u64> = (0..5).filter_map(|_| outbox.take().unwrap()).map(|_| 0).collect();
        assert_eq!(first.len(), 5);
        // The session breaks: the file is not touched by that.
        outbox.rewind();
        outbox.push(progress(&large, 31));
        assert_eq!(drain(&mut outbox), (1..=31).collect::<Vec<_>>());
        assert!(outbox.spool.is_empty() && !outbox.has_unsent());
    }

    #[test]
    fn a_full_outbox_says_so_and_drops_nothing() {
        let mut outbox = Outbox { spool: Spool::with_room(3 << 20), ..Outbox::default() };
        let large = "x".repeat(1 << 20);
        let mut pushed = 0;
        while outbox.has_room() {
            pushed += 1;
            outbox.push(progress(&large, pushed));
        }
        assert!((4..=6).contains(&pushed), "{pushed}");
        // What the agent itself has to say is taken nevertheless.
        outbox.push(progress("a", pushed + 1));
        assert_eq!(drain(&mut outbox), (1..=pushed + 1).collect::<Vec<_>>());
        assert!(outbox.has_room());
    }

    #[test]
    fn a_disk_that_takes_nothing_makes_the_trainer_wait() {
        let mut outbox = Outbox { spool: Spool::on_a_full_disk(), ..Outbox::default() };
        let large = "x".repeat(1 << 20);
        outbox.push(progress(&large, 1));
        assert!(outbox.has_room());
        outbox.push(progress(&large, 2));
        assert!(!outbox.has_room(), "the file refused it");
        outbox.push(progress("a", 3));
        assert_eq!(drain(&mut outbox), [1, 2, 3]);
        assert!(outbox.has_room());
    }
}
