//! The reports that the coordinator may not have yet, in order.
//!
//! The session has no acknowledgements: whatever was sent before a connection broke may or may not have been handled.
//! So what tells of steps is kept after sending and sent again in a new session; the coordinator knows repeated reports
//! by generation and step. What tells of the trainer process is not repeated, because the new session's Register says
//! how things stand.
//!
//! While the coordinator is away reports gather here: a few in memory, the others in a file. Nothing is ever dropped:
//! when the file is as large as it may be, or the disk is full, the trainer has to wait.

mod spares;
mod spool;

use prost::Message;
use proto::v1::{Assign, Committed, Progress, WorkerMessage, worker_message::Kind};
use spares::Spares;
use spool::Spool;
use std::collections::VecDeque;
use tokio::time::Instant;

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
    /// What was left out of the reports that were sent.
    spares: Spares,
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

    fn has_unsent(&self) -> bool {
        self.sent < self.kept.len() || !self.spool.is_empty() || !self.refused.is_empty()
    }

    /// When [`Outbox::take`] has something, as far as is known now.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let next = self.kept.get(self.sent);
        let spare = self.spares.due(next.is_some_and(|next| of_progress(next).is_none()));
        match next.map(of_progress) {
            // What was left out of the steps before goes first.
            Some(None) => spare.or(Some(now)),
            Some(Some(progress)) if self.spares.holds_up(progress) => spare,
            Some(Some(_)) => Some(now),
            None if self.has_unsent() => Some(now),
            None => spare,
        }
    }

    /// The next report to send; one of a step stays for a later session.
    ///
    /// # Errors
    /// The file cannot be read back.
    pub fn take(&mut self, now: Instant) -> std::io::Result<Option<WorkerMessage>> {
        if self.sent == self.kept.len() {
            self.refill()?;
        }
        if self.ready_at(now).is_none_or(|at| at > now) {
            return Ok(None);
        }
        let urgent = self.kept.get(self.sent).is_some_and(|next| of_progress(next).is_none());
        if self.spares.due(urgent).is_some_and(|due| due <= now)
            && let Some(spare) = self.spares.pop()
        {
            let spare = WorkerMessage { kind: Some(Kind::Progress(spare)) };
            self.unsent_bytes += spare.encoded_len();
            self.kept.insert(self.sent, spare);
        }
        let Some(next) = self.kept.get_mut(self.sent) else { return Ok(None) };
        self.unsent_bytes -= next.encoded_len();
        if let Some(Kind::Progress(progress)) = &mut next.kind {
            *progress = self.spares.first_part(std::mem::take(progress), now);
        }
        let message = next.clone();
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

    /// Steps are durable: what was left out of their reports is not needed any more, and those that tell nothing else
    /// need not be sent again.
    pub fn committed(&mut self, committed: &Committed) {
        self.spares.committed(committed);
        let is_over = |progress: &Progress| progress.metrics.is_empty() && self.spares.is_durable(progress);
        while self.sent > 0 && of_progress(&self.kept[0]).is_some_and(is_over) {
            let bytes = self.kept.pop_front().map_or(0, |message| message.encoded_len());
            self.sent -= 1;
            match self.queued {
                0 => self.network_bytes -= bytes,
                queued => self.queued = queued - 1,
            }
        }
    }

    /// A new session is about to begin: everything that tells of steps is sent again.
    pub fn rewind(&mut self, now: Instant) {
        self.spares.wait_anew(now);
        self.kept.retain(is_of_a_step);
        (self.sent, self.queued, self.network_bytes) = (0, 0, 0);
        self.unsent_bytes = self.kept.iter().map(Message::encoded_len).sum();
    }

    /// A new assignment, in `run`. What was sent of other runs, and of how older generations ended, does not matter any
    /// more. Steps do: the assignment may have been on its way before their reports arrived.
    pub fn assigned(&mut self, assign: &Assign, now: Instant) {
        self.spares.assigned(assign, now);
        self.forget_sent(|kind| matches!(kind, Kind::Progress(progress) if progress.run == assign.run));
    }

    /// Nothing that was sent before matters any more: the coordinator has taken the run away.
    pub fn released(&mut self) {
        self.spares.released();
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

fn of_progress(message: &WorkerMessage) -> Option<&Progress> {
    match &message.kind {
        Some(Kind::Progress(progress)) => Some(progress),
        _ => None,
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
    use proto::v1::{Leaving, Metric, Segment, StepFailed};
    use std::time::Duration;

    fn progress(run: &str, step: u64) -> Kind {
        Kind::Progress(Progress { run: run.to_owned(), step, ..Default::default() })
    }

    fn place(run: &str, rank: u32) -> Assign {
        Assign { run: run.to_owned(), attempt: 1, rank, ..Default::default() }
    }

    fn committed(step: u64) -> Committed {
        Committed { run: "a".to_owned(), attempt: 1, step }
    }

    /// As a trainer says it.
    fn whole(step: u64) -> Kind {
        let metric = |key: &str| Metric { step, key: key.to_owned(), ..Default::default() };
        let metrics = vec![metric("train/loss"), metric("eval/loss")];
        let segments = vec![Segment { end: step, ..Default::default() }; 3];
        Kind::Progress(Progress { run: "a".to_owned(), step, segments, metrics, tokens: 5, ..Default::default() })
    }

    struct Clock {
        now: Instant,
    }

    impl Clock {
        fn advance(&mut self, milliseconds: u64) {
            self.now += Duration::from_millis(milliseconds);
        }

        /// What is sent now: of each report the step, how many segments, metrics and tokens it has. Of all others a 0.
        fn said(&self, outbox: &mut Outbox) -> Vec<(u64, usize, usize, u64)> {
            std::iter::from_fn(|| outbox.take(self.now).unwrap())
                .map(|message| match message.kind {
                    Some(Kind::Progress(said)) => (said.step, said.segments.len(), said.metrics.len(), said.tokens),
                    _ => (0, 0, 0, 0),
                })
                .collect()
        }
    }

    #[test]
    fn a_higher_rank_says_what_was_used_only_if_nobody_else_does() {
        let mut clock = Clock { now: Instant::now() };
        let mut outbox = Outbox::default();
        outbox.assigned(&place("a", 0), clock.now);
        outbox.push(whole(1));
        assert_eq!(clock.said(&mut outbox), [(1, 3, 2, 5)], "rank 0 says everything at once");
        let mut outbox = Outbox::default();
        outbox.assigned(&place("a", 3), clock.now);
        (1..=3).for_each(|step| outbox.push(whole(step)));
        assert_eq!(clock.said(&mut outbox), [(1, 0, 1, 5), (2, 0, 1, 5), (3, 0, 1, 5)]);
        outbox.committed(&Committed { attempt: 2, ..committed(9) });
        outbox.committed(&committed(1));
        clock.advance(479);
        assert_eq!(clock.said(&mut outbox), []);
        assert_eq!(outbox.ready_at(clock.now), Some(clock.now + Duration::from_millis(1)));
        clock.advance(1);
        assert_eq!(clock.said(&mut outbox), [(2, 3, 2, 0), (3, 3, 2, 0)], "it was not told that these are durable");
        outbox.committed(&committed(4));
        outbox.push(whole(4));
        assert_eq!(clock.said(&mut outbox), [(4, 0, 1, 5)]);
        assert_eq!(outbox.ready_at(clock.now), None);
    }

    #[test]
    fn what_was_left_out_goes_before_the_news_that_a_generation_ended() {
        let mut clock = Clock { now: Instant::now() };
        let mut outbox = Outbox::default();
        outbox.assigned(&place("a", 1), clock.now);
        outbox.push(whole(1));
        outbox.push(Kind::StepFailed(StepFailed { run: "a".to_owned(), step: 1, ..Default::default() }));
        assert_eq!(clock.said(&mut outbox), [(1, 0, 1, 5)]);
        clock.advance(39);
        assert_eq!(clock.said(&mut outbox), []);
        let mut other = Outbox::default();
        std::mem::swap(&mut outbox, &mut other);
        clock.advance(1);
        assert_eq!(clock.said(&mut other), [(1, 3, 2, 0), (0, 0, 0, 0)]);
        // And if the step is durable there is nothing to wait for.
        outbox.assigned(&place("a", 1), clock.now);
        outbox.push(whole(1));
        outbox.push(Kind::StepFailed(StepFailed { run: "a".to_owned(), step: 1, ..Default::default() }));
        assert_eq!(clock.said(&mut outbox).len(), 1);
        outbox.committed(&committed(1));
        assert_eq!(clock.said(&mut outbox), [(0, 0, 0, 0)]);
    }

    #[test]
    fn a_new_session_or_place_does_not_make_it_forget_what_was_left_out() {
        let mut clock = Clock { now: Instant::now() };
        let mut outbox = Outbox::default();
        outbox.assigned(&place("a", 1), clock.now);
        outbox.push(whole(1));
        assert_eq!(clock.said(&mut outbox).len(), 1);
        clock.advance(200);
        outbox.rewind(clock.now);
        assert_eq!(clock.said(&mut outbox), [(1, 0, 1, 5)]);
        clock.advance(299);
        assert_eq!(clock.said(&mut outbox), []);
        outbox.assigned(&place("a", 0), clock.now);
        assert_eq!(clock.said(&mut outbox), [(1, 3, 2, 0)], "it is the first one now");
        outbox.rewind(clock.now);
        assert_eq!(clock.said(&mut outbox), [(1, 0, 1, 5), (1, 3, 2, 0)], "as long as it is not durable");
        outbox.committed(&committed(1));
        outbox.rewind(clock.now);
        assert_eq!(clock.said(&mut outbox), [(1, 0, 1, 5), (1, 0, 1, 0)]);
        outbox.released();
        assert_eq!(outbox.ready_at(clock.now), None);
    }

    #[test]
    fn what_was_left_out_takes_little_memory() {
        let clock = Clock { now: Instant::now() };
        let mut outbox = Outbox::default();
        outbox.assigned(&place("a", 1), clock.now);
        let large = Metric { key: "train/".to_owned() + &"x".repeat(1 << 20), ..Default::default() };
        for step in 1..=20 {
            let Kind::Progress(report) = whole(step) else { unreachable!() };
            outbox.push(Kind::Progress(Progress { metrics: vec![large.clone()], ..report }));
        }
        let first = clock.said(&mut outbox).len() as u64;
        assert!((8..=10).contains(&first), "{first}");
        outbox.committed(&committed(first));
        assert_eq!(
            clock.said(&mut outbox).len() as u64,
            (20 - first).min(first),
            "the next ones, for which there is room"
        );
    }

    #[test]
    fn reports_that_are_durable_are_not_kept() {
        let clock = Clock { now: Instant::now() };
        let mut outbox = Outbox::default();
        outbox.assigned(&place("a", 1), clock.now);
        for step in 1..=50 {
            let Kind::Progress(report) = whole(step) else { unreachable!() };
            outbox.push(Kind::Progress(Progress { metrics: Vec::new(), ..report }));
            assert_eq!(clock.said(&mut outbox).len(), 1);
            outbox.committed(&committed(step));
        }
        assert_eq!((outbox.kept.len(), outbox.sent, outbox.network_bytes), (0, 0, 0));
    }

    fn drain(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.take(Instant::now()).unwrap())
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
        outbox.rewind(Instant::now());
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
            outbox.rewind(Instant::now());
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
        outbox.assigned(&place("b", 0), Instant::now());
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
        outbox.rewind(Instant::now());
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
        outbox.assigned(&place("a", 0), Instant::now());
        // The report of step 1 may have been lost with the session over which the assignment came.
        outbox.rewind(Instant::now());
        assert_eq!(drain(&mut outbox), [1, 2]);
        outbox.released();
        outbox.rewind(Instant::now());
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
        let first: Vec<u64> = (0..5).filter_map(|_| outbox.take(Instant::now()).unwrap()).map(|_| 0).collect();
        assert_eq!(first.len(), 5);
        // The session breaks: the file is not touched by that.
        outbox.rewind(Instant::now());
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
