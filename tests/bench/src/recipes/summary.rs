//! The runs of one size and time, variant by variant, beside the recipe as it is.

use super::variants::BASE;
use super::{Ended, Outcome, Trained};
use crate::report::Line;

/// A line for each variant, the best one first: the mean of its held-out losses, beside the recipe's.
pub fn lines(ended: &[Ended], threads: u32) -> Vec<Line> {
    let Some(first) = ended.first() else { return Vec::new() };
    let what = format!("{}, {} minutes, {threads} threads", first.size.name(), first.minutes);
    let mut names: Vec<&str> = Vec::new();
    for run in ended {
        if !names.contains(&run.variant.as_str()) {
            names.push(&run.variant);
        }
    }
    let base = Group::of(ended, BASE);
    let mut groups: Vec<(&str, Option<Group>)> = names.into_iter().map(|name| (name, Group::of(ended, name))).collect();
    groups.sort_by(|(_, left), (_, right)| {
        let loss = |group: &Option<Group>| group.as_ref().map_or(f64::INFINITY, |group| group.loss);
        loss(left).total_cmp(&loss(right))
    });
    let line = |(name, group): (&str, Option<Group>)| {
        let case = format!("{what}: {name}");
        let Some(group) = group else { return Line::missing("recipes", case, "no run of it ended well") };
        let per_byte = format!("{:.4} nats a byte", group.loss_of_byte);
        let note = format!(
            "{:.1} % right, {} steps, {:.2} M tokens, seeds {}{}",
            100.0 * group.accuracy,
            group.steps,
            group.tokens / 1e6,
            group.losses.iter().map(|loss| format!("{loss:.3}")).collect::<Vec<_>>().join(" "),
            // Tokens of another vocabulary are not as long.
            if name.starts_with("vocabulary") || name == BASE { format!(", {per_byte}") } else { String::new() },
        );
        let line = Line::figure("recipes", case, group.loss, "nats").note(note);
        match &base {
            Some(base) if name != BASE => line.beside(base.loss),
            _ => line,
        }
    };
    groups.into_iter().map(line).collect()
}

/// The runs of one variant that ended well.
struct Group {
    losses: Vec<f64>,
    loss: f64,
    accuracy: f64,
    loss_of_byte: f64,
    tokens: f64,
    steps: u64,
}

impl Group {
    fn of(ended: &[Ended], name: &str) -> Option<Self> {
        // One that was done again counts once: the last.
        let mut steps = 0;
        let mut runs: Vec<(u64, &Trained)> = Vec::new();
        for run in ended.iter().filter(|run| run.variant == name) {
            if let Outcome::Trained(trained) = &run.outcome {
                runs.retain(|(seed, _)| *seed != run.seed);
                runs.push((run.seed, trained));
                steps = run.steps;
            }
        }
        runs.sort_by_key(|(seed, _)| *seed);
        let mean = |value: fn(&Trained) -> f64| {
            runs.iter().map(|(_, trained)| value(trained)).sum::<f64>() / runs.len() as f64
        };
        runs.first()?;
        Some(Self {
            steps,
            losses: runs.iter().map(|(_, trained)| trained.loss).collect(),
            loss: mean(|trained| trained.loss),
            accuracy: mean(|trained| trained.accuracy),
            loss_of_byte: mean(|trained| trained.loss_of_byte),
            tokens: mean(|trained| trained.tokens as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Size;
    use super::*;

    fn run(variant: &str, seed: u64, loss: Option<f64>) -> Ended {
        let outcome = loss.map_or(Outcome::Failed { error: "killed".into() }, |loss| {
            let (tokens, seconds, accuracy) = (2_000_000, 3.0, 0.25);
            let (loss_of_byte, predicted, train_loss) = (loss / 4.0, 1000, loss);
            Outcome::Trained(Trained { tokens, seconds, loss, accuracy, loss_of_byte, predicted, train_loss })
        });
        let (variant, device) = (variant.to_owned(), "cpu".to_owned());
        Ended { size: Size::Tiny, variant, seed, minutes: 4.0, steps: 100, device, outcome }
    }

    #[test]
    fn variants_stand_beside_the_recipe_the_best_first() {
        let ended = [
            run(BASE, 1, Some(4.0)),
            run("wsd", 1, Some(3.5)),
            run("adamw", 1, None),
            run(BASE, 2, Some(4.25)),
            run(BASE, 2, Some(4.2)),
            run("wsd", 2, Some(3.7)),
        ];
        let lines: Vec<String> = lines(&ended, 2).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "recipes: tiny, 4 minutes, 2 threads: wsd: 3.60 nats, peer 4.10 nats: 0.878 times; 25.0 % right, 100 \
                 steps, 2.00 M tokens, seeds 3.500 3.700",
                "recipes: tiny, 4 minutes, 2 threads: recipe: 4.10 nats; 25.0 % right, 100 steps, 2.00 M tokens, seeds \
                 4.000 4.200, 1.0250 nats a byte",
                "recipes: tiny, 4 minutes, 2 threads: adamw: not measured: no run of it ended well",
            ]
        );
    }

    #[test]
    fn a_run_is_one_line_that_can_be_read_again() {
        for run in [run("wsd", 1, Some(3.5)), run("wsd", 2, None)] {
            let line = serde_json::to_string(&run).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Ended>(&line).unwrap(), run);
        }
    }
}
