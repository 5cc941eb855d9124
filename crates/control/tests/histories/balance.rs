//! Slots that move to where they are computed faster.

use crate::desk::{Desk, assigned, sent};
use control::{Effect, Event};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three members with two slots each.
fn desk(steps: u64) -> Desk {
    let mut desk = Desk::with_long_run(3, 3, 12, steps);
    for (session, name) in NAMES.into_iter().enumerate() {
        desk.connect(name, session as u64, None);
    }
    desk
}

/// Does one step; each member's slots take `ms` milliseconds a slot.
fn step(desk: &mut Desk, slots: [u64; 3], ms: [u64; 3], step: u64) -> Vec<Effect> {
    let times: Vec<u64> = slots.iter().zip(ms).map(|(slots, ms)| slots * ms).collect();
    desk.wait(*times.iter().max().unwrap());
    let generation = desk.generation();
    let mut effects = Vec::new();
    for ((name, slots), time) in NAMES.into_iter().zip(slots).zip(times) {
        effects.extend(desk.worked(name, generation, step, 100 * slots, time as f64 / 1000.0));
    }
    effects
}

#[test]
fn slots_move_from_a_slow_worker_to_fast_ones() {
    let mut desk = desk(10_000);
    let moved = (1..100).find(|number| {
        let effects = step(&mut desk, [4, 4, 4], [100, 100, 200], *number);
        !sent(&effects, "a").is_empty()
    });
    assert!(moved.is_some_and(|number| number < 12), "{moved:?}");
    let notes = desk.notes(0);
    assert!(notes.iter().any(|note| note == "c is slow: it computes 2.0 times slower than others"), "{notes:?}");
    let text = "slots move from slow to fast workers: a 4 to 5, b 4 to 5, c 4 to 2 (38 % less a step)";
    assert!(notes.iter().any(|note| note == text), "{notes:?}");
    let at = moved.unwrap() + 1;
    desk.paused("a", 1, at);
    desk.paused("b", 1, at);
    let sizes: Vec<usize> = assigned(&desk.paused("c", 1, at)).iter().map(|(.., slots)| slots.len()).collect();
    assert_eq!(sizes, [5, 5, 2]);
    // And there they stay.
    let from = desk.effects.len();
    for number in at..at + 200 {
        step(&mut desk, [5, 5, 2], [100, 100, 200], number);
    }
    assert_eq!((desk.generation(), desk.notes(from).len()), (2, 0));
}

#[test]
fn noise_moves_nothing() {
    let mut desk = desk(10_000);
    for number in 1..200 {
        let noisy = |salt: u64| 95 + (number * salt) % 10;
        step(&mut desk, [4, 4, 4], [noisy(3), noisy(7), noisy(11)], number);
    }
    assert_eq!((desk.generation(), desk.notes(0).len()), (1, 1));
}

#[test]
fn at_the_end_of_a_run_it_does_not_pay() {
    let mut desk = desk(20);
    for number in 1..20 {
        assert_eq!(sent(&step(&mut desk, [4, 4, 4], [10, 10, 20], number), "a"), []);
    }
}

#[test]
fn a_worker_whose_speed_changes_all_the_time_does_not_interrupt_the_run_all_the_time() {
    let mut desk = desk(100_000);
    let mut slots = [4, 4, 4];
    let began = desk.now.0;
    for number in 1..3_000 {
        let slow = if number / 50 % 2 == 0 { 100 } else { 300 };
        let effects = step(&mut desk, slots, [100, 100, slow], number);
        if !sent(&effects, "a").is_empty() {
            let generation = desk.generation();
            let now = NAMES.map(|name| desk.paused(name, generation, number)).concat();
            for (share, (.., dealt)) in slots.iter_mut().zip(assigned(&now)) {
                *share = dealt.len() as u64;
            }
            desk.wait(400);
        }
    }
    let changes = desk.generation() - 1;
    let share = 400.0 * changes as f64 / (desk.now.0 - began) as f64;
    assert!(changes > 1 && share < 0.03, "{changes} changes, {share} of the time");
}

#[test]
fn a_worker_that_does_not_say_how_fast_it_is_is_taken_as_it_is() {
    let mut desk = desk(1_000);
    for number in 1..50 {
        for name in NAMES {
            desk.progress(name, 1, number);
        }
    }
    desk.tell(Event::CheckpointWanted { run: crate::desk::run() });
    assert_eq!(desk.generation(), 1);
}
