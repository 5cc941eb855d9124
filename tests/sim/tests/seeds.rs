//! A thousand histories, and that each is the same every time.

use sim::simulate;

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
