//! A thousand histories, and that each is the same every time.

use sim::{Planted, simulate, simulate_planted};

/// In four parts, so that they can run side by side.
fn part(number: u64) {
    let failed: Vec<String> = (0..250)
        .map(|seed| seed * 4 + number)
        .filter_map(|seed| {
            let violation = simulate(seed, false).violation?;
            Some(format!("seed {seed}: {violation}\n  replay: cargo xtask sim --seed {seed}"))
        })
        .collect();
    assert!(failed.is_empty(), "{} seeds failed\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn seeds_part_0() {
    part(0);
}

#[test]
fn seeds_part_1() {
    part(1);
}

#[test]
fn seeds_part_2() {
    part(2);
}

#[test]
fn seeds_part_3() {
    part(3);
}

#[test]
fn a_seed_replays_to_the_letter() {
    assert_eq!(simulate(7, true).trace, simulate(7, true).trace);
}

/// The first seeds that find a bug which was planted.
fn found(planted: Planted) -> Vec<u64> {
    (0..200).filter(|seed| simulate_planted(*seed, false, Some(planted)).violation.is_some()).take(3).collect()
}

#[test]
fn a_generation_that_restarts_at_zero_is_found() {
    assert_eq!(found(Planted::GenerationRestarts).len(), 3);
}

#[test]
fn a_commit_of_an_old_generation_is_found() {
    assert_eq!(found(Planted::OldCommit).len(), 3);
}

#[test]
fn a_unit_that_is_dealt_twice_is_found() {
    assert_eq!(found(Planted::UnitDealtTwice).len(), 3);
}
