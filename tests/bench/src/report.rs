//! One result: what we do, what the peer does, and the ratio or the figure itself against its goal.

use serde::Serialize;
use std::fmt;

pub use crate::stats::median;

/// What a goal is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtLeast,
    AtMost,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Line {
    pub suite: &'static str,
    pub case: String,
    /// Not a number where it could not be measured; `note` says why.
    pub ours: f64,
    /// None: there is nobody to compare with.
    pub peer: Option<f64>,
    pub unit: &'static str,
    pub ratio: Option<f64>,
    /// For the ratio; where there is no peer, for what is ours. None: told for what it explains.
    pub goal: Option<f64>,
    pub bound: Bound,
    pub met: Option<bool>,
    /// The wider interquartile range of the two sides as a part of its median; None: too few values.
    pub spread: Option<f64>,
    /// What a reader must know beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Line {
    /// A figure of ours alone.
    pub fn figure(suite: &'static str, case: impl Into<String>, ours: f64, unit: &'static str) -> Self {
        let (peer, ratio, goal, met, spread, note) = (None, None, None, None, None, None);
        Self { suite, case: case.into(), ours, peer, unit, ratio, goal, bound: Bound::AtLeast, met, spread, note }
    }

    /// A ratio; larger is better.
    pub fn new(suite: &'static str, case: String, ours: f64, peer: f64, unit: &'static str, goal: f64) -> Self {
        Self::figure(suite, case, ours, unit).beside(peer).at_least(goal)
    }

    /// A ratio; smaller is better.
    pub fn at_most(suite: &'static str, case: String, ours: f64, peer: f64, unit: &'static str, goal: f64) -> Self {
        Self::figure(suite, case, ours, unit).beside(peer).no_more_than(goal)
    }

    /// What could not be measured, and why.
    pub fn missing(suite: &'static str, case: impl Into<String>, why: impl Into<String>) -> Self {
        Self::figure(suite, case, f64::NAN, "").note(why)
    }

    /// The peer's figure.
    pub fn beside(self, peer: f64) -> Self {
        Self { peer: Some(peer), ratio: Some(self.ours / peer), ..self }
    }

    /// The goal of what the line has so far: larger is better.
    pub fn at_least(self, goal: f64) -> Self {
        Self { goal: Some(goal), bound: Bound::AtLeast, met: Some(self.judged() >= goal), ..self }
    }

    /// The goal of what the line has so far: smaller is better.
    pub fn no_more_than(self, goal: f64) -> Self {
        Self { goal: Some(goal), bound: Bound::AtMost, met: Some(self.judged() <= goal), ..self }
    }

    pub fn spread(self, spread: Option<f64>) -> Self {
        Self { spread, ..self }
    }

    pub fn note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }

    fn judged(&self) -> f64 {
        self.ratio.unwrap_or(self.ours)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { suite, case, ours, peer, unit, ratio, goal, bound, met, spread, note } = self;
        write!(f, "{suite}: {case}: ")?;
        if ours.is_nan() {
            return write!(f, "not measured: {}", note.as_deref().unwrap_or("for no known reason"));
        }
        write!(f, "{} {unit}", digits(*ours))?;
        if let (Some(peer), Some(ratio)) = (peer, ratio) {
            write!(f, ", peer {} {unit}: {ratio:.3} times", digits(*peer))?;
        }
        if let (Some(goal), Some(met)) = (goal, met) {
            let sign = if *bound == Bound::AtLeast { "≥" } else { "≤" };
            write!(f, " (goal {sign} {}: {})", digits(*goal), if *met { "met" } else { "MISSED" })?;
        }
        if let Some(spread) = spread {
            write!(f, ", spread {:.1} %", 100.0 * spread)?;
        }
        match note {
            Some(note) => write!(f, "; {note}"),
            None => Ok(()),
        }
    }
}

/// Three digits that count, whole numbers whole.
fn digits(value: f64) -> String {
    let size = value.abs();
    match size {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whether_the_goal_was_met() {
        let line = |ours| Line::new("step", "tiny".into(), ours, 100.0, "tokens/s", 2.5);
        assert_eq!(
            line(250.0).to_string(),
            "step: tiny: 250 tokens/s, peer 100 tokens/s: 2.500 times (goal ≥ 2.50: met)"
        );
        assert_eq!(line(249.0).met, Some(false));
        let slower = |ours| Line::at_most("reduce", "tiny".into(), ours, 1_000.0, "ms", 1.05);
        assert_eq!(
            slower(1_054.0).to_string(),
            "reduce: tiny: 1054 ms, peer 1000 ms: 1.054 times (goal ≤ 1.05: MISSED)"
        );
        assert_eq!(slower(1_049.0).met, Some(true));
    }

    #[test]
    fn a_figure_alone_is_its_own_measure() {
        let line = Line::figure("coordinator", "p99 of a call", 12.25, "ms").no_more_than(50.0).spread(Some(0.25));
        assert_eq!(line.to_string(), "coordinator: p99 of a call: 12.2 ms (goal ≤ 50.0: met), spread 25.0 %");
        assert_eq!(Line::figure("memory", "activations", 0.5, "GiB").to_string(), "memory: activations: 0.500 GiB");
        let missing = Line::missing("step", "tiny, compiled", "no C++ compiler");
        assert_eq!(missing.to_string(), "step: tiny, compiled: not measured: no C++ compiler");
    }

    #[test]
    fn a_line_is_one_object() {
        let json = serde_json::to_string(&Line::new("step", "tiny".into(), 250.0, 100.0, "tokens/s", 2.5)).unwrap();
        assert!(json.contains(r#""ratio":2.5,"goal":2.5,"bound":"at_least","met":true,"spread":null"#), "{json}");
        assert!(!json.contains('\n') && !json.contains("note"), "{json}");
        let json = serde_json::to_string(&Line::missing("step", "tiny", "why")).unwrap();
        assert!(json.contains(r#""ours":null,"peer":null"#) && json.contains(r#""note":"why""#), "{json}");
    }
}
