//! Histories that are told step by step, each with the decision that must follow.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "histories/balance.rs"]
mod balance;
#[path = "histories/desk.rs"]
mod desk;
#[path = "histories/divergence.rs"]
mod divergence;
#[path = "histories/early.rs"]
mod early;
#[path = "histories/growth.rs"]
mod growth;
#[path = "histories/patience.rs"]
mod patience;
#[path = "histories/queue.rs"]
mod queue;
#[path = "histories/readiness.rs"]
mod readiness;
#[path = "histories/reports.rs"]
mod reports;
#[path = "histories/watch.rs"]
mod watch;

use control::{CheckpointAt, Directive, Effect, Event, Millis, Phase, Record, Refusal, RunRecord, RunStatus};
use desk::{Desk, assigned, digest, run, sent, worker};
use types::{Attempt, Generation, RunId, Step};

#[test]
fn a_run_starts_when_there_are_enough_workers_and_completes() {
    let mut desk = Desk::with_run(2, 2);
    assert_eq!(assigned(&desk.connect("a", 1, None)), []);
    assert_eq!(desk.control.waiting_for(&run()).unwrap(), "it needs 2 workers and 1 is free");
    let effects = desk.connect("b", 2, None);
    assert_eq!(assigned(&effects), [("a".into(), 0, vec![0, 1]), ("b".into(), 1, vec![2, 3])]);
    // Durable before anybody hears of it.
    let durable = effects.iter().position(|effect| matches!(effect, Effect::Persist(Record::Run(_))));
    let told = effects.iter().position(|effect| matches!(effect, Effect::Send { .. }));
    assert!(durable.unwrap() < told.unwrap());
    for step in 1..=5 {
        desk.progress("b", 1, step);
        desk.progress("a", 1, step);
    }
    assert_eq!(desk.step(), 5);
    let commits = desk.effects.iter().filter(|effect| matches!(effect, Effect::Persist(Record::Commit { .. })));
    assert_eq!(commits.count(), 5);
    desk.finished("a", 1, 9);
    desk.finished("b", 1, 9);
    assert_eq!(desk.status(), RunStatus::Running);
    let effects = desk.saved(1, 5);
    assert_eq!(desk.status(), RunStatus::Completed);
    assert_eq!(sent(&effects, "a"), [Directive::Release { run: Some(run()) }]);
    assert_eq!(desk.control.run(&run()).unwrap().weights_digest, Some(digest(9)));
}

#[test]
fn the_checkpoint_may_be_committed_before_the_members_say_they_finished() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    (1..=5).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.saved(1, 5);
    desk.finished("a", 1, 9);
    assert_eq!(desk.status(), RunStatus::Completed);
}

#[test]
fn replicas_that_disagree_fail_the_run() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.progress("a", 1, 1);
    desk.progress_with("b", 1, 1, digest(77));
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().starts_with("replicas disagree"), "{}", desk.reason());
}

#[test]
fn a_lost_worker_is_replaced_by_its_peers_after_the_grace() {
    let mut desk = Desk::with_run(1, 2);
    desk.connect("a", 1, None);
    desk.submit(&"other".parse().unwrap(), 1, 1);
    desk.control.handle(desk.now, Event::Cancel { run: "other".parse().unwrap() });
    desk.connect("b", 2, None);
    desk.paused("a", 1, 0);
    assert_eq!(desk.generation(), 2);
    desk.progress("a", 2, 1);
    desk.disconnect("b", 2);
    assert_eq!(desk.wait(799), []);
    assert!(sent(&desk.wait(1), "a").contains(&Directive::Abort { run: run(), generation: Generation(2) }));
    let effects = desk.step_failed("a", 2, 1);
    assert_eq!(assigned(&effects), [("a".into(), 0, vec![0, 1, 2, 3])]);
    assert_eq!((desk.generation(), desk.status()), (3, RunStatus::Running));
}

