//! Members that hang, and who is named.

use crate::desk::{Desk, assigned, run, sent, worker};
use control::{Directive, Effect, Event, Phase, RunStatus};
use types::Generation;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three members whose steps take 50 ms.
fn desk() -> Desk {
    let mut desk = Desk::with_long_run(3, 3, 6, 1000);
    for (session, name) in NAMES.into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    for step in 1..=10 {
        desk.wait(50);
        for name in NAMES {
            desk.progress(name, 1, step);
        }
    }
    desk
}

/// Everybody says where it is, four times a second; `places` in the order of NAMES, none: it is not heard. Answers when
/// the run was first stopped, and what it was told.
fn beats(desk: &mut Desk, places: [Option<(u64, Phase, u64)>; 3], millis: u64) -> Option<(u64, Vec<Effect>)> {
    let began = desk.now.0;
    while desk.now.0 < began + millis {
        let mut effects = desk.wait(50);
        if (desk.now.0 - began).is_multiple_of(250) {
            let since = desk.now.0 - began;
            for (name, place) in NAMES.into_iter().zip(places) {
                effects.extend(place.map(|place| desk.beat(name, 1, place, since)).unwrap_or_default());
            }
        }
        if NAMES.iter().any(|name| !sent(&effects, name).is_empty()) {
            return Some((desk.now.0 - began, effects));
        }
    }
    None
}

#[test]
fn the_one_that_everyone_waits_for_is_named_and_left_out() {
    let (waits, computes) = ((10, Phase::Reduce, 7), (10, Phase::Compute, 7));
    for places in
        [[waits, computes, waits], [waits, (10, Phase::Reduce, 6), waits], [waits, (9, Phase::Update, 9), waits]]
    {
        let mut desk = desk();
        let from = desk.effects.len();
        let (when, effects) = beats(&mut desk, places.map(Some), 5_000).unwrap();
        assert!((1_000..=1_500).contains(&when), "after {when} ms");
        let notes = desk.notes(from);
        assert!(notes[0].starts_with("b was waited for by all others in step "), "{notes:?}");
        assert!(sent(&effects, "b").contains(&Directive::Release { run: Some(run()) }));
        desk.step_failed("a", 1, 10);
        let effects = desk.step_failed("c", 1, 10);
        // It needs three; the one that was left out comes back once its trainer answers.
        assert_eq!((assigned(&effects).len(), desk.status()), (0, RunStatus::Interrupted));
        assert_eq!(assigned(&desk.tell(Event::TrainerReady { worker: worker("b") })).len(), 3);
    }
}

#[test]
fn the_one_that_is_not_heard_is_left_out() {
    let mut desk = desk();
    let from = desk.effects.len();
    let (when, _) =
        beats(&mut desk, [Some((10, Phase::Reduce, 7)), Some((10, Phase::Reduce, 7)), None], 5_000).unwrap();
    assert!((1_000..=1_500).contains(&when), "after {when} ms");
    assert!(desk.notes(from)[0].starts_with("c was not heard for 1"), "{:?}", desk.notes(from));
}

#[test]
fn silence_counts_before_anything_is_known_of_the_run() {
    let mut desk = Desk::with_long_run(3, 3, 6, 1000);
    for (session, name) in NAMES.into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    let computes = Some((0, Phase::Compute, 1));
    let (when, _) = beats(&mut desk, [computes, computes, None], 5_000).unwrap();
    assert!((1_000..=1_500).contains(&when), "after {when} ms");
}

#[test]
fn an_agent_does_not_speak_for_its_trainer() {
    let mut desk = desk();
    let began = desk.now.0;
    let from = desk.effects.len();
    let place = (10, Phase::Compute, 7);
    while desk.now.0 < began + 1_250 {
        desk.wait(250);
        let since = desk.now.0 - began;
        desk.beat("a", 1, place, 0);
        desk.beat("b", 1, place, 0);
        desk.beat_for("c", 1, place, since, since);
    }
    assert!(desk.notes(from)[0].starts_with("c was not heard for 1"), "{:?}", desk.notes(from));
}

#[test]
fn nobody_is_blamed_while_nobody_is_heard() {
    let mut desk = desk();
    let place = (10, Phase::Compute, 7);
    // "c" used to pause for longer, so that its silence would mean something later than that of the others.
    for beat in 1..=16 {
        desk.wait(100);
        desk.beat("a", 1, place, 0);
        desk.beat("b", 1, place, 0);
        if beat % 4 == 0 {
            desk.beat("c", 1, place, 0);
        }
    }
    desk.wait(100);
    desk.beat("a", 1, place, 0);
    assert!(beats(&mut desk, [None; 3], 10_000).is_none());
    // And then they are.
    let effects = [desk.beat("a", 1, place, 0), desk.wait(250)].concat();
    assert!(!sent(&effects, "c").is_empty());
}

