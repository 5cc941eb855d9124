//! How much of a slow worker's speed a run gets: three workers of one thread each, one at half the speed of the others.
//!
//! The machine has two cores, so all three are slowed down by [`Throttle`]. What each of them does alone, with its own
//! part of a core, is the measure; together they should do the sum of it once slots have moved.

use crate::report::{Line, median};
use crate::throttle::Throttle;
use crate::{runs, samples};
use anyhow::{Context, Result, ensure};
use e2e::{Cluster, SLOW};
use serde_json::Value;
use std::path::Path;

/// The part of a core that each may use: the third is slow. Together they leave a tenth of a core to everything else.
const PARTS: [f64; 3] = [0.76, 0.76, 0.38];
const SLOTS: usize = 20;
const MICRO_BATCH: usize = 4;
const SEQUENCE_LENGTH: usize = 128;
const GOAL: f64 = 0.9;
/// Steps with slots dealt evenly, as anybody would deal them who knows no speeds.
const EVEN_STEPS: usize = 6;
/// Of the run whose weights are compared.
const SHORT_STEPS: usize = 60;
const MOVE: &str = "slots move from slow to fast workers: ";

pub fn measure(quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    same_weights()?;
    let folder = tempfile::tempdir()?;
    samples::write(folder.path())?;
    let (rounds, alone_steps, steps) = if quick { (1, 3, 6) } else { (3, 5, 20) };
    let (mut alone, mut even, mut together) = (vec![Vec::new(); PARTS.len()], Vec::new(), Vec::new());
    let mut moves = String::new();
    for _ in 0..rounds {
        for (part, found) in PARTS.iter().zip(&mut alone) {
            found.extend(work_alone(folder.path(), *part, alone_steps)?);
        }
        let found = work_together(folder.path(), steps)?;
        even.extend(found.even);
        together.extend(found.moved);
        moves = found.moves;
    }
    let speed = |seconds: Vec<f64>| (SLOTS * MICRO_BATCH * SEQUENCE_LENGTH) as f64 / median(seconds);
    let sum: f64 = alone.into_iter().map(speed).sum();
    let case = format!(
        "three workers, one at half speed, beside the sum of what each does alone (dealt evenly: {:.3} times; {moves})",
        speed(even) / sum
    );
    show(&Line::new("balance", case, speed(together), sum, "tokens/s", GOAL));
    Ok(())
}

/// The shipped model with the corpus's own vocabulary: the less there is to reduce, the less the workers wait for one
/// that has just used up its time, which no slow machine does.
fn submit(cluster: &Cluster, folder: &Path, workers: usize) -> Result<String> {
    let overrides = [
        format!("batch.slots={SLOTS}"),
        format!("batch.micro_batch={MICRO_BATCH}"),
        format!("batch.sequence_length={SEQUENCE_LENGTH}"),
        format!("run.min_workers={workers}"),
    ];
    runs::submit(cluster, folder, &overrides)
}

fn throttle(cluster: &mut Cluster, parts: &[f64]) -> Result<Throttle> {
    let processes: Vec<(u32, f64)> =
        parts.iter().enumerate().map(|(index, part)| (cluster.worker(index).trainer_pid(), *part)).collect();
    Throttle::start(&processes)
}

/// The seconds of each step.
fn work_alone(folder: &Path, part: f64, steps: usize) -> Result<Vec<f64>> {
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let throttle = throttle(&mut cluster, &[part])?;
    let run = submit(&cluster, folder, 1)?;
    runs::wait_for_step(&cluster, &run, runs::WARM_UP + steps)?;
    let times = runs::step_times(&cluster, &run)?;
    drop(throttle);
    runs::step_seconds(&times, runs::WARM_UP, steps)
}

/// The seconds of each step with slots dealt evenly and after they moved, and who got how many.
struct Together {
    even: Vec<f64>,
    moved: Vec<f64>,
    moves: String,
}

