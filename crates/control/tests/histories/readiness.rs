//! Workers whose trainer is not up when they register.

use crate::desk::{Desk, assigned, worker};
use control::{Event, RunStatus};

#[test]
fn a_worker_without_a_trainer_is_no_use_until_it_has_one() {
    let mut desk = Desk::with_run(1, 2);
    assert_eq!(assigned(&desk.connect_starting("a", 1)), []);
    assert_eq!(desk.status(), RunStatus::Queued);
    assert_eq!(assigned(&desk.tell(Event::TrainerReady { worker: worker("a") })).len(), 1);
    desk.progress("a", 1, 1);
    // A member whose trainer ended while nobody could be told, and a worker that has worked on nothing yet.
    desk.connect("b", 2, None);
    assert_eq!(assigned(&desk.wait(500)).len(), 0, "a pause is asked for first");
    desk.paused("a", 1, 1);
    assert_eq!((desk.generation(), desk.step()), (2, 1));
    desk.progress("b", 2, 2);
    desk.disconnect("b", 2);
    let from = desk.effects.len();
    desk.connect_starting("b", 3);
    assert!(desk.notes(from).iter().any(|note| note == "b came back without a trainer"), "{:?}", desk.notes(from));
    desk.step_failed("a", 2, 2);
    let alone = assigned(&desk.effects[from..]);
    assert_eq!(alone, [("a".to_owned(), 0, vec![0, 1, 2, 3])], "nobody waits for b");
    assert_eq!(assigned(&desk.wait(500)).len(), 0);
    // It takes part again as soon as it can.
    desk.tell(Event::TrainerReady { worker: worker("b") });
    desk.wait(5_000);
    desk.paused("a", desk.generation(), 2);
    assert_eq!(assigned(&desk.effects[from..]).len(), 3);
}

#[test]
fn a_member_that_was_never_heard_of_and_lost_its_trainer_is_not_waited_for() {
    let mut desk = Desk::with_run(1, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.wait(500);
    desk.paused("a", 1, 0);
    let generation = desk.generation();
    desk.disconnect("b", 2);
    // With a trainer it is told again what it missed; without one the others go on at once.
    assert_eq!(assigned(&desk.connect("b", 3, None)).len(), 1);
    desk.disconnect("b", 3);
    let mut effects = desk.connect_starting("b", 4);
    effects.extend(desk.step_failed("a", generation, 0));
    assert_eq!(assigned(&effects), [("a".to_owned(), 0, vec![0, 1, 2, 3])]);
}
