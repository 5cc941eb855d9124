//! Whether the trainer does what it was told. One that hangs in a device or in a deadlock takes no order, and only a new
//! process is its cure.

use proto::v1::coordinator_message::Kind as Order;
use proto::v1::worker_message::Kind as Report;
use proto::v1::{Heartbeat, Phase};
use std::time::Duration;

/// A clock that goes on by more than this at once stood still: this process was stopped, and its trainer perhaps too.
const LEAP: Duration = Duration::from_secs(1);

/// The order that the trainer has not followed yet.
#[derive(Default)]
pub struct Obedience {
    order: Option<Unanswered>,
}

struct Unanswered {
    /// An assignment that it is to begin; none: it is to end what it does.
    assigned: Option<(String, u64)>,
    /// Since the order, or since it last got on with something.
    waited: Duration,
}

impl Obedience {
    /// It is given an order. What it has not followed before goes on counting: orders do not make it move.
    pub fn ordered(&mut self, order: &Order) {
        let assigned = match order {
            Order::Assign(assign) => Some((assign.run.clone(), assign.generation)),
            Order::Abort(_) | Order::Release(_) => None,
            Order::Request(_) | Order::Welcome(_) | Order::Goodbye(_) | Order::Drain(_) | Order::Committed(_) => return,
        };
        let waited = self.order.take().map_or(Duration::ZERO, |order| order.waited);
        self.order = Some(Unanswered { assigned, waited });
    }

    /// It says something. Its heartbeats tell whether it has followed, and what else it says that it moves: it may be in
    /// the middle of a long step, and the state that it holds must not be thrown away for that.
    pub fn heard(&mut self, report: &Report) {
        let Report::Heartbeat(beat) = report else {
            if let Some(order) = &mut self.order {
                order.waited = Duration::ZERO;
            }
            return;
        };
        if self.order.as_ref().is_some_and(|order| order.is_followed(beat)) {
            self.order = None;
        }
        if let Some(order) = &mut self.order {
            order.waited = order.waited.min(Duration::from_millis(beat.since_progress_ms));
        }
    }

    /// Another process takes its place.
    pub fn forget(&mut self) {
        self.order = None;
    }

    /// Time has passed in which it was listened to. True if it is to be ended.
    pub fn is_exhausted(&mut self, passed: Duration, patience: Duration) -> bool {
        let Some(order) = &mut self.order else { return false };
        order.waited += passed.min(LEAP);
        order.waited > patience
    }
}

impl Unanswered {
    fn is_followed(&self, beat: &Heartbeat) -> bool {
        let is_assigned = |(run, generation): &(String, u64)| *run == beat.run && *generation == beat.generation;
        beat.phase() == Phase::Idle || self.assigned.as_ref().is_some_and(is_assigned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Abort, Assign, Progress, Release};

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn beat(generation: u64, phase: Phase, since_progress_ms: u64) -> Report {
        let (run, phase) = ("a".to_owned(), phase.into());
        Report::Heartbeat(Heartbeat { run, generation, phase, since_progress_ms, ..Heartbeat::default() })
    }

    fn assign(generation: u64) -> Order {
        Order::Assign(Assign { run: "a".to_owned(), generation, ..Assign::default() })
    }

    /// Whether patience ends within two minutes of the order; `says` is what the trainer says in each second.
    fn ends(orders: &[Order], says: impl Fn(u64) -> Option<Report>) -> bool {
        let mut obedience = Obedience::default();
        (0..120).any(|second| {
            if let Some(order) = orders.get(second as usize) {
                obedience.ordered(order);
            }
            if let Some(report) = says(second) {
                obedience.heard(&report);
            }
            obedience.is_exhausted(SECOND, PATIENCE)
        })
    }

    #[test]
    fn who_follows_no_order_is_ended_and_who_follows_or_moves_is_not() {
        let orders =
            [assign(2), Order::Abort(Abort { run: "a".to_owned(), generation: 2 }), Order::Release(Release::default())];
        let hangs = |second| Some(beat(1, Phase::Compute, 400_000 + 1000 * second));
        for order in &orders {
            let order = std::slice::from_ref(order);
            assert!(ends(order, hangs), "{order:?}");
            assert!(ends(order, |_| None), "stopped: {order:?}");
            assert!(!ends(order, |_| Some(beat(1, Phase::Compute, 2000))), "one long step: {order:?}");
            let late =
                |second| Some(if second < 50 { beat(1, Phase::Compute, 400_000) } else { beat(1, Phase::Idle, 0) });
            assert!(!ends(order, late), "it wakes up: {order:?}");
        }
        assert!(!ends(&[], hangs), "nothing was ordered");
        assert!(!ends(&[assign(2)], |_| Some(beat(2, Phase::Restore, 400_000))), "it does what it was told");
        assert!(ends(&[assign(2)], |second| (second == 30).then(|| Report::Progress(Progress::default()))));
    }

    #[test]
    fn more_orders_do_not_make_it_move() {
        let orders: Vec<Order> = (2..122).map(assign).collect();
        assert!(ends(&orders, |second| Some(beat(1, Phase::Reduce, 400_000 + 1000 * second))));
    }

    #[test]
    fn the_agents_own_sleep_is_not_counted() {
        let mut obedience = Obedience::default();
        obedience.ordered(&assign(2));
        assert!(!obedience.is_exhausted(1000 * SECOND, PATIENCE));
    }
}
