//! docs/benchmarks.md from the results of one or several runs.

use super::SUITES;
use super::results::{Bound, Line, Recovery, Run};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What each suite is, for who reads its table. As in [`SUITES`].
const TITLES: [(&str, &str); SUITES.len()] = [
    (
        "Training steps",
        "Whole steps of one worker beside a plain PyTorch loop with the fused AdamW on ready batches: Hugging Face's \
         `BertForPreTraining` as it is, compiled, and with the vocabulary's head written by hand for the masked \
         positions alone. The last rows of a size tell which share of a large matrix product's speed the step's own \
         matrix products reach, by formula (crates/config/src/flops.rs).",
    ),
    (
        "Text to checkpoints",
        "A real corpus from text on, with logging, a checkpoint every 100 steps and the held-out loss, beside the \
         Trainer as `run_mlm` uses it.",
    ),
    (
        "Two workers beside one",
        "The real binaries, exact mode, the same batch; and DistributedDataParallel over Gloo, eager. What the machine \
         itself gives on two threads is below: no pair of workers can do better.",
    ),
    ("Exact mode beside fast mode", "Bit-identical weights for any number of workers, and what they cost."),
    (
        "Text to samples",
        "Tokenised, packed or paired, and masked on one core, beside `datasets.map` with the fast tokenizer and \
         `DataCollatorForLanguageModeling`.",
    ),
    ("Fine-tuning steps", "Beside the Trainer's, on a classifier of the same shape."),
    (
        "The coordinator",
        "Simulated workers with real gRPC sessions over loopback, from one process on the same cores. They beat once a \
         second and report steps; what they would ask the rendezvous is left out. A run has 2,000 workers at most here, \
         so 10,000 work on five.",
    ),
    (
        "Memory of a worker",
        "BERT as published, two threads. The formulas are in tests/bench/src/memory.rs; the ratio is what both of a \
         worker's processes have at most, beside parameters, gradients, optimizer state and activations.",
    ),
    (
        "A checkpoint",
        "How long a step waits until weights and moments are taken aside, which are stored while training goes on.",
    ),
    ("Recovery", "Three workers of one thread; from the fault to the end of the step that it held up."),
    ("A slow worker", "Three workers, one at half the speed of the others."),
    (
        "Learning per minute",
        "How long what `coordinator recipe suggest` says for a size and a time trains, from nothing, until it predicts \
         held-out words as well as Hugging Face's Trainer does after ten minutes of `run_mlm` with a BERT of the same \
         layers and width: the same texts, vocabulary and threads, both measured on the same masked words. The Trainer's speed \
         is measured first; what it then takes for as many steps may be more or less than ten minutes.",
    ),
    (
        "Recipes",
        "The shipped recipe of a size (configs/recipes) and the same with one thing changed, the best first: held-out loss \
         after equal times. Each has as many steps as fit into the time at the speed measured on the threads \
         that the case names; the runs, which are deterministic, may have been done elsewhere. All predict the same words of \
         the same held-out blocks of 128 tokens, 15 % of them, whatever they were trained on; *peer* is the recipe as it \
         is. Losses of vocabularies of different sizes cannot be compared by the token: for them there are nats a byte.",
    ),
];

const HEAD: &str = "# Benchmarks

