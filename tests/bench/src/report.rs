//! One result: what we do, what the peer does, and the ratio against its goal.

use serde::Serialize;
use std::fmt;

#[derive(Debug, PartialEq, Serialize)]
pub struct Line {
    pub suite: &'static str,
    pub case: String,
    pub ours: f64,
    pub peer: f64,
    pub unit: &'static str,
    pub ratio: f64,
    pub goal: f64,
    pub met: bool,
}

impl Line {
    /// Larger is better.
    pub fn new(suite: &'static str, case: String, ours: f64, peer: f64, unit: &'static str, goal: f64) -> Self {
        let ratio = ours / peer;
        Self { suite, case, ours, peer, unit, ratio, goal, met: ratio >= goal }
    }

    /// Smaller is better.
    pub fn at_most(suite: &'static str, case: String, ours: f64, peer: f64, unit: &'static str, goal: f64) -> Self {
        let line = Self::new(suite, case, ours, peer, unit, goal);
        Self { met: line.ratio <= goal, ..line }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { suite, case, ours, peer, unit, ratio, goal, met } = self;
        let verdict = if *met { "met" } else { "MISSED" };
        write!(
            f,
            "{suite}: {case}: {ours:.0} {unit}, peer {peer:.0} {unit}: {ratio:.3} times (goal {goal:.2}: {verdict})"
        )
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn a_line_says_whether_the_goal_was_met() {
        let line = |ours| Line::new("step", "tiny".into(), ours, 100.0, "tokens/s", 2.5);
        assert_eq!(
            line(250.0).to_string(),
            "step: tiny: 250 tokens/s, peer 100 tokens/s: 2.500 times (goal 2.50: met)"
        );
        assert!(!line(249.0).met);
        let slower = |ours| Line::at_most("reduce", "tiny".into(), ours, 1_000.0, "ms", 1.05);
        assert_eq!(slower(1_054.0).to_string(), "reduce: tiny: 1054 ms, peer 1000 ms: 1.054 times (goal 1.05: MISSED)");
        assert!(slower(1_049.0).met);
        assert!(serde_json::to_string(&line(250.0)).unwrap().contains(r#""ratio":2.5,"goal":2.5,"met":true"#));
    }
}
