//! Any sequence of events, however absurd: the core neither panics nor breaks its invariants.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use control::{
    CheckpointAt, Control, Directive, Divergence, Effect, Event, Holding, Millis, Phase, Record, RunSpec, Settings,
    WorkerFacts,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use types::{Attempt, Digest, Generation, RunId, Step, WorkerId};

fn workers() -> impl Strategy<Value = WorkerId> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(|name| name.parse().unwrap())
}

fn runs() -> impl Strategy<Value = RunId> {
    prop::sample::select(vec!["r", "s"]).prop_map(|name| name.parse().unwrap())
}

fn generations() -> impl Strategy<Value = Generation> {
    (0u64..6).prop_map(Generation)
}

fn steps() -> impl Strategy<Value = Step> {
    (0u64..8).prop_map(Step)
}

fn ats() -> impl Strategy<Value = CheckpointAt> {
    (generations(), steps()).prop_map(|(generation, step)| CheckpointAt { generation, step })
}

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn submits() -> impl Strategy<Value = Event> {
    (runs(), 1u32..5, 1u32..4, 0u32..3).prop_map(|(run, slots, min, more)| {
        let (min_workers, max_workers) = (min.min(slots), (min + more).min(slots));
        let (name, kind) = (run.to_string(), config::RunKind::Pretrain);
        Event::Submit {
            run,
            spec: RunSpec {
                name,
                kind,
                total_steps: Step(6),
                slots,
                min_workers,
                max_workers,
                recovery: Default::default(),
                patience: None,
            },
        }
    })
}

fn connects() -> impl Strategy<Value = Event> {
    let holding =
        (runs(), generations(), steps()).prop_map(|(run, generation, step)| Holding { run, generation, step });
    let facts = (workers(), 0u64..50, 0u32..2, prop::option::of(holding), prop::bool::weighted(0.8));
    facts.prop_map(|(worker, session, pid, holding, ready)| {
        let (host, device, version, address) = Default::default();
        let facts = WorkerFacts { host, pid, device, threads: 1, version, address };
        Event::WorkerConnected { worker, session, facts, holding, ready }
    })
}

fn reports() -> impl Strategy<Value = Event> {
    (0u32..9, workers(), runs(), generations(), steps(), 0u8..2).prop_map(
        |(kind, worker, run, generation, step, byte)| match kind {
            0..=2 => {
                let segments = (byte == 0).then(Vec::new);
                let samples_digest = digest(step.0 as u8);
                let (tokens, seconds) = (100 + 900 * u64::from(byte), 0.05);
                Event::Progress { worker, run, generation, step, segments, samples_digest, tokens, seconds }
            }
            3 => Event::StepFailed { worker, run, generation, step, error: "x".into() },
            4 => Event::Paused { worker, run, generation, step },
            5 => Event::Finished { worker, run, generation, step, weights_digest: digest(byte) },
            6 => Event::Heartbeat {
                worker,
                run,
                generation,
                step,
                phase: [Phase::Compute, Phase::Reduce][usize::from(byte)],
                collective: step.0 % 3,
                since_progress_ms: 400 << (2 * generation.0),
                trainer_silent_ms: 300 * step.0,
            },
            7 => {
                let kind = [Divergence::Skipped, Divergence::Replicas][usize::from(byte)];
                Event::Diverged { worker, run, generation, step, kind, reason: "x".into() }
            }
            _ => Event::RunFailed { worker, run, generation, reason: "x".into() },
        },
    )
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => submits(),
        1 => runs().prop_map(|run| Event::Cancel { run }),
        1 => runs().prop_map(|run| Event::Resume { run }),
        1 => runs().prop_map(|run| Event::CheckpointWanted { run }),
        8 => connects(),
        2 => (workers(), 0u64..50).prop_map(|(worker, session)| Event::WorkerDisconnected { worker, session }),
        1 => workers().prop_map(|worker| Event::WorkerLeaving { worker }),
        2 => workers().prop_map(|worker| Event::TrainerReady { worker }),
        12 => reports(),
        1 => (workers(), prop::option::of(runs()), generations()).prop_map(|(worker, run, generation)| {
            Event::TrainerExited { worker, run, generation, cause: "x".into(), last_lines: Vec::new() }
        }),
        2 => (runs(), ats()).prop_map(|(run, at)| Event::CheckpointCommitted { run, at }),
        1 => (runs(), ats()).prop_map(|(run, at)| Event::CheckpointLost { run, at }),
        2 => (runs(), prop::option::of(ats())).prop_map(|(run, at)| Event::RestoreFound { run, at }),
    ]
}

