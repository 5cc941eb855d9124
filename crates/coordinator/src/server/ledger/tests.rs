use super::*;
use corpus::Unit;

const SLOTS: u32 = 2;
const PER_STEP: u64 = 3;
const STEPS: u64 = 20;

fn plan() -> Plan {
    let units = (0..5).map(|index| Unit { file: 0, row_group: index, first_row: 0, rows: 4 }).collect();
    Plan::new(units, Vec::new(), SLOTS, 7)
}

/// [`PER_STEP`] samples of each slot in a step.
fn batch() -> BatchConfig {
    BatchConfig {
        slots: SLOTS,
        micro_batch: PER_STEP as usize,
        accumulate: 1,
        ramp_from: None,
        ramp_share: None,
        sequence_length: 16,
        short_length: None,
        short_share: None,
        padding: config::Padding::Padded,
    }
}

/// Of such a run.
fn fresh() -> Ledger {
    Ledger::new(plan(), batch(), STEPS)
}

/// How many samples a turn's unit makes: any number, also none.
fn total(plan: &Plan, slot: SlotId, turn: u64) -> u64 {
    let dealt = plan.deal(slot, turn);
    (dealt.unit as u64 * 3 + dealt.epoch) % 7
}

/// What workers that do everything right report.
fn steps(plan: &Plan, count: u64) -> Vec<(Step, Vec<Segment>, Digest)> {
    steps_of(plan, &batch(), count, total)
}

fn steps_of(
    plan: &Plan,
    batch: &BatchConfig,
    count: u64,
    total: impl Fn(&Plan, SlotId, u64) -> u64,
) -> Vec<(Step, Vec<Segment>, Digest)> {
    let mut cursors = vec![Cursor::default(); SLOTS as usize];
    let mut chain = Digest::default();
    let mut all = Vec::new();
    for step in 1..=count {
        let mut segments = Vec::new();
        for slot in 0..SLOTS {
            let cursor = &mut cursors[slot as usize];
            let mut wanted = batch.slot_samples_at(step, STEPS);
            while wanted > 0 {
                let total = total(plan, SlotId(slot), cursor.turn);
                let taken = wanted.min(total - cursor.sample);
                let (start, end) = (cursor.sample, cursor.sample + taken);
                segments.push(Segment { slot: SlotId(slot), turn: cursor.turn, start, end, total });
                wanted -= taken;
                cursor.sample = end;
                if end == total {
                    *cursor = Cursor { turn: cursor.turn + 1, sample: 0 };
                }
            }
        }
        chain = chain.chain_samples(Step(step), &segments);
        all.push((Step(step), segments, chain));
    }
    all
}

fn check(steps: &[(Step, Vec<Segment>, Digest)]) -> Report {
    let mut ledger = fresh();
    for (step, segments, digest) in steps {
        ledger.add(*step, segments, *digest);
    }
    let (step, _, digest) = steps.last().expect("some steps");
    ledger.finish(*step, Some(*digest))
}

/// The chain as whoever tampered would compute it.
fn rechain(steps: &mut [(Step, Vec<Segment>, Digest)]) {
    let mut chain = Digest::default();
    for (step, segments, digest) in steps {
        chain = chain.chain_samples(*step, segments);
        *digest = chain;
    }
}

#[test]
fn a_faithful_run_is_proved() {
    let report = check(&steps(&plan(), 20));
    assert!(report.ok, "{:?}", report.problems);
    assert_eq!((report.samples, report.duplicates, report.missing, report.steps), (120, 0, 0, 20));
    assert!(report.epochs >= 5, "{report:?}");
    let nothing = fresh().finish(Step(0), None);
    assert!(nothing.ok && nothing.steps == 0);
}

#[test]
fn a_batch_that_grows_is_proved_step_by_step() {
    let grows = BatchConfig { accumulate: 4, ramp_from: Some(1), ramp_share: Some(0.6), ..batch() };
    let steps = steps_of(&plan(), &grows, STEPS, total);
    let prove = |batch: BatchConfig| {
        let mut ledger = Ledger::new(plan(), batch, STEPS);
        for (step, segments, digest) in &steps {
            ledger.add(*step, segments, *digest);
        }
        ledger.finish(Step(STEPS), steps.last().map(|(_, _, digest)| *digest))
    };
    let report = prove(grows.clone());
    assert!(report.ok, "{:?}", report.problems);
    // Four steps each of one, two and three micro-batches, then eight of four; three samples in each, two slots.
    assert_eq!((report.samples, report.samples), (2 * 3 * (4 + 8 + 12 + 32), grows.samples_until(STEPS, STEPS)));
    // Held against another batch, every step is wrong that is another there.
    let report = prove(BatchConfig { ramp_from: Some(2), ..grows });
    assert!(report.problems[0].starts_with("step 1: "), "{report:?}");
    let count = "step 1: slot 0 used 3 samples instead of 6";
    assert!(report.problems.iter().any(|problem| problem == count), "{report:?}");
}

#[test]
fn a_sample_used_twice_is_found() {
    let mut steps = steps(&plan(), 8);
    // The fifth step does the work of the fourth again.
    steps[4].1 = steps[3].1.clone();
    rechain(&mut steps);
    let report = check(&steps);
    assert!(!report.ok && report.duplicates >= PER_STEP, "{report:?}");
}

