//! Generations that come to nothing, and workers that are the cause.

use crate::desk::{Desk, assigned, run, sent, worker};
use control::{Directive, Effect, Event, RunStatus};
use types::Generation;

/// Every generation fails as soon as it is there, until the run is given up or the time is over.
fn fail_at_once(desk: &mut Desk, until: u64) {
    let mut failed = 0;
    while desk.status() == RunStatus::Running && desk.now.0 < until {
        if desk.generation() > failed {
            failed = desk.generation();
            let step = desk.step();
            desk.step_failed("a", failed, step);
            desk.step_failed("b", failed, step);
        }
        desk.wait(100);
    }
}

#[test]
fn generations_that_fail_at_once_do_not_use_up_patience() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    // The network between the workers is down for half a minute; nobody can be spared.
    fail_at_once(&mut desk, 30_000);
    assert_eq!(desk.status(), RunStatus::Running, "{}", desk.reason());
    let next = (0..300).find_map(|_| Some(assigned(&desk.wait(100))).filter(|members| !members.is_empty()));
    assert_eq!(next.map(|members| members.len()), Some(2));
    desk.progress("a", desk.generation(), 1);
    assert_eq!(desk.step(), 1);
    // A step makes good for all of it.
    let began = desk.now.0;
    fail_at_once(&mut desk, began + 1_000_000);
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().starts_with("10 generations failed with no step between them; "), "{}", desk.reason());
    assert!((90_000..120_000).contains(&(desk.now.0 - began)), "after {} ms", desk.now.0 - began);
}

#[test]
fn a_run_that_puts_off_its_next_generation_can_be_cancelled_and_left() {
    for cancels in [true, false] {
        let mut desk = Desk::with_run(2, 2);
        desk.connect("a", 1, None);
        desk.connect("b", 2, None);
        fail_at_once(&mut desk, 3_000);
        let generation = desk.generation();
        if cancels {
            desk.tell(Event::Cancel { run: run() });
            assert_eq!(desk.status(), RunStatus::Cancelled);
        } else {
            let effects = desk.tell(Event::WorkerLeaving { worker: worker("b") });
            assert_eq!(sent(&effects, "b"), [Directive::Release { run: Some(run()) }]);
            assert_eq!(desk.status(), RunStatus::Interrupted);
            assert_eq!(desk.reason(), "it has 1 worker left and needs 2");
        }
        assert_eq!(desk.generation(), generation);
    }
}

/// "a" works on, and "b" joins when it may; `crashes`: after its first step, or before. Answers when "b" joined.
fn joins(desk: &mut Desk, crashes_after_a_step: bool, millis: u64) -> Vec<u64> {
    let (mut joins, mut step) = (Vec::new(), desk.step());
    let until = desk.now.0 + millis;
    while desk.now.0 < until {
        let effects = desk.wait(100);
        let generation = desk.generation();
        if !sent(&effects, "a").iter().any(|directive| matches!(directive, Directive::Request { .. })) {
            step += 1;
            desk.progress("a", generation, step);
            continue;
        }
        let mut members = assigned(&desk.paused("a", generation, step));
        assert_eq!(members.len(), 2);
        joins.push(desk.now.0);
        if crashes_after_a_step {
            step += 1;
            desk.progress("a", generation + 1, step);
        }
        desk.exited("b", generation + 1);
        members = assigned(&desk.step_failed("a", generation + 1, step));
        assert_eq!(members.len(), 1);
        desk.tell(Event::TrainerReady { worker: worker("b") });
    }
    joins
}

#[test]
fn a_worker_that_crashes_at_every_join_rests_longer_and_longer() {
    let mut desk = Desk::with_long_run(1, 2, 4, 100_000);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    let joins = joins(&mut desk, false, 400_000);
    let pauses: Vec<u64> = joins.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
    assert_eq!(joins.len(), 4, "{joins:?}");
    assert!(pauses[0] < 10 && (60..70).contains(&pauses[1]) && (120..130).contains(&pauses[2]), "{pauses:?}");
    let text = "b rests for a while: it was lost 2 times with no step between them";
    assert!(desk.notes(0).iter().any(|note| note == text), "{:?}", desk.notes(0));
}

#[test]
fn one_that_rests_works_when_there_is_nobody_else() {
    let mut desk = Desk::with_long_run(1, 2, 4, 100_000);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    assert_eq!(joins(&mut desk, false, 20_000).len(), 2);
    assert!(desk.notes(0).iter().any(|note| note.starts_with("b rests for a while")), "{:?}", desk.notes(0));
    desk.disconnect("a", 1);
    let effects = desk.wait(2_000);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::FindRestore { .. })), "{effects:?}");
    let effects = desk.tell(Event::RestoreFound { run: run(), at: None });
    assert_eq!(assigned(&effects).iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_worker_that_does_steps_before_it_crashes_does_not_rest() {
    let mut desk = Desk::with_long_run(1, 2, 4, 100_000);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    assert!(joins(&mut desk, true, 60_000).len() > 5);
}

#[test]
fn a_last_checkpoint_that_cannot_be_stored_holds_nobody_for_ever() {
    for cancels in [true, false] {
        let mut desk = Desk::with_run(1, 1);
        desk.connect("a", 1, None);
        (1..=5).for_each(|step| drop(desk.progress("a", 1, step)));
        if cancels {
            desk.tell(Event::Cancel { run: run() });
        } else {
            desk.tell(Event::WorkerLeaving { worker: worker("a") });
        }
        (0..479).for_each(|_| assert_eq!(sent(&desk.wait(250), "a"), []));
        assert_eq!(sent(&desk.wait(250), "a"), [Directive::Abort { run: run(), generation: Generation(1) }]);
        assert_eq!(sent(&desk.step_failed("a", 1, 5), "a"), [Directive::Release { run: Some(run()) }]);
        assert_eq!(desk.status(), if cancels { RunStatus::Cancelled } else { RunStatus::Interrupted });
    }
}