/// What has been made durable so far.
#[derive(Default)]
struct Watch {
    generations: BTreeMap<RunId, Generation>,
    commits: BTreeSet<(RunId, Attempt, Step)>,
}

impl Watch {
    fn look(&mut self, control: &mut Control) -> Result<(), TestCaseError> {
        while let Some(effect) = control.poll_effect() {
            match effect {
                Effect::Persist(Record::Run(record)) => {
                    let known = self.generations.entry(record.id).or_default();
                    prop_assert!(record.generation >= *known, "a generation went back");
                    *known = record.generation;
                    let dealt: Vec<u32> = record.members.iter().flat_map(|m| &m.slots).map(|slot| slot.0).collect();
                    let all: Vec<u32> = (0..record.spec.slots).collect();
                    prop_assert!(dealt.is_empty() || dealt == all, "{:?}", record.members);
                    prop_assert!(record.members.iter().all(|member| !member.slots.is_empty()));
                }
                Effect::Persist(Record::Commit { run, attempt, step, .. }) => {
                    prop_assert!(self.commits.insert((run, attempt, step)), "step {} was committed twice", step);
                }
                Effect::Send { directive: Directive::Assign(assignment), .. } => {
                    let durable = self.generations.get(&assignment.run);
                    prop_assert_eq!(durable, Some(&assignment.generation), "assigned before it was durable");
                }
                _ => {}
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_events_keeps_the_invariants(
        history in prop::collection::vec((events(), 0u64..3000, 0u32..20), 1..150)
    ) {
        let mut control = Control::new(Settings::default());
        control.verify_shortcuts();
        let mut watch = Watch::default();
        let mut now = Millis(0);
        for (event, wait, fate) in history {
            now = now + Millis(wait);
            if control.poll_timeout().is_some_and(|due| due <= now) {
                control.handle_timeout(now);
                watch.look(&mut control)?;
                prop_assert!(control.poll_timeout().is_none_or(|due| due > now), "a deadline stays due");
            }
            control.handle(now, event);
            watch.look(&mut control)?;
            if fate == 0 {
                let records = control.runs().cloned().collect();
                control = Control::new(Settings::default());
                control.verify_shortcuts();
                control.restore(now, records);
            }
        }
    }

    /// Whatever happened: with enough fresh workers, a shell that answers and time, every run ends or is at work.
    #[test]
    fn no_run_is_stuck(history in prop::collection::vec((events(), 0u64..3000), 1..100)) {
        let mut control = Control::new(Settings::default());
        control.verify_shortcuts();
        let mut now = Millis(0);
        for (event, wait) in history {
            now = now + Millis(wait);
            control.handle(now, event);
        }
        for number in 0..8u32 {
            let worker: WorkerId = format!("fresh{number}").parse().unwrap();
            let (host, device, version, address) = Default::default();
            let facts = WorkerFacts { host, pid: number, device, threads: 1, version, address };
            let (session, holding, ready) = (1000, None, true);
            control.handle(now, Event::WorkerConnected { worker, session, facts, holding, ready });
        }
        // Nobody answers; the shell finds no checkpoint.
        for _ in 0..50 {
            let mut asked = Vec::new();
            while let Some(effect) = control.poll_effect() {
                if let Effect::FindRestore { run, .. } = effect {
                    asked.push(run);
                }
            }
            for run in asked {
                control.handle(now, Event::RestoreFound { run, at: None });
            }
            if let Some(due) = control.poll_timeout() {
                now = now.max(due);
                control.handle_timeout(now);
            }
        }
        for record in control.runs() {
            let waits = control.waiting_for(&record.id);
            prop_assert!(waits.is_none(), "{} is {}: {:?}", record.id, record.status, waits);
        }
    }
}
