//! Who says what the slots used, and what nothing follows from.

use crate::desk::{Desk, digest, run, sent};
use control::{Directive, Effect, Record, RunStatus};
use types::{Attempt, Generation, Step};

fn with_members(names: &[&str]) -> Desk {
    let count = u32::try_from(names.len()).unwrap();
    let mut desk = Desk::with_run(count, count);
    for (session, name) in (1..).zip(names) {
        desk.connect(name, session, None);
    }
    desk
}

#[test]
fn one_report_with_samples_commits_a_step_and_all_are_told() {
    let mut desk = with_members(&["a", "b", "c"]);
    assert_eq!(desk.stepped("b", 1, 1), []);
    assert_eq!(desk.stepped("c", 1, 1), []);
    assert_eq!(desk.step(), 0);
    let effects = desk.progress("a", 1, 1);
    let directive = Directive::Committed { run: run(), attempt: Attempt(1), step: Step(1) };
    assert!(matches!(&effects[0], Effect::Persist(Record::Commit { step: Step(1), .. })), "{effects:?}");
    assert_eq!(effects[1..], [Effect::SendMembers { run: run(), directive }]);
    // The first who says it, whoever that is.
    assert!(!desk.progress("c", 1, 2).is_empty());
    assert_eq!(desk.stepped("b", 1, 2), []);
    assert_eq!(desk.step(), 2);
}

#[test]
fn the_last_survivor_is_enough() {
    let mut desk = with_members(&["a", "b", "c"]);
    desk.stepped("b", 1, 1);
    desk.stepped("c", 1, 1);
    desk.disconnect("a", 1);
    desk.disconnect("b", 2);
    // It was not told that the step is durable, so it says all of it before it says where it stopped.
    desk.progress("c", 1, 1);
    desk.step_failed("c", 1, 1);
    assert_eq!((desk.step(), desk.status()), (1, RunStatus::Interrupted));
}

#[test]
fn samples_that_are_not_named_yet_are_waited_for() {
    let mut desk = with_members(&["a", "b"]);
    desk.progress("a", 1, 1);
    desk.saved(1, 1);
    desk.stepped("b", 1, 2);
    let beat = |desk: &mut Desk| {
        desk.wait(250);
        desk.beat("a", 1, (1, control::Phase::Evaluate, 1), 0);
        desk.beat("b", 1, (2, control::Phase::Evaluate, 1), 0);
    };
    (0..80).for_each(|_| beat(&mut desk));
    assert_eq!((desk.step(), desk.generation()), (1, 1), "it will name them");
    // After what it says now it will not.
    desk.step_failed("b", 1, 2);
    desk.step_failed("a", 1, 2);
    for _ in 0..80 {
        desk.wait(250);
        desk.beat("a", 2, (2, control::Phase::Evaluate, 1), 0);
        desk.beat("b", 2, (2, control::Phase::Evaluate, 1), 0);
    }
    assert!(desk.notes(0).iter().any(|note| note.contains("the report of step 2 is lost")), "{:?}", desk.notes(0));
}

#[test]
fn replicas_are_compared_with_or_without_samples() {
    let mut desk = with_members(&["a", "b"]);
    desk.progress("a", 1, 1);
    desk.progress_with("b", 1, 1, digest(1));
    assert_eq!(desk.status(), RunStatus::Running);
    desk.progress_with("a", 1, 2, digest(7));
    desk.stepped("b", 1, 2);
    assert!(desk.reason().starts_with("replicas disagree"), "{}", desk.reason());
}

#[test]
fn what_a_member_among_many_says_changes_nothing() {
    let mut desk = with_members(&["a", "b", "c", "d"]);
    desk.progress("a", 1, 1);
    assert_eq!(desk.disconnect("b", 2), []);
    assert_eq!(desk.connect("b", 5, Some((1, 1))), []);
    assert_eq!(desk.paused("c", 1, 1), []);
    assert_eq!(desk.paused("a", 1, 1), []);
    assert_eq!(desk.paused("d", 1, 1), []);
    assert_eq!(desk.generation(), 1);
    // The last one.
    desk.paused("b", 1, 1);
    assert_eq!(desk.generation(), 2);
    assert!(
        sent(&desk.step_failed("d", 2, 1), "a").contains(&Directive::Abort { run: run(), generation: Generation(2) })
    );
    assert_eq!(desk.step_failed("a", 2, 1), []);
    assert_eq!(desk.step_failed("c", 2, 1), []);
    desk.step_failed("b", 2, 1);
    assert_eq!(desk.generation(), 3);
}