#[test]
fn a_sample_left_out_is_found() {
    let mut steps = steps(&plan(), 8);
    let segment = steps[2].1.iter_mut().find(|segment| segment.end - segment.start >= 2).unwrap();
    segment.start += 1;
    rechain(&mut steps);
    let report = check(&steps);
    assert!(!report.ok, "{report:?}");
    assert_eq!((report.duplicates, report.missing), (0, 1));
}

#[test]
fn a_unit_left_out_is_found() {
    let mut steps = steps(&plan(), 8);
    for (_, segments, _) in &mut steps {
        for segment in segments.iter_mut().filter(|segment| segment.slot == SlotId(1) && segment.turn >= 2) {
            segment.turn += 1;
        }
    }
    rechain(&mut steps);
    let report = check(&steps);
    assert!(!report.ok && report.missing >= 1, "{report:?}");
}

#[test]
fn a_changed_commit_breaks_the_chain() {
    let mut steps = steps(&plan(), 8);
    steps[5].1[0].total += 1;
    let report = check(&steps);
    assert!(report.problems.iter().any(|problem| problem.contains("step 6: the chain")), "{report:?}");
}

#[test]
fn a_lost_commit_is_found() {
    let mut steps = steps(&plan(), 8);
    steps.remove(3);
    let report = check(&steps);
    assert!(report.problems.iter().any(|problem| problem.contains("after step 3 comes step 5")), "{report:?}");
}

#[test]
fn a_run_that_says_more_than_its_commits_is_found() {
    let steps = steps(&plan(), 8);
    let mut ledger = fresh();
    for (step, segments, digest) in &steps[..7] {
        ledger.add(*step, segments, *digest);
    }
    assert!(!ledger.finish(Step(8), Some(steps[7].2)).ok);
    // Right after a rewind the run has no chain of its own, but it has a step.
    let mut ledger = fresh();
    for (step, segments, digest) in &steps[..7] {
        ledger.add(*step, segments, *digest);
    }
    assert!(!ledger.finish(Step(8), None).ok);
}

#[test]
fn a_slot_left_out_of_a_step_is_found() {
    let mut steps = steps(&plan(), 8);
    // A worker that does nothing for its slot in the fourth step, and goes on where it was.
    for step in (3..7).rev() {
        let later: Vec<Segment> = steps[step].1.iter().copied().filter(|segment| segment.slot == SlotId(1)).collect();
        steps[step + 1].1.retain(|segment| segment.slot != SlotId(1));
        steps[step + 1].1.extend(later);
    }
    steps[3].1.retain(|segment| segment.slot != SlotId(1));
    rechain(&mut steps);
    let report = check(&steps);
    assert_eq!((report.duplicates, report.missing), (0, 0), "nothing but the count tells it");
    assert_eq!(report.problems, ["step 4: slot 1 used 0 samples instead of 3"]);
}

#[test]
fn samples_in_another_order_than_the_plans_are_found() {
    let mut steps = steps(&plan(), 8);
    steps[2].1.reverse();
    rechain(&mut steps);
    let report = check(&steps);
    assert!(report.problems.iter().any(|problem| problem.contains("step 3: the chain")), "{report:?}");
}

/// What a worker reports to whom every unit is one sample shorter than it is.
fn shortened(count: u64) -> Vec<(Step, Vec<Segment>, Digest)> {
    steps_of(&plan(), &batch(), count, |plan, slot, turn| total(plan, slot, turn).saturating_sub(1))
}

#[test]
fn a_unit_reported_shorter_than_it_is_is_found() {
    let steps = shortened(8);
    assert!(check(&steps).ok, "the segments alone do not tell it");
    let mut ledger = fresh();
    for (epoch, unit) in ledger.unmade(steps.iter().flat_map(|(_, segments, _)| segments)) {
        ledger.made(Dealt { epoch, unit }, (unit as u64 * 3 + epoch) % 7);
    }
    for (step, segments, digest) in &steps {
        ledger.add(*step, segments, *digest);
    }
    let report = ledger.finish(Step(8), Some(steps[7].2));
    assert!(!report.ok && report.missing > 0, "{report:?}");
    assert!(report.problems.iter().any(|problem| problem.contains("but its unit makes")), "{report:?}");
}

#[test]
fn a_faithful_run_is_proved_from_the_units_themselves() {
    let steps = steps(&plan(), 20);
    let mut ledger = fresh();
    for (step, segments, digest) in &steps {
        // As page after page does it.
        for (epoch, unit) in ledger.unmade(segments) {
            ledger.made(Dealt { epoch, unit }, (unit as u64 * 3 + epoch) % 7);
        }
        ledger.add(*step, segments, *digest);
    }
    let report = ledger.finish(Step(20), Some(steps[19].2));
    assert!(report.ok, "{report:?}");
    assert_eq!((report.samples, report.chain), (120, steps[19].2));
}

#[test]
fn a_turn_beyond_all_numbers_is_a_problem_and_no_more() {
    let mut steps = steps(&plan(), 2);
    let last = steps[1].1.last_mut().unwrap();
    (last.turn, last.start, last.end, last.total) = (u64::MAX, 0, 3, 3);
    rechain(&mut steps);
    assert!(!check(&steps).ok);
}
