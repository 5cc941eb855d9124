//! A core that is told what happens, and what came out of it.

use control::{
    Assignment, CheckpointAt, Control, Directive, Divergence, Effect, Event, Holding, Millis, Phase, Record, RunSpec,
    RunStatus, Settings, WorkerFacts,
};
use types::{Digest, Generation, RunId, Step, WorkerId};

/// A core and what came out of it.
pub struct Desk {
    pub control: Control,
    pub now: Millis,
    pub effects: Vec<Effect>,
    pub recovery: config::RecoveryConfig,
    /// Of the runs that are submitted.
    pub patience: Option<u64>,
}

pub fn run() -> RunId {
    "run".parse().unwrap()
}

pub fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

pub fn digest(step: u64) -> Digest {
    Digest::blake3(&step.to_le_bytes())
}

impl Desk {
    pub fn new() -> Self {
        let mut control = Control::new(Settings::default());
        control.verify_shortcuts();
        Self { control, now: Millis(0), effects: Vec::new(), recovery: Default::default(), patience: None }
    }

    /// Submits `run` with 4 slots and 5 steps.
    pub fn with_run(min_workers: u32, max_workers: u32) -> Self {
        let mut desk = Self::new();
        desk.submit(&run(), min_workers, max_workers);
        desk
    }

    /// The same with more steps.
    pub fn with_long_run(min_workers: u32, max_workers: u32, slots: u32, steps: u64) -> Self {
        let mut desk = Self::new();
        let kind = config::RunKind::Pretrain;
        let (total_steps, recovery) = (Step(steps), desk.recovery.clone());
        let patience = desk.patience;
        let spec =
            RunSpec { name: "run".into(), kind, total_steps, slots, min_workers, max_workers, recovery, patience };
        desk.tell(Event::Submit { run: run(), spec });
        desk
    }

    /// What the run's events say since `from` effects.
    pub fn notes(&self, from: usize) -> Vec<String> {
        let note = |effect: &Effect| match effect {
            Effect::Persist(Record::Note { text, .. }) => Some(text.clone()),
            _ => None,
        };
        self.effects[from..].iter().filter_map(note).collect()
    }

    pub fn submit(&mut self, run: &RunId, min_workers: u32, max_workers: u32) {
        let (name, kind) = (run.to_string(), config::RunKind::Pretrain);
        let spec = RunSpec {
            name,
            kind,
            total_steps: Step(5),
            slots: 4,
            min_workers,
            max_workers,
            recovery: self.recovery.clone(),
            patience: self.patience,
        };
        self.tell(Event::Submit { run: run.clone(), spec });
    }