#[test]
fn a_failed_step_ends_the_grace_of_a_member_that_is_away() {
    let mut desk = Desk::with_run(2, 3);
    for (session, name) in ["a", "b"].into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    desk.connect("c", 7, None);
    desk.paused("a", 1, 0);
    desk.paused("b", 1, 0);
    assert_eq!(desk.generation(), 2);
    desk.disconnect("c", 7);
    let effects = desk.step_failed("a", 2, 0);
    assert_eq!(sent(&effects, "b"), [Directive::Abort { run: run(), generation: Generation(2) }]);
    let effects = desk.step_failed("b", 2, 0);
    assert_eq!(assigned(&effects).len(), 2);
    assert_eq!(desk.generation(), 3);
}

#[test]
fn members_that_do_not_answer_in_time_are_taken_along() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.step_failed("a", 1, 0);
    assert_eq!(desk.control.poll_timeout(), Some(Millis(300)));
    assert_eq!(assigned(&desk.wait(300)).len(), 2);
}

#[test]
fn a_member_that_comes_back_with_its_state_changes_nothing() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    desk.progress("a", 1, 1);
    desk.disconnect("a", 1);
    assert_eq!(desk.connect("a", 2, Some((1, 1))), []);
    // The old session's end comes late.
    assert_eq!(desk.disconnect("a", 1), []);
    desk.wait(60_000);
    assert_eq!((desk.generation(), desk.status()), (1, RunStatus::Running));
}

#[test]
fn a_member_that_comes_back_without_its_state_leads_to_a_new_attempt() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    (1..=3).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.saved(1, 2);
    desk.disconnect("a", 1);
    let effects = desk.connect("a", 2, None);
    assert!(effects.contains(&Effect::FindRestore { run: run(), at_most: Step(3) }));
    assert_eq!(desk.status(), RunStatus::Interrupted);
    let effects = desk.found(Some((1, 2)));
    let attempt = Record::Attempt { run: run(), attempt: Attempt(2), from_step: Step(2) };
    assert!(effects.contains(&Effect::Persist(attempt)));
    assert_eq!((assigned(&effects).len(), desk.step(), desk.generation()), (1, 2, 2));
    // What the old generation still reports is refused.
    desk.progress("a", 1, 3);
    assert_eq!((desk.step(), desk.control.refused()), (2, 1));
    desk.progress("a", 2, 3);
    assert_eq!(desk.step(), 3);
}

#[test]
fn a_late_report_of_a_member_that_brought_its_state_along_still_counts() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.step_failed("b", 1, 0);
    desk.wait(300);
    assert_eq!(desk.generation(), 2);
    desk.progress("a", 1, 1);
    assert_eq!(desk.step(), 1);
}

/// Who committed what, in order.
fn commits(effects: &[Effect]) -> Vec<(u64, u64)> {
    let commit = |effect: &Effect| match effect {
        Effect::Persist(Record::Commit { generation, step, .. }) => Some((generation.0, step.0)),
        _ => None,
    };
    effects.iter().filter_map(commit).collect()
}

#[test]
fn a_step_is_committed_by_the_generation_that_did_it() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    let generation = desk.generation();
    // B's reports overtake A's of the first step, and A's comes when the generation is over already.
    desk.progress("b", generation, 2);
    desk.step_failed("b", generation, 2);
    desk.step_failed("a", generation, 2);
    assert!(desk.generation() > generation);
    let late = desk.progress("a", generation, 1);
    assert_eq!(commits(&late), [(generation, 1), (generation, 2)]);
    let next = desk.progress("a", desk.generation(), 3);
    assert_eq!(commits(&next), [(desk.generation(), 3)]);
}

#[test]
fn a_step_that_was_done_again_is_committed_by_who_did_it_again() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    let old = desk.generation();
    // B alone has done step 2, and is lost with it before step 1 was reported.
    desk.progress("b", old, 2);
    desk.exited("b", old);
    desk.step_failed("a", old, 0);
    desk.tell(Event::TrainerReady { worker: worker("b") });
    let new = desk.generation();
    assert!(new > old);
    assert_eq!(commits(&desk.progress("a", new, 1)), [(new, 1)]);
    assert_eq!(commits(&desk.progress("a", new, 2)), [(new, 2)]);
}

