//! A state that is not to be trusted.

use crate::desk::{Desk, assigned, run, worker};
use config::OnDivergence;
use control::{Effect, Event, RunStatus};
use types::Step;

/// One worker at step 60, with checkpoints at steps 20 and 55.
fn desk() -> Desk {
    let mut desk = Desk::with_long_run(1, 1, 4, 1000);
    desk.connect("a", 1, None);
    (1..=60).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.saved(1, 20);
    desk.saved(1, 55);
    desk
}

fn asked(effects: &[Effect], at_most: u64) -> bool {
    effects.contains(&Effect::FindRestore { run: run(), at_most: Step(at_most) })
}

#[test]
fn a_run_goes_back_to_a_checkpoint_from_before() {
    let mut desk = desk();
    // Ten steps were skipped: what was saved since then is no better. And nothing was compared yet.
    let effects = desk.diverged("a", 1, 60);
    assert!(asked(&effects, 0), "{effects:?}");
    assert_eq!(desk.status(), RunStatus::Interrupted);
    assert!(desk.reason().contains("diverged at step 60: 10 steps were skipped (a)"), "{}", desk.reason());
    let mut desk = Desk::with_long_run(1, 1, 4, 1000);
    desk.connect("a", 1, None);
    (1..=160).for_each(|step| drop(desk.progress("a", 1, step)));
    // The replicas were compared at step 100, and were equal.
    assert!(asked(&desk.diverged("a", 1, 160), 100));
    let effects = desk.found(Some((1, 90)));
    assert_eq!((assigned(&effects).len(), desk.step(), desk.generation()), (1, 90, 3));
    assert_eq!(desk.restore(), Some((1, 90)));
}

#[test]
fn a_later_checkpoint_than_trusted_is_no_answer() {
    let mut desk = desk();
    desk.diverged("a", 1, 60);
    desk.found(Some((1, 55)));
    assert_eq!(desk.status(), RunStatus::Failed);
}

#[test]
fn a_run_that_diverges_again_fails_unless_it_has_come_further() {
    for further in [false, true] {
        let mut desk = desk();
        desk.diverged("a", 1, 60);
        desk.found(None);
        let generation = desk.generation();
        (1..=70).for_each(|step| drop(desk.progress("a", generation, step)));
        desk.saved(generation, if further { 61 } else { 60 });
        desk.diverged("a", generation, 70);
        let wanted = if further { RunStatus::Interrupted } else { RunStatus::Failed };
        assert_eq!(desk.status(), wanted, "{}", desk.reason());
        assert!(desk.reason().contains("diverged at step 70"), "{}", desk.reason());
    }
}

#[test]
fn a_run_may_rather_stop() {
    let mut desk = Desk::new();
    desk.recovery.on_divergence = OnDivergence::Stop;
    desk.submit(&run(), 1, 1);
    desk.connect("a", 1, None);
    desk.progress("a", 1, 1);
    desk.diverged("a", 1, 1);
    assert_eq!(desk.status(), RunStatus::Failed);
    assert_eq!(desk.reason(), "diverged at step 1: 10 steps were skipped (a)");
    // A person who resumes it does not get the bad state back.
    let effects = desk.tell(Event::Resume { run: run() });
    assert!(asked(&effects, 0), "{effects:?}");
}

#[test]
fn what_an_old_generation_says_of_itself_is_refused() {
    let mut desk = desk();
    desk.diverged("a", 0, 60);
    assert_eq!((desk.status(), desk.control.refused()), (RunStatus::Running, 1));
    // All members say it; once is enough.
    desk.diverged("a", 1, 60);
    desk.diverged("a", 1, 60);
    desk.tell(Event::TrainerReady { worker: worker("a") });
    assert_eq!(desk.status(), RunStatus::Interrupted);
}
