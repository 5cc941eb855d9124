//! What the slots used in steps that were reported without it.
//!
//! Every member of a run knows what all slots used in a step, and the coordinator has to hear it from one of them. If
//! all said it, what it hears would grow with the square of the members. So rank 0 says it at once. The others first
//! say only that the step is done, and the whole once more after a while that is longer for higher ranks, unless they
//! hear that the step is durable. One after the other therefore steps in for those that are lost, and whatever happens
//! to the others, each says it of every step of which it was not told that this is needless.

use proto::v1::{Assign, Committed, Progress};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How long rank 1 waits, in milliseconds, and by what that grows with each doubling of the rank. A coordinator that is
/// slow hears of few members, so it does not become slower for it. The first few come before a member is given up whose
/// session is gone while it trains on: that needs commits.
const TURN_MS: f64 = 300.0;
const TURN_GROWS: f64 = 1.6;
/// Nobody waits for longer.
const TURN_MS_MAX: f64 = 8_000.0;
/// What tells how a generation ended is held back for so long by rank 1, and as much longer with each doubling of the
/// rank. Mostly all steps turn out to be durable at once.
const BRIEF: Duration = Duration::from_millis(40);
/// More wait for the network instead.
const BYTES_MAX: usize = 8 << 20;

/// Reports whose samples are not known to be durable, and what tells which ones these are.
#[derive(Default)]
pub struct Spares {
    run: String,
    attempt: u32,
    rank: u32,
    /// The last step of this attempt that is known to be durable.
    durable: u64,
    /// By step, each with the moment since when it waits.
    waiting: VecDeque<(Instant, Progress)>,
    bytes: usize,
}

impl Spares {
    /// Its worker has a place in a new generation.
    pub fn assigned(&mut self, assign: &Assign, now: Instant) {
        if (&self.run, self.attempt) != (&assign.run, assign.attempt) {
            *self = Self { run: assign.run.clone(), attempt: assign.attempt, ..Self::default() };
        }
        self.rank = assign.rank;
        self.wait_anew(now);
    }

    /// Its worker has none any more.
    pub fn released(&mut self) {
        *self = Self::default();
    }

    /// In a new session another member may be quicker.
    pub fn wait_anew(&mut self, now: Instant) {
        self.waiting.iter_mut().for_each(|(since, _)| *since = now);
    }

    /// The coordinator says what is durable.
    pub fn committed(&mut self, committed: &Committed) {
        if (&self.run, self.attempt) != (&committed.run, committed.attempt) {
            return;
        }
        self.durable = self.durable.max(committed.step);
        while self.waiting.front().is_some_and(|(_, progress)| progress.step <= self.durable) {
            self.pop();
        }
    }

    /// Whether nobody need hear any more what was used in this step.
    pub fn is_durable(&self, progress: &Progress) -> bool {
        progress.run == self.run && progress.step <= self.durable
    }

    /// Whether this report will be said in two parts. Neither of them is: one has no segments, the other no tokens.
    fn splits(&self, progress: &Progress) -> bool {
        self.rank > 0 && progress.run == self.run && progress.tokens > 0 && !progress.segments.is_empty()
    }

    /// What is said of a step now. An evaluation is left in: not all members need have come to the end of it.
    pub fn first_part(&mut self, mut progress: Progress, now: Instant) -> Progress {
        let is_durable = self.is_durable(&progress);
        if !is_durable && self.splits(&progress) {
            let rest = Progress { tokens: 0, seconds: 0.0, ..progress.clone() };
            self.bytes += size(&rest);
            self.waiting.push_back((now, rest));
        } else if !is_durable {
            return progress;
        }
        progress.segments.clear();
        progress.metrics.retain(|metric| metric.key.starts_with("eval/"));
        progress
    }

    /// Whether this report has to wait until there are fewer.
    pub fn holds_up(&self, progress: &Progress) -> bool {
        self.bytes >= BYTES_MAX && self.splits(progress)
    }

    /// When the first of those that wait is to be said; `urgent`: something else must be said after it.
    pub fn due(&self, urgent: bool) -> Option<Instant> {
        let (since, _) = self.waiting.front()?;
        let Some(doublings) = self.rank.checked_ilog2() else { return Some(*since) };
        let turn = TURN_MS * TURN_GROWS.powi(i32::try_from(doublings).unwrap_or(i32::MAX));
        let turn = Duration::from_secs_f64(turn.min(TURN_MS_MAX) / 1e3);
        Some(*since + if urgent { turn.min(BRIEF * (doublings + 1)) } else { turn })
    }

    /// The first of those that wait.
    pub fn pop(&mut self) -> Option<Progress> {
        let (_, progress) = self.waiting.pop_front()?;
        self.bytes -= size(&progress);
        Some(progress)
    }
}

fn size(progress: &Progress) -> usize {
    prost::Message::encoded_len(progress)
}