#[test]
fn who_is_heard_rarely_may_be_silent_for_longer() {
    let mut desk = desk();
    let place = (10, Phase::Compute, 7);
    // "c" is on a busy host: it comes to speak every 800 ms.
    for beat in 1..=32 {
        assert_eq!(sent(&desk.wait(100), "a"), []);
        desk.beat("a", 1, place, 0);
        desk.beat("b", 1, place, 0);
        if beat % 8 == 0 {
            desk.beat("c", 1, place, 0);
        }
    }
    // The others move: nothing but its silence speaks against it.
    let began = desk.now.0;
    let told = (1..=60).find_map(|_| {
        let effects = [desk.wait(50), desk.beat("a", 1, place, 0), desk.beat("b", 1, place, 0)].concat();
        (!sent(&effects, "c").is_empty()).then_some(desk.now.0 - began)
    });
    assert!(told.is_some_and(|when| (1_750..=2_000).contains(&when)), "after {told:?} ms");
}

#[test]
fn to_have_been_away_is_no_habit() {
    let mut desk = desk();
    for _ in 0..3 {
        let (generation, step) = (desk.generation(), desk.step());
        let began = desk.now.0;
        let mut told = None;
        // "c" sleeps for four seconds; the others go on to speak.
        while desk.now.0 < began + 4_000 {
            let mut effects = desk.wait(50);
            for name in ["a", "b"] {
                effects.extend(desk.beat(name, generation, (step, Phase::Compute, 7), 0));
            }
            if told.is_none() && !sent(&effects, "c").is_empty() {
                told = Some(desk.now.0 - began);
                desk.step_failed("a", generation, step);
                desk.step_failed("b", generation, step);
            }
        }
        assert!(told.is_some_and(|when| (1_000..=1_250).contains(&when)), "after {told:?} ms");
        assert_eq!(assigned(&desk.step_failed("c", generation, step)).len(), 3);
    }
}

#[test]
fn who_asks_for_more_patience_has_it_for_the_silent_too() {
    let mut desk = Desk::new();
    desk.recovery.hang_factor = 30;
    desk.submit(&run(), 3, 3);
    for (session, name) in NAMES.into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    let computes = Some((0, Phase::Compute, 1));
    let (when, _) = beats(&mut desk, [computes, computes, None], 5_000).unwrap();
    assert!((3_000..=3_500).contains(&when), "after {when} ms");
}

#[test]
fn one_that_is_not_heard_may_stay_while_steps_are_done() {
    let mut desk = desk();
    for step in 11..=100 {
        assert!(beats(&mut desk, [Some((step, Phase::Reduce, 7)), Some((step, Phase::Reduce, 7)), None], 50).is_none());
        desk.progress("a", 1, step);
    }
    assert_eq!(desk.generation(), 1);
}

#[test]
fn nobody_is_blamed_for_long_work() {
    for phase in [Phase::Rendezvous, Phase::Restore, Phase::Evaluate, Phase::Checkpoint, Phase::Data] {
        let mut desk = desk();
        assert!(beats(&mut desk, [Some((10, phase, 7)); 3], 20_000).is_none(), "{phase:?}");
        let mixed = [Some((10, phase, 7)), Some((10, Phase::Reduce, 7)), Some((10, phase, 7))];
        if phase != Phase::Data {
            assert!(beats(&mut desk, mixed, 20_000).is_none(), "{phase:?}");
        }
    }
}