Made by `cargo xtask bench --report` from what `cargo xtask bench --json` printed (docs/benchmarks/*.jsonl); not edited by hand.

Absolute figures of two runs differ by a fifth and more, so goals are for ratios of medians inside one run, in which both
sides took turns with the same threads. Goals are what we set ourselves; why one is missed stands in
[results.md](results.md#goals-that-are-missed). *Spread* is the interquartile range as a part of the median, of the side
where it is wider, and blank where there were too few values. The profile `dev` is the one that everything is built in
(optimised, Cargo.toml); a commit with a `+` had changes that were not committed. Where a case was measured in several runs, each figure is the median of the runs, and the range of the ratio
over them is in brackets.
";

const GPU: &str = "- CUDA: no table here was measured on a GPU; [guide/cuda.md](guide/cuda.md) says what was.";

/// All of it.
pub fn page(runs: &[Run]) -> Result<String> {
    let mut page = HEAD.to_owned();
    machines(&mut page, runs)?;
    let mut missing = Vec::new();
    for (suite, (title, what)) in SUITES.iter().zip(TITLES) {
        let cases = cases(runs, suite);
        let recoveries: Vec<&Recovery> =
            if *suite == "recovery" { runs.iter().flat_map(|run| &run.recoveries).collect() } else { Vec::new() };
        let (measured, unmeasured): (Vec<_>, Vec<_>) =
            cases.into_iter().partition(|(_, lines)| lines[0].ours.is_some());
        missing.extend(unmeasured.iter().map(|(case, lines)| {
            format!("- {suite}, {case}: {}", lines[0].note.as_deref().unwrap_or("for no known reason"))
        }));
        if measured.is_empty() && recoveries.is_empty() {
            if unmeasured.is_empty() {
                missing.push(format!("- {suite}: not run{}.", elsewhere(suite)));
            }
            continue;
        }
        writeln!(page, "\n## {title}\n\n{what}\n")?;
        for command in commands(runs, suite) {
            writeln!(page, "{command}\n")?;
        }
        if !recoveries.is_empty() {
            recovery_table(&mut page, &recoveries)?;
        }
        if !measured.is_empty() {
            table(&mut page, &measured)?;
        }
    }
    writeln!(page, "\n## Not on this page\n\n{GPU}")?;
    missing.iter().try_for_each(|line| writeln!(page, "{line}"))?;
    Ok(page)
}

/// Where there are figures of a suite that has none here.
fn elsewhere(suite: &str) -> &'static str {
    match suite {
        "recipes" => " here; [guide/recipes.md](guide/recipes.md#what-was-measured) has its table",
        "recovery" | "balance" => " here; [results.md](results.md) has figures of earlier builds",
        _ => "",
    }
}

fn machines(page: &mut String, runs: &[Run]) -> Result<()> {
    writeln!(page, "\n## Machines and versions\n")?;
    writeln!(page, "| run | day | commit | machine | libtorch, profile | peers |\n|---|---|---|---|---|---|")?;
    for (number, Run { facts, .. }) in runs.iter().enumerate() {
        let peers: Vec<String> = facts.peers.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let machine =
            format!("{} cores of {}, {} GiB, Linux {}", facts.cores, facts.cpu, facts.memory_gib, facts.kernel);
        let row = [
            (number + 1).to_string(),
            facts.day.clone(),
            facts.commit.clone(),
            machine,
            format!("{}, {}", facts.libtorch, facts.profile),
            peers.join(", "),
        ];
        writeln!(page, "| {} |", row.join(" | "))?;
    }
    Ok(())
}

/// The commands that measured a suite, with the numbers of their runs.
fn commands(runs: &[Run], suite: &str) -> Vec<String> {
    let mut commands: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        let recovers = suite == "recovery" && !run.recoveries.is_empty();
        if recovers || run.lines.iter().any(|line| line.suite == suite) {
            commands.entry(&run.facts.command).or_default().push((number + 1).to_string());
        }
    }
    commands.into_iter().map(|(command, runs)| format!("`{command}` (run {})", runs.join(", "))).collect()
}

/// The lines of each case, in the order in which they were first measured. Where any run measured it, only those count.
fn cases<'a>(runs: &'a [Run], suite: &str) -> Vec<(&'a str, Vec<&'a Line>)> {
    let mut cases: Vec<(&str, Vec<&Line>)> = Vec::new();
    for line in runs.iter().flat_map(|run| &run.lines).filter(|line| line.suite == suite) {
        match cases.iter_mut().find(|(case, _)| *case == line.case) {
            Some((_, lines)) => lines.push(line),
            None => cases.push((&line.case, vec![line])),
        }
    }
    for (_, lines) in &mut cases {
        if lines.iter().any(|line| line.ours.is_some()) {
            lines.retain(|line| line.ours.is_some());
        }
    }
    cases
}

fn table(page: &mut String, cases: &[(&str, Vec<&Line>)]) -> Result<()> {
    writeln!(page, "| case | ours | peer | ratio | goal | spread |\n|---|---|---|---|---|---|")?;
    for (case, lines) in cases {
        let first = lines[0];
        let ours = median(lines, |line| line.ours).map(|value| format!("{} {}", digits(value), first.unit));
        let peer = median(lines, |line| line.peer).map(|value| format!("{} {}", digits(value), first.unit));
        let ratio = median(lines, |line| line.ratio);
        let judged = ratio.or(median(lines, |line| line.ours));
        let goal = first.goal.zip(judged).map(|(goal, judged)| {
            let (sign, met) = match first.bound {
                Bound::AtLeast => ("≥", judged >= goal),
                Bound::AtMost => ("≤", judged <= goal),
            };
            format!("{sign} {}: {}", digits(goal), if met { "met" } else { "**missed**" })
        });
        let spread = lines.iter().filter_map(|line| line.spread).reduce(f64::max);
        let mut notes: Vec<&str> = lines.iter().filter_map(|line| line.note.as_deref()).collect();
        notes.dedup();
        let case = if notes.is_empty() { (*case).to_owned() } else { format!("{case} ({})", notes.join("; ")) };
        let row = [
            case,
            ours.unwrap_or_default(),
            peer.unwrap_or_default(),
            ratio.map(|ratio| format!("{}{}", beside(ratio, first.goal), range(lines))).unwrap_or_default(),
            goal.unwrap_or_default(),
            spread.map(|spread| format!("{:.1} %", 100.0 * spread)).unwrap_or_default(),
        ];
        writeln!(page, "| {} |", row.join(" | "))?;
    }
    Ok(())
}

fn recovery_table(page: &mut String, recoveries: &[&Recovery]) -> Result<()> {
    writeln!(
        page,
        "| what | times | median | p95 | worst | a normal step | goal for p95 |\n|---|---|---|---|---|---|---|"
    )?;
    for Recovery { case, rounds, p50_seconds, p95_seconds, worst_seconds, normal_step_seconds, goal_seconds, met } in
        recoveries
    {
        let verdict = if *met { "met" } else { "**missed**" };
        writeln!(
            page,
            "| {case} | {rounds} | {p50_seconds:.2} s | {p95_seconds:.2} s | {worst_seconds:.2} s | \
             {normal_step_seconds:.2} s | ≤ {goal_seconds:.2} s: {verdict} |"
        )?;
    }
    writeln!(page)?;
    Ok(())
}

/// Over the runs.
fn median(lines: &[&Line], value: impl Fn(&Line) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = lines.iter().filter_map(|line| value(line)).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// Two digits behind the point, or three where two would be those of the goal.
fn beside(ratio: f64, goal: Option<f64>) -> String {
    let hundredths = |value: f64| (100.0 * value).round();
    if goal.is_some_and(|goal| hundredths(goal) == hundredths(ratio)) {
        return format!("{ratio:.3}");
    }
    format!("{ratio:.2}")
}

/// From the lowest ratio to the highest, if there are several.
fn range(lines: &[&Line]) -> String {
    let ratios = || lines.iter().filter_map(|line| line.ratio);
    match (ratios().reduce(f64::min), ratios().reduce(f64::max)) {
        (Some(low), Some(high)) if lines.len() > 1 => format!(" ({low:.2} to {high:.2})"),
        _ => String::new(),
    }
}

/// Three digits that count, whole numbers whole.
fn digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{FACTS, line, runs};
    use super::*;

    #[test]
    fn a_case_of_several_runs_is_one_row_with_its_range() {
        let facts = FACTS.to_owned();
        let page = page(&runs(&[
            facts.clone(),
            line("mini", 3.5),
            line("base", 2.9),
            facts.clone(),
            line("mini", 3.1),
            facts,
            line("mini", 3.2),
        ]))
        .unwrap();
        for row in [
            "| mini | 320 tokens/s | 100 tokens/s | 3.20 (3.10 to 3.50) | ≥ 3.00: met | 2.0 % |",
            "| base | 290 tokens/s | 100 tokens/s | 2.90 | ≥ 3.00: **missed** | 2.0 % |",
            "`cargo xtask bench --suite step --json` (run 1, 2, 3)",
            "| 3 | 2026-02-03 | abc123 | 2 cores of AMD EPYC, 24 GiB, Linux 6.1 | 2.11.0, dev | torch 2.11.0 |",
            "- memory: not run.",
        ] {
            assert!(page.contains(row), "no `{row}` in\n{page}");
        }
        assert!(page.contains(GPU) && !page.contains("## Memory"), "{page}");
    }

    #[test]
    fn what_could_not_be_measured_is_listed_with_its_reason() {
        let missing = r#"{"suite":"step","case":"mini, compiled","ours":null,"peer":null,"unit":"","ratio":null,"goal":null,"bound":"at_least","met":null,"spread":null,"note":"no compiler"}"#;
        let alone = runs(&[FACTS.to_owned(), missing.to_owned()]);
        let text = page(&alone).unwrap();
        assert!(text.contains("- step, mini, compiled: no compiler") && !text.contains("## Training steps"), "{text}");
        // Another run could.
        let later = runs(&[FACTS.to_owned(), missing.to_owned(), FACTS.to_owned(), line("mini, compiled", 3.4)]);
        let text = page(&later).unwrap();
        assert!(!text.contains("no compiler") && text.contains("| mini, compiled | 340 tokens/s"), "{text}");
    }

    #[test]
    fn a_ratio_beside_its_goal_says_on_which_side() {
        let page = page(&runs(&[FACTS.to_owned(), line("mini", 2.996), line("base", 3.04)])).unwrap();
        assert!(page.contains("| 2.996 | ≥ 3.00: **missed** |") && page.contains("| 3.04 | ≥ 3.00: met |"), "{page}");
    }

    #[test]
    fn figures_without_a_peer_are_judged_themselves() {
        let line = r#"{"suite":"coordinator","case":"p99","ours":61.25,"peer":null,"unit":"ms","ratio":null,"goal":50.0,"bound":"at_most","met":false,"spread":null,"note":"900 calls"}"#;
        let text = page(&runs(&[FACTS.to_owned(), line.to_owned()])).unwrap();
        assert!(text.contains("| p99 (900 calls) | 61.2 ms |  |  | ≤ 50.0: **missed** |  |"), "{text}");
    }

    #[test]
    fn recoveries_have_a_table_of_their_own() {
        let recovery = r#"{"suite":"recovery","case":"SIGKILL","rounds":5,"p50_seconds":1.0,"p95_seconds":2.0,"worst_seconds":2.5,"normal_step_seconds":0.5,"goal_seconds":1.0,"met":false}"#;
        let text = page(&runs(&[FACTS.to_owned(), recovery.to_owned()])).unwrap();
        let row = "| SIGKILL | 5 | 1.00 s | 2.00 s | 2.50 s | 0.50 s | ≤ 1.00 s: **missed** |";
        assert!(text.contains(row), "{text}");
    }
}
