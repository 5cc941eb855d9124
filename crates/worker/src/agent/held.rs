//! What the agent keeps for its trainer: orders that came while none was ready, and what the trainer is known to hold.

use proto::v1::coordinator_message::Kind;
use proto::v1::{Assign, Holding, Request};

/// The last assignment and what was asked of it.
#[derive(Default)]
pub struct HeldOrders(Option<(Assign, Option<Request>)>);

impl HeldOrders {
    /// Takes an order that no trainer can take now. One that is about something else than the held assignment was meant
    /// for the trainer that is no more.
    pub fn add(&mut self, order: Kind) {
        match order {
            Kind::Assign(assign) => self.0 = Some((assign, None)),
            Kind::Request(request) => {
                if let Some((assign, held)) = &mut self.0
                    && (assign.run == request.run && assign.generation == request.generation)
                {
                    let before = held.take().unwrap_or_default();
                    let (checkpoint, pause) = (request.checkpoint | before.checkpoint, request.pause | before.pause);
                    *held = Some(Request { checkpoint, pause, ..request });
                }
            }
            Kind::Abort(abort) => {
                let is_over = |assign: &Assign| assign.run == abort.run && assign.generation <= abort.generation;
                self.0.take_if(|(assign, _)| is_over(assign));
            }
            Kind::Release(_) => self.0 = None,
            Kind::Welcome(_) | Kind::Goodbye(_) | Kind::Drain(_) | Kind::Committed(_) => {}
        }
    }

    /// Everything, in order.
    pub fn take(&mut self) -> Vec<Kind> {
        let Some((assign, request)) = self.0.take() else { return Vec::new() };
        [Some(Kind::Assign(assign)), request.map(Kind::Request)].into_iter().flatten().collect()
    }
}

/// The trainer is given an assignment.
pub fn hold(holding: &mut Option<Holding>, assign: &Assign) {
    let step = match holding {
        Some(before) if before.run == assign.run => before.step,
        _ => 0,
    };
    *holding = Some(Holding { run: assign.run.clone(), generation: assign.generation, step });
}

/// The trainer has done so many steps of `run`. It may still be speaking of the run before the one that was assigned,
/// whose steps must not be taken for steps of this one.
pub fn moved(holding: &mut Option<Holding>, run: &str, step: u64) {
    if let Some(holding) = holding.as_mut().filter(|holding| holding.run == run) {
        holding.step = step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::Abort;

    #[test]
    fn orders_wait_for_the_next_trainer() {
        let assign = |generation| Kind::Assign(Assign { run: "a".to_owned(), generation, ..Assign::default() });
        let request = |generation, checkpoint, pause| {
            Kind::Request(Request { run: "a".to_owned(), generation, checkpoint, pause })
        };
        let abort = |generation| Kind::Abort(Abort { run: "a".to_owned(), generation });
        let left = |orders: &[Kind]| {
            let mut held = HeldOrders::default();
            orders.iter().for_each(|order| held.add(order.clone()));
            held.take()
        };
        // They were meant for the trainer that has just ended.
        assert_eq!(left(&[request(1, true, false), abort(1)]), []);
        assert_eq!(left(&[assign(2), request(2, true, false)]), [assign(2), request(2, true, false)]);
        assert_eq!(
            left(&[assign(2), request(2, true, false), request(2, false, true)]),
            [assign(2), request(2, true, true)]
        );
        assert_eq!(left(&[assign(2), request(1, true, true)]), [assign(2)]);
        assert_eq!(left(&[assign(2), request(2, true, true), assign(3)]), [assign(3)]);
        assert_eq!(left(&[assign(3), abort(2)]), [assign(3)]);
        assert_eq!(left(&[assign(3), abort(3)]), []);
        assert_eq!(left(&[assign(3), Kind::Release(Default::default())]), []);
    }

    #[test]
    fn steps_of_another_run_are_not_held() {
        let mut holding = None;
        let held = |holding: &Option<Holding>| {
            holding.as_ref().map(|holding| (holding.run.clone(), holding.generation, holding.step))
        };
        let assign = |run: &str, generation| Assign { run: run.to_owned(), generation, ..Assign::default() };
        moved(&mut holding, "a", 1);
        assert_eq!(held(&holding), None);
        hold(&mut holding, &assign("a", 1));
        moved(&mut holding, "a", 500);
        hold(&mut holding, &assign("a", 2));
        assert_eq!(held(&holding), Some(("a".to_owned(), 2, 500)));
        hold(&mut holding, &assign("b", 1));
        moved(&mut holding, "a", 500);
        assert_eq!(held(&holding), Some(("b".to_owned(), 1, 0)));
        moved(&mut holding, "b", 1);
        assert_eq!(held(&holding), Some(("b".to_owned(), 1, 1)));
    }
}