fn work_together(folder: &Path, steps: usize) -> Result<Together> {
    let mut cluster = Cluster::start();
    cluster.add_workers(PARTS.len());
    let slow = cluster.worker(PARTS.len() - 1).name.clone();
    let throttle = throttle(&mut cluster, &PARTS)?;
    let run = submit(&cluster, folder, PARTS.len())?;
    let (moves, time) = runs::wait(&cluster, &run, moved)?;
    let moved_at = ended_before(&runs::step_times(&cluster, &run)?, time);
    ensure!(shrinks(&moves, &slow), "the slow one is {slow}, but {moves}");
    // The step under way ends, the next one's header agrees on the pause, slots move, and the next ones warm up.
    let skip = moved_at + 2 + runs::WARM_UP;
    runs::wait_for_step(&cluster, &run, skip + steps)?;
    let times = runs::step_times(&cluster, &run)?;
    drop(throttle);
    let worlds = cluster.generations(&run);
    ensure!(worlds.iter().all(|world| *world == PARTS.len()), "a worker was lost meanwhile: {worlds:?}");
    let even = runs::step_seconds(&times, runs::WARM_UP, EVEN_STEPS.min(moved_at - runs::WARM_UP))?;
    Ok(Together { even, moved: runs::step_seconds(&times, skip, steps)?, moves })
}

/// The event that says so, "worker-3 7 to 4, ...", and its time.
fn moved(shown: &Value) -> Option<(String, i64)> {
    let events = shown["events"].as_array()?;
    events.iter().find_map(|event| {
        let moves = event["text"].as_str()?.strip_prefix(MOVE)?.split_once(" (")?.0.to_owned();
        Some((moves, event["time"].as_i64()?))
    })
}

/// Whether this worker has fewer slots afterwards.
fn shrinks(moves: &str, worker: &str) -> bool {
    moves.split(", ").any(|one| {
        let mut words = one.split(' ');
        let (name, before, after) = (words.next(), words.next(), words.nth(1));
        let count = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok());
        name == Some(worker) && count(after).is_some() && count(after) < count(before)
    })
}

fn ended_before(times: &[i64], time: i64) -> usize {
    times.partition_point(|ended| *ended <= time)
}

/// Where slots are computed changes nothing: the weights of a short run in which they moved are those of one worker.
fn same_weights() -> Result<()> {
    let overrides = [format!("run.steps={SHORT_STEPS}"), "batch.slots=10".to_owned()];
    let overrides: Vec<&str> = SLOW.into_iter().chain(overrides.iter().map(String::as_str)).collect();
    let mut cluster = Cluster::start();
    cluster.add_workers(1);
    let run = cluster.submit(&overrides);
    let alone = runs::wait_until_completed(&cluster, &run)?;
    drop(cluster);

    let mut cluster = Cluster::start();
    cluster.add_workers(PARTS.len());
    let throttle = throttle(&mut cluster, &PARTS)?;
    let minimum = format!("run.min_workers={}", PARTS.len());
    let run = cluster.submit(&[&overrides[..], &[&minimum]].concat());
    let together = runs::wait_until_completed(&cluster, &run)?;
    drop(throttle);
    let shown = cluster.show(&run);
    let (moves, _) = moved(&shown).with_context(|| format!("no slots moved: {shown:#}"))?;
    ensure!(together == alone, "{together} are not the weights of one worker, {alone}, after {moves}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_event_tells_who_got_how_many_slots() {
        let text = format!("{MOVE}worker-1 6 to 8, worker-3 7 to 4 (43 % less a step)");
        let events =
            json!({ "events": [{ "time": 5, "text": "generation 1: 3 workers" }, { "time": 9, "text": text }] });
        let (moves, time) = moved(&events).unwrap();
        assert_eq!((moves.as_str(), time), ("worker-1 6 to 8, worker-3 7 to 4", 9));
        assert!(shrinks(&moves, "worker-3"));
        assert!(!shrinks(&moves, "worker-1"), "it grows");
        assert!(!shrinks(&moves, "worker-2"), "it keeps what it has");
        assert_eq!(moved(&json!({ "events": [] })), None);
    }

    #[test]
    fn steps_that_had_ended_are_counted() {
        assert_eq!(ended_before(&[10, 20, 30], 20), 2);
        assert_eq!(ended_before(&[10, 20, 30], 5), 0);
    }
}