#[test]
fn a_report_that_never_comes_sends_the_run_back_to_a_checkpoint() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    desk.progress("a", 1, 1);
    desk.progress("a", 1, 3);
    assert_eq!(desk.step(), 1);
    let effects = desk.wait(10_000);
    assert!(effects.contains(&Effect::FindRestore { run: run(), at_most: Step(1) }));
    desk.found(None);
    assert_eq!((desk.step(), desk.status()), (0, RunStatus::Running));
}

#[test]
fn three_ended_trainers_without_a_step_fail_the_run_with_the_cause() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    for generation in 1..=2 {
        assert_eq!(desk.generation(), generation);
        desk.exited("a", generation);
        assert_eq!(desk.status(), RunStatus::Interrupted);
        desk.tell(Event::TrainerReady { worker: worker("a") });
    }
    desk.exited("a", 3);
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().contains("SIGKILL") && desk.reason().contains("out of memory"), "{}", desk.reason());
}

#[test]
fn a_step_in_between_forgives_ended_trainers() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    for generation in 1..=5 {
        desk.progress("a", generation, 1);
        desk.exited("a", generation);
        desk.tell(Event::TrainerReady { worker: worker("a") });
        desk.found(None);
    }
    assert_eq!(desk.status(), RunStatus::Running);
}

#[test]
fn a_leaving_worker_is_let_go_at_a_boundary() {
    let mut desk = Desk::with_run(1, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.paused("a", 1, 0);
    let request = |checkpoint| Directive::Request { run: run(), generation: Generation(2), checkpoint, pause: true };
    let effects = desk.tell(Event::WorkerLeaving { worker: worker("b") });
    assert_eq!(sent(&effects, "a"), [request(false)]);
    desk.paused("a", 2, 1);
    let effects = desk.paused("b", 2, 1);
    assert_eq!(sent(&effects, "b"), [Directive::Release { run: Some(run()) }]);
    assert_eq!(assigned(&effects), [("a".into(), 0, vec![0, 1, 2, 3])]);
}

#[test]
fn the_last_worker_leaves_only_after_a_checkpoint() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    desk.progress("a", 1, 1);
    let effects = desk.tell(Event::WorkerLeaving { worker: worker("a") });
    let request = Directive::Request { run: run(), generation: Generation(1), checkpoint: true, pause: true };
    assert_eq!(sent(&effects, "a"), [request]);
    assert_eq!(desk.paused("a", 1, 1), []);
    let effects = desk.saved(1, 1);
    assert_eq!(sent(&effects, "a"), [Directive::Release { run: Some(run()) }]);
    assert_eq!(desk.status(), RunStatus::Interrupted);
}

#[test]
fn cancel_and_resume() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    desk.progress("a", 1, 1);
    desk.tell(Event::Cancel { run: run() });
    assert_eq!(desk.control.check_cancel(&run()), Err(Refusal::Cancelling(run())));
    assert_eq!(desk.control.check_resume(&run()), Err(Refusal::Cancelling(run())));
    desk.progress("a", 1, 2);
    desk.paused("a", 1, 2);
    desk.saved(1, 2);
    assert_eq!(desk.status(), RunStatus::Cancelled);
    let ended = Refusal::Ended { run: run(), status: RunStatus::Cancelled };
    assert_eq!(desk.control.check_cancel(&run()), Err(ended));
    let effects = desk.tell(Event::Resume { run: run() });
    assert!(effects.contains(&Effect::FindRestore { run: run(), at_most: Step(2) }));
    let effects = desk.found(Some((1, 2)));
    assert_eq!((assigned(&effects).len(), desk.status()), (1, RunStatus::Running));
    let status = RunStatus::Running;
    assert_eq!(desk.control.check_resume(&run()), Err(Refusal::NotResumable { run: run(), status }));
}