    /// Tells it and answers what came out.
    pub fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.control.handle(self.now, event);
        self.take()
    }

    pub fn take(&mut self) -> Vec<Effect> {
        let new: Vec<Effect> = std::iter::from_fn(|| self.control.poll_effect()).collect();
        self.effects.extend(new.clone());
        new
    }

    pub fn wait(&mut self, millis: u64) -> Vec<Effect> {
        self.now = self.now + Millis(millis);
        self.control.handle_timeout(self.now);
        self.take()
    }

    pub fn connect(&mut self, name: &str, session: u64, holding: Option<(u64, u64)>) -> Vec<Effect> {
        let holding = holding.map(|(generation, step)| Holding {
            run: run(),
            generation: Generation(generation),
            step: Step(step),
        });
        self.connect_as(name, session, 1, holding)
    }

    pub fn connect_as(&mut self, name: &str, session: u64, pid: u32, holding: Option<Holding>) -> Vec<Effect> {
        self.register(name, session, pid, holding, true)
    }

    /// With a trainer that is not up yet.
    pub fn connect_starting(&mut self, name: &str, session: u64) -> Vec<Effect> {
        self.register(name, session, 1, None, false)
    }

    fn register(&mut self, name: &str, session: u64, pid: u32, holding: Option<Holding>, ready: bool) -> Vec<Effect> {
        let facts = WorkerFacts {
            host: "here".into(),
            pid,
            device: "cpu".into(),
            threads: 1,
            version: "0".into(),
            address: "127.0.0.1".into(),
        };
        self.tell(Event::WorkerConnected { worker: worker(name), session, facts, holding, ready })
    }

    pub fn disconnect(&mut self, name: &str, session: u64) -> Vec<Effect> {
        self.tell(Event::WorkerDisconnected { worker: worker(name), session })
    }

    pub fn progress(&mut self, name: &str, generation: u64, step: u64) -> Vec<Effect> {
        self.progress_with(name, generation, step, digest(step))
    }

    /// With what the member computed, and for how long.
    pub fn worked(&mut self, name: &str, generation: u64, step: u64, tokens: u64, seconds: f64) -> Vec<Effect> {
        self.tell(Event::Progress {
            worker: worker(name),
            run: run(),
            generation: Generation(generation),
            step: Step(step),
            segments: Some(Vec::new()),
            samples_digest: digest(step),
            tokens,
            seconds,
        })
    }

    /// A member has done a step and leaves it to others to say what the slots used.
    pub fn stepped(&mut self, name: &str, generation: u64, step: u64) -> Vec<Effect> {
        self.tell(Event::Progress {
            worker: worker(name),
            run: run(),
            generation: Generation(generation),
            step: Step(step),
            segments: None,
            samples_digest: digest(step),
            tokens: 0,
            seconds: 0.0,
        })
    }

    pub fn beat(&mut self, name: &str, generation: u64, at: (u64, Phase, u64), since_progress_ms: u64) -> Vec<Effect> {
        self.beat_for(name, generation, at, since_progress_ms, 0)
    }

    /// Of an agent that has not heard its trainer for so long.
    pub fn beat_for(
        &mut self,
        name: &str,
        generation: u64,
        at: (u64, Phase, u64),
        since_progress_ms: u64,
        trainer_silent_ms: u64,
    ) -> Vec<Effect> {
        let (step, phase, collective) = at;
        let (run, generation, step) = (run(), Generation(generation), Step(step));
        self.tell(Event::Heartbeat {
            worker: worker(name),
            run,
            generation,
            step,
            phase,
            collective,
            since_progress_ms,
            trainer_silent_ms,
        })
    }

    pub fn diverged(&mut self, name: &str, generation: u64, step: u64) -> Vec<Effect> {
        self.diverged_by(Divergence::Skipped, "10 steps were skipped", name, generation, step)
    }

    pub fn replicas_differ(&mut self, name: &str, generation: u64, step: u64) -> Vec<Effect> {
        self.diverged_by(Divergence::Replicas, "the states differ", name, generation, step)
    }

    pub fn diverged_by(
        &mut self,
        kind: Divergence,
        reason: &str,
        name: &str,
        generation: u64,
        step: u64,
    ) -> Vec<Effect> {
        let (worker, run, reason) = (worker(name), run(), reason.to_owned());
        let (generation, step) = (Generation(generation), Step(step));
        self.tell(Event::Diverged { worker, run, generation, step, kind, reason })
    }

    pub fn progress_with(&mut self, name: &str, generation: u64, step: u64, samples_digest: Digest) -> Vec<Effect> {
        self.tell(Event::Progress {
            worker: worker(name),
            run: run(),
            generation: Generation(generation),
            step: Step(step),
            segments: Some(Vec::new()),
            samples_digest,
            tokens: 0,
            seconds: 0.0,
        })
    }

    pub fn step_failed(&mut self, name: &str, generation: u64, step: u64) -> Vec<Effect> {
        self.step_failed_of(&run(), name, generation, step)
    }

    pub fn step_failed_of(&mut self, run: &RunId, name: &str, generation: u64, step: u64) -> Vec<Effect> {
        let (generation, step) = (Generation(generation), Step(step));
        self.tell(Event::StepFailed { worker: worker(name), run: run.clone(), generation, step, error: "reset".into() })
    }

    pub fn paused(&mut self, name: &str, generation: u64, step: u64) -> Vec<Effect> {
        let (generation, step) = (Generation(generation), Step(step));
        self.tell(Event::Paused { worker: worker(name), run: run(), generation, step })
    }

    pub fn finished(&mut self, name: &str, generation: u64, weights: u64) -> Vec<Effect> {
        self.finished_after(5, name, generation, weights)
    }

    pub fn finished_after(&mut self, step: u64, name: &str, generation: u64, weights: u64) -> Vec<Effect> {
        self.tell(Event::Finished {
            worker: worker(name),
            run: run(),
            generation: Generation(generation),
            step: Step(step),
            weights_digest: digest(weights),
        })
    }

    pub fn exited(&mut self, name: &str, generation: u64) -> Vec<Effect> {
        self.tell(Event::TrainerExited {
            worker: worker(name),
            run: Some(run()),
            generation: Generation(generation),
            cause: "killed by signal 9 (SIGKILL)".into(),
            last_lines: vec!["out of memory".into()],
        })
    }

    pub fn saved(&mut self, generation: u64, step: u64) -> Vec<Effect> {
        let at = CheckpointAt { generation: Generation(generation), step: Step(step) };
        self.tell(Event::CheckpointCommitted { run: run(), at })
    }

    pub fn found(&mut self, at: Option<(u64, u64)>) -> Vec<Effect> {
        let at = at.map(|(generation, step)| CheckpointAt { generation: Generation(generation), step: Step(step) });
        self.tell(Event::RestoreFound { run: run(), at })
    }

    pub fn restore(&self) -> Option<(u64, u64)> {
        self.control.run(&run()).unwrap().restore.map(|at| (at.generation.0, at.step.0))
    }

    pub fn status(&self) -> RunStatus {
        self.control.run(&run()).unwrap().status
    }

    pub fn reason(&self) -> String {
        self.control.run(&run()).unwrap().reason.clone().unwrap_or_default()
    }

    pub fn step(&self) -> u64 {
        self.control.run(&run()).unwrap().step.0
    }

    pub fn generation(&self) -> u64 {
        self.control.run(&run()).unwrap().generation.0
    }
}

/// (worker, rank, slots) of what was assigned.
pub fn assigned(effects: &[Effect]) -> Vec<(String, u32, Vec<u32>)> {
    let assigned = |effect: &Effect| match effect {
        Effect::Send { worker, directive: Directive::Assign(Assignment { rank, slots, .. }) } => {
            Some((worker.to_string(), rank.0, slots.iter().map(|slot| slot.0).collect()))
        }
        _ => None,
    };
    effects.iter().filter_map(assigned).collect()
}

pub fn sent(effects: &[Effect], name: &str) -> Vec<Directive> {
    let to = |effect: &Effect| match effect {
        Effect::Send { worker, directive } if worker.as_str() == name => Some(directive.clone()),
        _ => None,
    };
    effects.iter().filter_map(to).collect()
}
