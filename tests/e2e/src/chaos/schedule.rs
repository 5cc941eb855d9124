//! What goes wrong, where and when, from a seed alone: no clock and no machine has a part in it.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What can go wrong. An out-of-memory kill is [`Kind::TrainerKilled`]: the kernel sends SIGKILL, and nobody else can
/// tell the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// SIGKILL to an agent; its trainer dies with it, and a new worker comes in its place.
    WorkerKilled,
    /// SIGKILL to a trainer.
    TrainerKilled,
    /// SIGSTOP to agent and trainer; SIGCONT once the others go on without it, so that a zombie wakes up.
    WorkerFrozen,
    /// SIGSTOP to a trainer alone; SIGCONT as above.
    TrainerFrozen,
    /// SIGTERM to an agent, and a new worker in its place.
    WorkerDrained,
    /// SIGKILL to the coordinator, and a restart.
    CoordinatorKilled,
    /// A worker reaches the others, but not the coordinator, until they go on without it.
    ControlLinkDown,
    /// A worker reaches the others, but not the coordinator, for a moment.
    ControlLinkFlickers,
    /// A worker's cable is pulled until the others go on without it.
    LinkDown,
    /// A worker's cable is pulled for a moment.
    LinkFlickers,
    /// A worker reaches the coordinator, but not the others, for a while.
    PeersOutOfReach,
    /// Little gets through a worker's cable for a while.
    LinkSlow,
}

impl Kind {
    /// All that a machine allows which lends no network of one's own.
    pub const ON_LOOPBACK: [Kind; 8] = [
        Kind::WorkerKilled,
        Kind::TrainerKilled,
        Kind::WorkerFrozen,
        Kind::TrainerFrozen,
        Kind::WorkerDrained,
        Kind::CoordinatorKilled,
        Kind::ControlLinkDown,
        Kind::ControlLinkFlickers,
    ];
    /// What needs cables.
    pub const OF_CABLES: [Kind; 4] = [Kind::LinkDown, Kind::LinkFlickers, Kind::PeersOutOfReach, Kind::LinkSlow];

    /// All of them.
    pub fn all() -> Vec<Kind> {
        [Self::ON_LOOPBACK.as_slice(), &Self::OF_CABLES].concat()
    }

    /// Whether it happens to the coordinator rather than to a worker.
    pub fn is_of_coordinator(self) -> bool {
        self == Kind::CoordinatorKilled
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::WorkerKilled => "worker killed",
            Kind::TrainerKilled => "trainer killed",
            Kind::WorkerFrozen => "worker frozen",
            Kind::TrainerFrozen => "trainer frozen",
            Kind::WorkerDrained => "worker drained",
            Kind::CoordinatorKilled => "coordinator killed",
            Kind::ControlLinkDown => "control link down",
            Kind::ControlLinkFlickers => "control link flickers",
            Kind::LinkDown => "link down",
            Kind::LinkFlickers => "link flickers",
            Kind::PeersOutOfReach => "peers out of reach",
            Kind::LinkSlow => "link slow",
        })
    }
}

/// One of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Counted from 1.
    pub number: u64,
    /// What.
    pub kind: Kind,
    /// To whom: who comes in a worker's place takes its seat.
    pub seat: usize,
    /// How long nothing happens before it.
    pub pause: Duration,
    /// How long it lasts, if it ends by itself.
    pub lasts: Duration,
    /// What still gets through a slow cable.
    pub megabits: u32,
}

/// Faults without end. Each kind comes once before any comes again.
pub struct Schedule {
    random: ChaCha8Rng,
    kinds: Vec<Kind>,
    left: Vec<Kind>,
    seats: usize,
    number: u64,
}

impl Schedule {
    /// Of these kinds, for so many workers.
    pub fn new(seed: u64, kinds: Vec<Kind>, seats: usize) -> Self {
        assert!(!kinds.is_empty() && seats > 0, "there is nothing to draw from");
        Self { random: ChaCha8Rng::seed_from_u64(seed), kinds, left: Vec::new(), seats, number: 0 }
    }
}

impl Iterator for Schedule {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.left.shuffle(&mut self.random);
        }
        self.number += 1;
        let kind = self.left.pop()?;
        let random = &mut self.random;
        // The same draws for every kind, so that one kind more or less moves nothing else of a round.
        let (seat, pause) = (random.random_range(0..self.seats), random.random_range(0..600));
        let (moment, while_ms) = (random.random_range(100..600), random.random_range(1_000..5_000));
        let megabits = random.random_range(20..200);
        let lasts = match kind {
            Kind::ControlLinkFlickers | Kind::LinkFlickers => moment,
            _ => while_ms,
        };
        let (pause, lasts) = (Duration::from_millis(pause), Duration::from_millis(lasts));
        Some(Fault { number: self.number, kind, seat, pause, lasts, megabits })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, kind, seat, pause, lasts, megabits } = self;
        write!(f, "fault {number} after {} ms: {kind}", pause.as_millis())?;
        if !kind.is_of_coordinator() {
            write!(f, ", seat {seat}")?;
        }
        match kind {
            Kind::ControlLinkFlickers | Kind::LinkFlickers | Kind::PeersOutOfReach => {
                write!(f, ", for {} ms", lasts.as_millis())
            }
            Kind::LinkSlow => write!(f, ", {megabits} Mbit/s for {} ms", lasts.as_millis()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_schedule_follows_from_its_seed_and_every_round_has_every_kind() {
        let faults = |seed| Schedule::new(seed, Kind::all(), 3).take(36).collect::<Vec<_>>();
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        for round in faults(7).chunks(12) {
            assert_eq!(round.iter().map(|fault| fault.kind).collect::<BTreeSet<_>>().len(), 12);
        }
        assert!(faults(7).iter().all(|fault| fault.seat < 3));
    }
}