#[test]
fn a_queued_run_is_cancelled_at_once_and_an_unknown_one_refused() {
    let mut desk = Desk::with_run(1, 1);
    desk.tell(Event::Cancel { run: run() });
    assert_eq!(desk.status(), RunStatus::Cancelled);
    let other: RunId = "other".parse().unwrap();
    assert_eq!(desk.control.check_cancel(&other), Err(Refusal::NoSuchRun(other.clone())));
    assert_eq!(desk.control.check_submit(&run()), Err(Refusal::Exists(run())));
}

#[test]
fn a_restarted_coordinator_finds_its_members_again() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    desk.progress("a", 1, 1);
    let record = desk.control.run(&run()).unwrap().clone();
    let mut desk = Desk::new();
    desk.control.restore(Millis(0), vec![record]);
    desk.wait(9_000);
    assert_eq!(desk.connect("a", 1, Some((1, 2))), []);
    desk.progress("a", 1, 2);
    assert_eq!((desk.step(), desk.generation()), (2, 1));
}

#[test]
fn two_interrupted_runs_do_not_wait_for_each_other() {
    let mut desk = Desk::with_run(2, 2);
    let other: RunId = "other".parse().unwrap();
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.submit(&other, 2, 2);
    desk.connect("c", 3, None);
    desk.connect("d", 4, None);
    desk.disconnect("b", 2);
    desk.disconnect("d", 4);
    desk.wait(2000);
    desk.wait(300);
    // Each has one worker left: the older run takes both.
    assert_eq!(desk.status(), RunStatus::Running);
    assert_eq!(desk.control.run(&other).unwrap().status, RunStatus::Interrupted);
}

#[test]
fn a_worker_without_a_trainer_is_of_no_use_to_the_run_ahead() {
    let mut desk = Desk::with_run(1, 1);
    let other: RunId = "other".parse().unwrap();
    desk.connect("a", 1, None);
    desk.submit(&other, 2, 2);
    desk.connect("b", 2, None);
    desk.connect("c", 3, None);
    // "b" waits with the state of the other run, and its trainer's end is told of with a run that it left before.
    desk.disconnect("c", 3);
    desk.step_failed_of(&other, "b", 1, 0);
    let (run, cause) = (Some("third".parse().unwrap()), "exit status 1".to_owned());
    let exited =
        Event::TrainerExited { worker: worker("b"), run, generation: Generation(1), cause, last_lines: vec![] };
    desk.tell(exited);
    assert_eq!(desk.control.run(&other).unwrap().status, RunStatus::Interrupted);
    desk.disconnect("a", 1);
    desk.wait(800);
    assert_eq!((assigned(&desk.wait(300)).len(), desk.status()), (0, RunStatus::Interrupted));
}

#[test]
fn a_hanging_member_is_left_out() {
    let mut desk = Desk::with_run(1, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.paused("a", 1, 0);
    let at = (0, Phase::Restore, 0);
    assert_eq!(desk.beat("b", 2, at, 299_000), []);
    assert_eq!(sent(&desk.beat("b", 2, at, 301_000), "b").len(), 1);
    desk.step_failed("a", 2, 0);
    assert_eq!(assigned(&desk.wait(1_000)), [("a".into(), 0, vec![0, 1, 2, 3])]);
}

#[test]
fn who_waits_for_one_that_gets_on_does_not_hang() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    assert_eq!(desk.beat("a", 1, (0, Phase::Compute, 1), 20_000), []);
    assert_eq!(desk.beat("b", 1, (0, Phase::Reduce, 1), 600_000), []);
    assert_eq!(sent(&desk.beat("a", 1, (0, Phase::Compute, 1), 301_000), "b").len(), 1);
}

