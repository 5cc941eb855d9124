//! What the faults of one run cost, and whether anything was lost.

use super::schedule::Kind;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A fault that happened.
#[derive(Clone, Copy, Debug)]
pub struct Struck {
    /// What.
    pub kind: Kind,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// When all trained again.
    pub settled_ms: i64,
}

/// What faults cost: times from a fault to the end of the next step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// How many faults.
    pub count: usize,
    /// The median.
    pub p50_seconds: f64,
    /// The 95th percentile.
    pub p95_seconds: f64,
    /// The longest.
    pub max_seconds: f64,
    /// The longest time from step to step until all trained again, newcomers included.
    pub longest_step_seconds: f64,
}

impl Times {
    /// None of nothing.
    fn of(history: &History, struck: &[Struck]) -> Option<Self> {
        let mut seconds: Vec<f64> = struck.iter().filter_map(|fault| history.recovery_seconds(fault.at_ms)).collect();
        seconds.sort_by(f64::total_cmp);
        Some(Self {
            count: seconds.len(),
            p50_seconds: percentile(&seconds, 0.5)?,
            p95_seconds: percentile(&seconds, 0.95)?,
            max_seconds: percentile(&seconds, 1.0)?,
            longest_step_seconds: struck.iter().map(|fault| history.longest_step_seconds(fault)).fold(0.0, f64::max),
        })
    }
}

/// One kind's times.
#[derive(Clone, Debug, Serialize)]
pub struct OfKind {
    /// What happened.
    pub kind: Kind,
    /// From the fault to the end of the next step.
    #[serde(flatten)]
    pub times: Times,
}

/// The steps of a run as its metrics tell them.
#[derive(Debug, Default, PartialEq)]
pub struct History {
    /// When each step ended, ascending, those of superseded attempts too.
    pub ended_ms: Vec<i64>,
    /// Steps that were computed and did not stay, or are not there at all.
    pub lost: u64,
}

impl History {
    /// Of the rows of one metric that every step has: all that were ever written, and those that stand. The run is at
    /// step `last`.
    pub fn new(all: &[Value], standing: &[Value], last: u64) -> Self {
        let mut ended_ms: Vec<i64> = all.iter().filter_map(|row| row["time"].as_i64()).collect();
        assert_eq!(ended_ms.len(), all.len(), "every metric has its time");
        ended_ms.sort_unstable();
        let steps: BTreeSet<u64> = standing.iter().filter_map(|row| row["step"].as_u64()).collect();
        let missing = (1..=last).filter(|step| !steps.contains(step)).count();
        Self { ended_ms, lost: (all.len() - standing.len() + missing) as u64 }
    }

    /// The median time from step to step, in seconds.
    pub fn usual_seconds(&self) -> f64 {
        let mut steps: Vec<f64> = self.ended_ms.windows(2).map(|pair| seconds(pair[1] - pair[0])).collect();
        steps.sort_by(f64::total_cmp);
        percentile(&steps, 0.5).unwrap_or(0.0)
    }

    /// The longest step from a fault until all trained again.
    fn longest_step_seconds(&self, fault: &Struck) -> f64 {
        let touched = self.ended_ms.windows(2).filter(|pair| pair[1] > fault.at_ms && pair[0] < fault.settled_ms);
        touched.map(|pair| seconds(pair[1] - pair[0])).fold(0.0, f64::max)
    }

    /// From a fault to the end of the next step. One or two steps may have been on their way past the fault already: if
    /// one of the next two is longer by half, its end counts. None: no step came after the fault.
    pub fn recovery_seconds(&self, at_ms: i64) -> Option<f64> {
        let next = self.ended_ms.partition_point(|ended| *ended <= at_ms);
        // Before the first step there is no time to tell its length by.
        let began = |end: usize| end.checked_sub(1).map_or(at_ms, |before| self.ended_ms[before]);
        let length = |end: usize| (self.ended_ms[end] - began(end)) as f64;
        let ends = next..self.ended_ms.len().min(next + 3);
        let end = ends.reduce(|end, later| if length(later) > 1.5 * length(end) { later } else { end })?;
        Some(seconds(self.ended_ms[end] - at_ms))
    }
}

/// Of numbers that ascend: one that at least this share of them do not exceed.
fn percentile(ascending: &[f64], share: f64) -> Option<f64> {
    let rank = (ascending.len() as f64 * share).ceil() as usize;
    ascending.get(rank.saturating_sub(1)).copied()
}

fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// One run of chaos, and the run that nothing happened to.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Nothing was lost, repeated or different, and as many faults happened as were wanted.
    pub ok: bool,
    /// What the schedule follows from.
    pub seed: u64,
    /// How many trained.
    pub workers: usize,
    /// Whether each had a network namespace of its own.
    pub namespaces: bool,
    /// From the first step to the last, by the clock of the faults.
    pub seconds: f64,
    /// How many faults happened.
    pub faults: usize,
    /// Kinds that this machine does not allow, and how often they were passed over.
    pub skipped: BTreeMap<Kind, u64>,
    /// Committed steps.
    pub steps: u64,
    /// The median time from step to step.
    pub usual_step_seconds: f64,
    /// From a fault to the end of the next step, all faults together.
    pub recovery: Option<Times>,
    /// The same by kind.
    pub kinds: Vec<OfKind>,
    /// The run's attempts: each after the first went back to a checkpoint.
    pub attempts: u64,
    /// The run's generations.
    pub generations: u64,
    /// What zombies tried and were refused, by kind.
    pub refused: Value,
    /// Steps that were computed and did not stay.
    pub steps_lost: u64,
    /// Samples that were used.
    pub samples: u64,
    /// Samples that were left out.
    pub samples_lost: u64,
    /// Samples that were used twice.
    pub samples_repeated: u64,
    /// The ledger proves it.
    pub ledger_ok: bool,
    /// What the ledger complains of.
    pub ledger_problems: Value,
    /// The chain of samples is that of the undisturbed run.
    pub same_samples: bool,
    /// The weights at the last step.
    pub weights_digest: String,
    /// Those of the undisturbed run at the same step.
    pub undisturbed_weights_digest: String,
    /// They are equal.
    pub same_weights: bool,
}

impl Report {
    /// Nothing was lost, repeated or different, and at least so many faults happened; without any, nothing is shown.
    pub(super) fn judge(&self, faults_min: usize) -> bool {
        self.steps_lost + self.samples_lost + self.samples_repeated == 0
            && self.ledger_ok
            && self.same_samples
            && self.same_weights
            && self.faults >= faults_min.max(1)
    }
}