#[test]
fn if_none_can_be_named_those_who_do_not_answer_are_left_out() {
    let mut desk = Desk::with_long_run(2, 3, 6, 1000);
    for (session, name) in NAMES.into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    desk.wait(500);
    for name in NAMES {
        desk.paused(name, 1, 0);
    }
    for step in 1..=10 {
        desk.wait(50);
        for name in NAMES {
            desk.progress(name, 2, step);
        }
    }
    let mut stopped = false;
    for beat in 1..=6 {
        let mut effects = desk.wait(250);
        effects.extend(NAMES.map(|name| desk.beat(name, 2, (10, Phase::Reduce, 7), 250 * beat)).concat());
        stopped |= !sent(&effects, "a").is_empty();
    }
    assert!(stopped);
    desk.step_failed("a", 2, 10);
    desk.step_failed("c", 2, 10);
    let from = desk.effects.len();
    let effects = desk.wait(1_000);
    assert_eq!(assigned(&effects).iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(desk.notes(from)[0], "b does not answer and is left out");
}

#[test]
fn patience_grows_with_the_steps_of_the_run() {
    let mut desk = Desk::with_long_run(3, 3, 6, 1000);
    for (session, name) in NAMES.into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    for step in 1..=4 {
        desk.wait(2_000);
        // Held up, and then all at once: by the workers' own clocks a step took two seconds.
        for name in NAMES {
            desk.worked(name, 1, 2 * step - 1, 10, 2.0);
        }
        for name in NAMES {
            desk.worked(name, 1, 2 * step, 10, 2.0);
        }
    }
    let places = [(8, Phase::Reduce, 7), (8, Phase::Compute, 7), (8, Phase::Reduce, 7)].map(Some);
    let (when, _) = beats(&mut desk, places, 40_000).unwrap();
    assert!((20_000..=21_000).contains(&when), "after {when} ms");
}

#[test]
fn nobody_is_blamed_for_silence_while_the_coordinator_slept() {
    let mut desk = desk();
    assert_eq!(sent(&desk.wait(30_000), "a"), []);
    for name in NAMES {
        assert_eq!(desk.beat(name, 1, (600, Phase::Compute, 7), 10), []);
    }
    assert_eq!(desk.generation(), 1);
}

#[test]
fn a_member_whose_session_ended_stays_while_steps_are_done() {
    let mut desk = desk();
    desk.disconnect("c", 2);
    for step in 11..=60 {
        desk.wait(50);
        desk.progress("a", 1, step);
    }
    assert_eq!(desk.generation(), 1);
    assert_eq!(sent(&desk.wait(799), "a"), []);
    assert_eq!(sent(&desk.wait(1), "a").len(), 1);
}

/// Everybody waits for everybody in the present generation, until it is aborted; all answer that. Then the next.
fn stall(desk: &mut Desk) {
    let generation = desk.generation();
    let step = desk.step();
    let aborted = (1..=100).any(|beat| {
        let mut effects = desk.wait(250);
        let beats = NAMES.map(|name| desk.beat(name, generation, (step, Phase::Reduce, 7), 250 * beat));
        effects.extend(beats.concat());
        !sent(&effects, "a").is_empty()
    });
    assert!(aborted, "in generation {generation}");
    for name in NAMES {
        desk.step_failed(name, generation, step);
    }
    for _ in 0..40 {
        if desk.generation() == generation && desk.status() == RunStatus::Running {
            desk.wait(1_000);
        }
    }
}

#[test]
fn a_stall_that_all_answer_counts_as_fruitless() {
    let mut desk = Desk::with_long_run(2, 3, 6, 1000);
    for (session, name) in NAMES.into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    desk.wait(500);
    desk.paused("a", 1, 0);
    desk.paused("b", 1, 0);
    for step in 1..=10 {
        desk.wait(50);
        for name in NAMES {
            desk.progress(name, 2, step);
        }
    }
    for round in 0..3 {
        assert!(!desk.notes(0).iter().any(|note| note.contains("is left out")), "round {round}: {:?}", desk.notes(0));
        stall(&mut desk);
    }
    assert!(desk.notes(0).iter().any(|note| note.starts_with("a is left out for a while")), "{:?}", desk.notes(0));
    assert_eq!(desk.control.run(&run()).unwrap().members.len(), 2);
}

#[test]
fn a_stall_that_repeats_ends_the_run_at_last() {
    let mut desk = desk();
    for _ in 0..10 {
        assert_eq!(desk.status(), RunStatus::Running, "{}", desk.reason());
        stall(&mut desk);
    }
    assert_eq!(desk.status(), RunStatus::Failed);
    assert!(desk.reason().starts_with("10 generations failed with no step between them; no step for "));
}

#[test]
fn a_member_that_hangs_in_every_generation_ends_the_run_at_last() {
    let mut desk = Desk::with_run(2, 2);
    desk.connect("a", 1, None);
    desk.connect("b", 2, None);
    for round in 0..10 {
        assert_eq!(desk.status(), RunStatus::Running, "round {round}: {}", desk.reason());
        let generation = desk.generation();
        desk.beat("b", generation, (0, Phase::Restore, 0), 301_000);
        desk.step_failed("a", generation, 0);
        desk.wait(1_000);
        // Too late: it is left out, and may join again.
        desk.step_failed("b", generation, 0);
        for _ in 0..40 {
            if desk.generation() == generation && desk.status() != RunStatus::Failed {
                desk.wait(1_000);
            }
        }
    }
    let help = "once that is mended, `coordinator runs resume run` goes on";
    let seen = "10 generations failed with no step between them; b made no progress";
    assert_eq!(desk.reason(), format!("{seen}\n  help: {help}"));
}

#[test]
fn whatever_a_woken_trainer_answers_it_may_work_again() {
    for answer in 0..5 {
        let mut desk = desk();
        let waits = Some((10, Phase::Reduce, 7));
        beats(&mut desk, [waits, waits, None], 5_000).unwrap();
        desk.step_failed("a", 1, 10);
        desk.step_failed("b", 1, 10);
        assert_eq!(desk.status(), RunStatus::Interrupted);
        let effects = match answer {
            0 => desk.step_failed("c", 1, 10),
            1 => desk.paused("c", 1, 10),
            2 => desk.finished("c", 1, 9),
            3 => desk.diverged("c", 1, 10),
            _ => {
                let (run, generation, reason) = (run(), Generation(1), "no such file".to_owned());
                desk.tell(Event::RunFailed { worker: worker("c"), run, generation, reason })
            }
        };
        assert_eq!(assigned(&effects).len(), 3, "answer {answer}");
    }
}
