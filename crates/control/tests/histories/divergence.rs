//! A state that is not to be trusted.

use crate::desk::{Desk, assigned, run, worker};
use config::OnDivergence;
use control::{Divergence, Effect, Event, Millis, Record, RunRecord, RunStatus};
use types::{Attempt, Generation, Step};

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
    // Ten steps were skipped: what was saved since then is no better.
    let effects = desk.diverged("a", 1, 60);
    assert!(asked(&effects, 50), "{effects:?}");
    assert_eq!(desk.status(), RunStatus::Interrupted);
    assert!(desk.reason().contains("diverged at step 60: 10 steps were skipped (a)"), "{}", desk.reason());
    let two_at_step_160 = || {
        let mut desk = Desk::with_long_run(2, 2, 4, 1000);
        desk.connect("a", 1, None);
        desk.connect("b", 2, None);
        (1..=160).for_each(|step| drop(desk.progress("a", 1, step)));
        desk
    };
    // Two that skip the same steps do not differ.
    assert!(asked(&two_at_step_160().diverged("a", 1, 160), 150));
    // The replicas were compared at step 100, and were equal.
    let mut desk = two_at_step_160();
    assert!(asked(&desk.replicas_differ("a", 1, 160), 100));
    let effects = desk.found(Some((1, 90)));
    assert_eq!((assigned(&effects).len(), desk.step(), desk.generation()), (2, 90, 3));
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
fn what_to_do_is_said_once_it_has_failed_and_fits_how_it_diverged() {
    let resumes = "`coordinator runs resume run`";
    let mut desk = Desk::with_long_run(1, 1, 4, 1000);
    desk.connect("a", 1, None);
    (1..=10).for_each(|step| drop(desk.progress("a", 1, step)));
    let skipped = "10 steps were skipped\n  help: lower the rate";
    desk.diverged_by(Divergence::Skipped, skipped, "a", 1, 10);
    let text = "diverged at step 10: 10 steps were skipped (a)";
    assert_eq!(desk.reason(), format!("{text}: back to a checkpoint, or to the beginning if there is none"));
    desk.found(None);
    let generation = desk.generation();
    desk.diverged_by(Divergence::Skipped, skipped, "a", generation, 10);
    assert_eq!(desk.status(), RunStatus::Failed);
    // There was no checkpoint to go back to.
    let again = "it diverged at step 10 before, and was tried again\n  help: lower the rate";
    assert_eq!(desk.reason(), format!("{text}; {again}"));
    assert!(!desk.reason().contains(resumes), "the same again would end the same: {}", desk.reason());
    // Of two replicas that differ one machine is wrong, and the other goes on.
    let mut desk = Desk::new();
    desk.recovery.on_divergence = OnDivergence::Stop;
    desk.submit(&run(), 1, 1);
    desk.connect("a", 1, None);
    desk.progress("a", 1, 1);
    desk.replicas_differ("a", 1, 1);
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().contains(resumes), "{}", desk.reason());
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

/// The run's records among what was to be made durable, each with what a coordinator that dies then leaves behind.
fn records(effects: &[Effect]) -> Vec<RunRecord> {
    let record = |effect: &Effect| match effect {
        Effect::Persist(Record::Run(record)) => Some(record.clone()),
        _ => None,
    };
    effects.iter().filter_map(record).collect()
}

#[test]
fn a_restart_does_not_forget_what_is_not_to_be_trusted() {
    let mut before = desk();
    let kept = records(&before.diverged("a", 1, 60));
    assert_eq!(kept.last().map(|record| record.status), Some(RunStatus::Interrupted));
    for record in kept {
        // All is lost with the coordinator.
        let mut desk = Desk::new();
        desk.control.restore(Millis(0), vec![record.clone()]);
        let effects = [desk.wait(10_000), desk.connect("a", 1, None)].concat();
        assert!(asked(&effects, 50), "{effects:?}");
        desk.found(Some((1, 20)));
        let again = desk.control.run(&run()).unwrap();
        assert_eq!((again.trusted, again.diverged_at), (None, record.diverged_at));
        // Or the member comes back, and says it again if that is still of interest.
        let mut desk = Desk::new();
        desk.control.restore(Millis(0), vec![record]);
        let effects = [desk.connect("a", 1, Some((1, 60))), desk.diverged("a", 1, 60)].concat();
        assert!(asked(&effects, 50), "{effects:?}");
        assert_eq!(desk.status(), RunStatus::Interrupted, "{}", desk.reason());
    }
}

#[test]
fn a_person_who_resumes_after_a_restart_does_not_get_the_bad_state_back() {
    let mut before = Desk::new();
    before.recovery.on_divergence = OnDivergence::Stop;
    before.recovery.max_skipped_steps = 2;
    before.submit(&run(), 1, 1);
    before.connect("a", 1, None);
    (1..=4).for_each(|step| drop(before.progress("a", 1, step)));
    let record = records(&before.diverged("a", 1, 4)).pop().unwrap();
    assert_eq!(record.status, RunStatus::Failed);
    let mut desk = Desk::new();
    desk.control.restore(Millis(0), vec![record]);
    desk.connect("a", 1, None);
    let effects = desk.tell(Event::Resume { run: run() });
    assert!(asked(&effects, 2), "{effects:?}");
}

#[test]
fn a_replica_that_differs_says_so_and_gets_its_state_from_the_others() {
    let mut desk = Desk::with_long_run(3, 3, 6, 1000);
    for (session, name) in ["a", "b", "c"].into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    (1..=100).for_each(|step| drop(desk.progress("a", 1, step)));
    let from = desk.effects.len();
    let last_lines = vec!["the parameters or moments of rank 1 are not those of the other workers".to_owned()];
    let (run, generation, cause) = (Some(run()), Generation(1), "exit status 1".to_owned());
    desk.tell(Event::TrainerExited { worker: worker("b"), run, generation, cause, last_lines });
    desk.step_failed("a", 1, 100);
    desk.step_failed("c", 1, 100);
    let text = "the trainer of b ended: exit status 1\nthe parameters or moments of rank 1 are not those of the other \
                workers";
    assert!(desk.notes(from).iter().any(|note| note == text), "{:?}", desk.notes(from));
    // It needs three. Nothing is read back: whoever holds the state of step 100 gives it to the one that has none.
    let effects = desk.tell(Event::TrainerReady { worker: worker("b") });
    assert_eq!(assigned(&effects).len(), 3);
    let record = desk.control.run(&crate::desk::run()).unwrap();
    assert_eq!((record.step, record.attempt), (Step(100), Attempt(1)));
    let since: Vec<u64> = record.members.iter().map(|member| member.since.0).collect();
    assert_eq!(since, [1, 1, 2]);
    desk.progress("a", 2, 101);
    assert_eq!(desk.step(), 101);
}