/// From the times of the faults to those of all and of each kind.
pub fn recoveries(history: &History, struck: &[Struck]) -> (Option<Times>, Vec<OfKind>) {
    let mut of_kinds: BTreeMap<Kind, Vec<Struck>> = BTreeMap::new();
    for fault in struck {
        of_kinds.entry(fault.kind).or_default().push(*fault);
    }
    let one = |(kind, struck): (Kind, Vec<Struck>)| Times::of(history, &struck).map(|times| OfKind { kind, times });
    (Times::of(history, struck), of_kinds.into_iter().filter_map(one).collect())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes_no = |yes: bool| if yes { "yes" } else { "NO" };
        let network = if self.namespaces { "in network namespaces" } else { "on loopback" };
        writeln!(
            f,
            "seed {}: {} faults in {:.0} s over {} steps of {} workers {network}",
            self.seed, self.faults, self.seconds, self.steps, self.workers
        )?;
        writeln!(f, "\nfrom a fault to the end of the next step (a usual step: {:.2} s)", self.usual_step_seconds)?;
        writeln!(f, "  {:<22} {:>5} {:>8} {:>8} {:>8}   longest step", "", "count", "p50", "p95", "max")?;
        let mut line = |name: &dyn fmt::Display, times: &Times| {
            let Times { count, p50_seconds, p95_seconds, max_seconds, longest_step_seconds } = times;
            write!(f, "  {name:<22} {count:>5} {p50_seconds:>6.2} s {p95_seconds:>6.2} s {max_seconds:>6.2} s")?;
            writeln!(f, " {longest_step_seconds:>12.2} s")
        };
        for OfKind { kind, times } in &self.kinds {
            line(kind, times)?;
        }
        if let Some(times) = &self.recovery {
            line(&"all", times)?;
        }
        for (kind, times) in &self.skipped {
            writeln!(f, "  {kind:<22} passed over {times} times: this machine does not allow it")?;
        }
        writeln!(f, "\nattempts {}, generations {}, refused {}", self.attempts, self.generations, self.refused)?;
        writeln!(f, "steps lost        {}", self.steps_lost)?;
        writeln!(f, "samples lost      {} of {}", self.samples_lost, self.samples)?;
        writeln!(f, "samples repeated  {}", self.samples_repeated)?;
        writeln!(f, "ledger holds      {}", yes_no(self.ledger_ok))?;
        for problem in self.ledger_problems.as_array().into_iter().flatten() {
            writeln!(f, "  {problem}")?;
        }
        writeln!(f, "same samples      {} (chain of the undisturbed run)", yes_no(self.same_samples))?;
        writeln!(f, "same weights      {} (digest {})", yes_no(self.same_weights), self.weights_digest)?;
        write!(f, "{}", if self.ok { "nothing was lost" } else { "NOT OK" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(rows: &[(u64, u64, i64)]) -> Vec<Value> {
        let row = |(attempt, step, time): &(u64, u64, i64)| json!({"attempt": attempt, "step": step, "time": time});
        rows.iter().map(row).collect()
    }

    #[test]
    fn a_step_that_was_all_but_done_is_not_the_end_of_a_fault() {
        let history = History { ended_ms: vec![0, 100, 200, 900, 1000, 1100], lost: 0 };
        assert_eq!(history.recovery_seconds(250), Some(0.65));
        assert_eq!(history.recovery_seconds(190), Some(0.71));
        assert_eq!(history.recovery_seconds(90), Some(0.81));
        assert_eq!(history.recovery_seconds(950), Some(0.05));
        // Steps are a little longer or shorter without any fault.
        assert_eq!(History { ended_ms: vec![0, 100, 210, 330], lost: 0 }.recovery_seconds(50), Some(0.05));
        assert_eq!(history.recovery_seconds(1100), None);
        assert_eq!(history.usual_seconds(), 0.1);
    }

    #[test]
    fn what_a_rewind_threw_away_and_what_is_missing_is_lost() {
        let standing = rows(&[(1, 1, 10), (2, 2, 40), (2, 3, 50)]);
        let all = rows(&[(1, 1, 10), (1, 2, 20), (2, 2, 40), (2, 3, 50)]);
        assert_eq!(History::new(&all, &standing, 3), History { ended_ms: vec![10, 20, 40, 50], lost: 1 });
        assert_eq!(History::new(&standing, &standing, 3).lost, 0);
        assert_eq!(History::new(&standing, &standing, 5).lost, 2);
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!([0.5, 0.95, 1.0].map(|share| percentile(&times, share)), [Some(10.0), Some(19.0), Some(20.0)]);
        assert_eq!(percentile(&times[..1], 0.5), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_kind_has_its_own_times() {
        let history = History { ended_ms: vec![0, 1000, 2000, 9000, 10_000, 11_000, 12_000, 14_000], lost: 0 };
        let struck =
            [(Kind::LinkDown, 2500, 9500), (Kind::WorkerKilled, 9600, 12_500), (Kind::LinkDown, 20_000, 21_000)];
        let struck = struck.map(|(kind, at_ms, settled_ms)| Struck { kind, at_ms, settled_ms });
        let (all, kinds) = recoveries(&history, &struck);
        // Nothing came after the last.
        assert_eq!(all.unwrap().count, 2);
        assert_eq!(kinds.len(), 2);
        assert_eq!((kinds[0].kind, kinds[0].times.longest_step_seconds), (Kind::WorkerKilled, 2.0));
        assert_eq!((kinds[1].kind, kinds[1].times.max_seconds), (Kind::LinkDown, 6.5));
    }

    #[test]
    fn whatever_is_lost_repeated_or_different_is_not_ok() {
        let good = || Report {
            ok: true,
            seed: 1,
            workers: 3,
            namespaces: false,
            seconds: 1.0,
            faults: 3,
            skipped: BTreeMap::new(),
            steps: 10,
            usual_step_seconds: 0.1,
            recovery: None,
            kinds: Vec::new(),
            attempts: 1,
            generations: 4,
            refused: json!({}),
            steps_lost: 0,
            samples: 480,
            samples_lost: 0,
            samples_repeated: 0,
            ledger_ok: true,
            ledger_problems: json!([]),
            same_samples: true,
            weights_digest: "a".to_owned(),
            undisturbed_weights_digest: "a".to_owned(),
            same_weights: true,
        };
        assert!(good().judge(3));
        assert!(!good().judge(4));
        assert!(!Report { faults: 0, ..good() }.judge(0));
        for bad in [
            Report { steps_lost: 1, ..good() },
            Report { samples_lost: 1, ..good() },
            Report { samples_repeated: 1, ..good() },
            Report { ledger_ok: false, ..good() },
            Report { same_samples: false, ..good() },
            Report { same_weights: false, ..good() },
        ] {
            assert!(!bad.judge(3), "{bad}");
        }
    }
}