#[test]
fn a_name_is_used_by_one_process_at_a_time() {
    let mut desk = Desk::new();
    desk.connect_as("a", 1, 10, None);
    let effects = desk.connect_as("a", 2, 11, None);
    assert!(matches!(&effects[..], [Effect::Refuse { session: 2, .. }]), "{effects:?}");
    // The same process may open a second session; the first is forgotten.
    assert_eq!(desk.connect_as("a", 3, 10, None), []);
    assert_eq!(desk.disconnect("a", 1), []);
    assert_eq!(desk.control.workers().count(), 1);
}

#[test]
fn only_the_last_generation_is_current() {
    let mut desk = Desk::with_run(1, 1);
    assert!(!desk.control.is_current(&run(), Generation(0)));
    desk.connect("a", 1, None);
    assert!(desk.control.is_current(&run(), Generation(1)));
    desk.step_failed("a", 1, 0);
    assert!(!desk.control.is_current(&run(), Generation(1)));
    assert!(desk.control.is_current(&run(), Generation(2)));
}

#[test]
fn trainers_that_end_in_one_incident_count_as_one() {
    let mut desk = Desk::with_run(1, 3);
    for (session, name) in ["a", "b", "c"].into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    desk.paused("a", 1, 0);
    for incident in 0..3 {
        assert_ne!(desk.status(), RunStatus::Failed, "incident {incident}: {}", desk.reason());
        let generation = desk.generation();
        for name in ["a", "b", "c"] {
            desk.exited(name, generation);
        }
        for name in ["a", "b", "c"] {
            desk.tell(Event::TrainerReady { worker: worker(name) });
        }
    }
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().starts_with("trainers ended 3 times"), "{}", desk.reason());
    assert!(desk.reason().contains("out of memory\n  help: once that is mended, "), "{}", desk.reason());
}

#[test]
fn a_checkpoint_of_a_superseded_state_is_not_restored() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    (1..=3).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.saved(1, 2);
    // Step 4 is done and saved, but its report is lost with the worker.
    desk.saved(1, 4);
    assert_eq!(desk.restore(), Some((1, 2)));
    desk.disconnect("a", 1);
    desk.connect("a", 2, None);
    desk.found(Some((1, 2)));
    // And a manifest that comes only now.
    desk.saved(1, 3);
    assert_eq!((desk.step(), desk.restore()), (2, Some((1, 2))));
    for step in 3..=4 {
        desk.progress("a", 2, step);
    }
    assert_eq!(desk.restore(), Some((1, 2)));
    desk.saved(2, 4);
    assert_eq!(desk.restore(), Some((2, 4)));
}

#[test]
fn a_checkpoint_may_be_there_before_the_report_of_its_step() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    desk.saved(1, 2);
    desk.progress("a", 1, 1);
    assert_eq!(desk.restore(), None);
    let kept = desk.effects.iter().rev().find_map(|effect| match effect {
        Effect::Persist(Record::Run(record)) => Some(record.clone()),
        _ => None,
    });
    desk.progress("a", 1, 2);
    assert_eq!(desk.restore(), Some((1, 2)));
    // Also when the coordinator is started again in between.
    let mut desk = Desk::new();
    desk.control.restore(desk.now, vec![RunRecord { step: Step(1), ..kept.unwrap() }]);
    assert_eq!(desk.restore(), None);
    desk.connect("a", 1, Some((1, 2)));
    desk.progress("a", 1, 2);
    assert_eq!(desk.restore(), Some((1, 2)));
}

