//! Runs that end before their last step, because their trainers say that nothing better is to be expected.

use crate::desk::{Desk, assigned, run};
use control::RunStatus;

/// Two members that have done three of five steps.
fn after_three(patience: Option<u64>) -> Desk {
    let mut desk = Desk::new();
    desk.patience = patience;
    desk.submit(&run(), 2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    for step in 1..=3 {
        desk.progress("a", 1, step);
    }
    desk
}

#[test]
fn a_run_that_stops_early_is_completed_and_says_why() {
    let mut desk = after_three(Some(2));
    desk.finished_after(3, "a", 1, 9);
    desk.finished_after(3, "b", 1, 9);
    assert_eq!(desk.status(), RunStatus::Running, "its last checkpoint is awaited");
    desk.saved(1, 3);
    assert_eq!((desk.status(), desk.step()), (RunStatus::Completed, 3));
    assert!(desk.reason().contains("stopped early, after step 3 of 5: 2 evaluations"), "{}", desk.reason());
    assert!(desk.control.run(&run()).unwrap().weights_digest.is_some());
    assert!(desk.notes(0).iter().any(|note| note.starts_with("completed: stopped early")), "{:?}", desk.notes(0));
}

#[test]
fn a_run_without_patience_does_all_its_steps() {
    let mut desk = after_three(None);
    desk.finished_after(3, "a", 1, 9);
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().contains("a finished after step 3 of 5"), "{}", desk.reason());
}

#[test]
fn one_that_does_all_its_steps_has_not_stopped_early() {
    let mut desk = after_three(Some(2));
    desk.progress("a", 1, 4);
    desk.progress("a", 1, 5);
    desk.finished("a", 1, 9);
    desk.finished("b", 1, 9);
    desk.saved(1, 5);
    assert_eq!((desk.status(), desk.reason().as_str()), (RunStatus::Completed, ""));
}

#[test]
fn members_that_end_at_different_steps_disagree() {
    let mut desk = after_three(Some(2));
    desk.finished_after(3, "a", 1, 9);
    desk.finished_after(2, "b", 1, 9);
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().contains("b ends after step 2, another after 3"), "{}", desk.reason());
}

#[test]
fn the_step_that_it_ends_with_must_be_committed() {
    let mut desk = after_three(Some(2));
    desk.saved(1, 4);
    desk.finished_after(4, "a", 1, 9);
    desk.finished_after(4, "b", 1, 9);
    assert_eq!((desk.status(), desk.step()), (RunStatus::Running, 3));
    desk.progress("b", 1, 4);
    assert_eq!((desk.status(), desk.step()), (RunStatus::Completed, 4));
}

#[test]
fn a_generation_that_breaks_at_the_end_ends_again() {
    let mut desk = after_three(Some(2));
    desk.finished_after(3, "a", 1, 9);
    desk.exited("b", 1);
    let effects = desk.wait(2000);
    let effects = if effects.is_empty() { desk.take() } else { effects };
    assert!(desk.status() == RunStatus::Running || desk.status() == RunStatus::Interrupted, "{effects:?}");
    let again = desk.connect_as("c", 3, 7, None);
    let generation = desk.generation();
    assert!(generation > 1 && assigned(&again).len() <= 2);
    for name in ["a", "c"] {
        desk.finished_after(3, name, generation, 9);
    }
    desk.saved(generation, 3);
    assert_eq!((desk.status(), desk.step()), (RunStatus::Completed, 3));
    assert!(desk.reason().contains("stopped early"));
}