#[test]
fn a_member_that_may_be_why_generations_fail_rests_for_a_while() {
    let mut desk = Desk::with_run(1, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.paused("a", 1, 0);
    for generation in 2..=4 {
        assert_eq!(desk.generation(), generation);
        desk.step_failed("a", generation, 0);
        desk.step_failed("b", generation, 0);
    }
    assert_eq!(desk.generation(), 5);
    // One of the two is enough: the other goes on alone.
    assert_eq!(desk.control.run(&run()).unwrap().members.len(), 1);
    desk.progress("b", 5, 1);
    assert_eq!(desk.step(), 1);
    // It does not join again at once.
    assert_eq!(desk.control.poll_timeout(), Some(Millis(60_000)));
    desk.wait(60_000);
    assert!(sent(&desk.wait(500), "b").iter().any(|directive| matches!(directive, Directive::Request { .. })));
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    (1..=4).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.saved(1, 2);
    desk.saved(1, 4);
    let at = CheckpointAt { generation: Generation(1), step: Step(4) };
    desk.tell(Event::CheckpointLost { run: run(), at });
    assert_eq!(desk.restore(), Some((1, 2)));
}

#[test]
fn a_damaged_last_checkpoint_is_written_once_more() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    (1..=5).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.finished("a", 1, 9);
    desk.saved(1, 5);
    let at = CheckpointAt { generation: Generation(1), step: Step(5) };
    desk.tell(Event::CheckpointLost { run: run(), at });
    assert_eq!(assigned(&desk.finished("b", 1, 9)).len(), 2);
    desk.finished("a", 2, 9);
    desk.finished("b", 2, 9);
    desk.saved(2, 5);
    assert_eq!(desk.status(), RunStatus::Completed);
}

#[test]
fn a_last_checkpoint_that_was_lost_before_a_restart_is_written_once_more() {
    let mut desk = Desk::with_run(1, 1);
    desk.connect("a", 1, None);
    (1..=5).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.saved(1, 5);
    let at = CheckpointAt { generation: Generation(1), step: Step(5) };
    desk.tell(Event::CheckpointLost { run: run(), at });
    let record = desk.control.run(&run()).unwrap().clone();
    let mut desk = Desk::new();
    desk.control.restore(Millis(0), vec![record]);
    desk.connect("a", 1, Some((1, 5)));
    assert_eq!(assigned(&desk.finished("a", 1, 9)).len(), 1);
    desk.saved(2, 5);
    desk.finished("a", 2, 9);
    assert_eq!(desk.status(), RunStatus::Completed);
}

#[test]
fn a_worker_that_two_runs_count_on_is_known_until_both_have_given_it_up() {
    let other: RunId = "01a00000-0000-7000-8000-00000000000b".parse().unwrap();
    let mut before = Desk::with_run(2, 2);
    before.connect("a", 1, None);
    before.connect("b", 2, None);
    let first = before.control.run(&run()).unwrap().clone();
    let second = RunRecord { id: other.clone(), place: 1, ..first.clone() };
    let mut desk = Desk::new();
    desk.control.restore(Millis(0), vec![first, second]);
    desk.connect("a", 1, Some((1, 0)));
    // "b" is lost to both, one after the other.
    desk.step_failed("a", 1, 0);
    desk.wait(20_000);
    assert_eq!(desk.control.run(&other).unwrap().status, RunStatus::Interrupted);
    assert_eq!(desk.status(), RunStatus::Interrupted);
}

#[test]
fn when_nobody_holds_the_state_a_checkpoint_is_looked_for() {
    let mut desk = Desk::with_run(1, 2);
    desk.connect("a", 1, None);
    (1..=3).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.saved(1, 2);
    desk.connect("b", 2, None);
    desk.paused("a", 1, 3);
    // The only holder is lost before the newcomer has the state.
    desk.exited("a", 2);
    let effects = desk.step_failed("b", 2, 0);
    assert!(effects.contains(&Effect::FindRestore { run: run(), at_most: Step(3) }), "{effects:?}");
}

#[test]
fn a_survivor_that_is_a_step_behind_the_last_commit_goes_on() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    desk.connect("c", 3, None);
    desk.saved(1, 1);
    // Only the one that is lost did step 3.
    (1..=3).for_each(|step| drop(desk.progress("a", 1, step)));
    desk.disconnect("a", 1);
    assert_eq!(assigned(&desk.step_failed("b", 1, 2)).len(), 2);
    desk.progress("b", 2, 3);
    desk.progress("b", 2, 4);
    assert_eq!((desk.step(), desk.status()), (4, RunStatus::Running));
}
