//! The summary and the loss curve as a picture.

use super::Scale;
use super::stages::{Pretraining, Results, TaggerRow};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// Held-out loss that the full quickstart is to reach, in nats.
const LOSS_GOAL: f64 = 4.8;
/// By how much the pretrained tagger is to beat the one from scratch where there are few labelled sentences.
const TAGGER_GOAL: f64 = 0.08;
const FEW_SENTENCES: usize = 200;
/// Characters of the longest bar of the loss curve.
const BAR: f64 = 40.0;

/// Prints the summary and writes `summary.md` and `loss.svg`.
pub fn write(results: &Results, scale: &Scale, out: &Path) -> Result<()> {
    let run = results.pretraining.as_ref().context("no pretraining result")?;
    let text = summary(results, run, scale)?;
    let svg = out.join("loss.svg");
    std::fs::write(&svg, picture(&run.curve, &run.eval_curve))?;
    std::fs::write(out.join("summary.md"), &text)?;
    println!("\n{text}");
    println!("loss curve           {}", svg.display());
    println!("Hugging Face export  {}", results.export.as_deref().unwrap_or("-"));
    println!("checkpoints, metrics {}", out.join("coordinator").display());
    println!("logs                 {}", out.join("logs").display());
    Ok(())
}

fn summary(results: &Results, run: &Pretraining, scale: &Scale) -> Result<String> {
    // A scale without goals learns nothing that could be compared with one.
    let verdict = |goal: &str, met: bool| match (scale.unigram, met) {
        (None, _) => String::new(),
        (_, true) => format!("{goal}: met"),
        (_, false) => format!("{goal}: missed"),
    };
    let mut text = String::new();
    let mut row = |what: &str, result: &str, goal: &str| writeln!(text, "| {what} | {result} | {goal} |");
    row("what", "result", "goal")?;
    row("---", "---", "---")?;
    let done = format!("{} steps in {:.0} s, {} samples, each used once", run.steps, run.seconds, run.samples);
    row("pretraining", &done, "")?;
    let unigram = scale.unigram.map_or_else(String::new, |nats| format!(" (unigram {nats})"));
    let loss = format!("{:.3} nats, accuracy {:.1} %", run.eval_loss, 100.0 * run.eval_accuracy);
    let goal = verdict(&format!("at most {LOSS_GOAL}"), run.eval_loss <= LOSS_GOAL);
    row(&format!("held-out MLM loss{unigram}"), &loss, &goal)?;
    if let Some(seconds) = run.recovery_seconds {
        let recovery = format!("{seconds:.1} s until the second step after it, seen by a poll of 0.2 s");
        row("kill -9 of one of two workers", &recovery, "")?;
    }
    row("attempts, generations", &format!("{}, {}", run.attempt, run.generation), "")?;
    for tagger in &results.tagger {
        let TaggerRow { sentences, pretrained, scratch, most_frequent } = tagger;
        let accuracy =
            format!("{pretrained:.3} pretrained, {scratch:.3} from scratch, {most_frequent:.3} most frequent tag");
        let points = 100.0 * TAGGER_GOAL;
        let goal = if *sentences <= FEW_SENTENCES {
            verdict(&format!("{points:.0} points above scratch"), pretrained - scratch >= TAGGER_GOAL)
        } else {
            String::new()
        };
        row(&format!("tagger, {sentences} sentences"), &accuracy, &goal)?;
    }
    if let Some((checkpoint, scratch)) = results.sentiment {
        let accuracy = format!("{checkpoint:.3} from the MiniLM checkpoint, {scratch:.3} from scratch");
        row("sentiment", &accuracy, &verdict("above scratch", checkpoint > scratch))?;
    }
    row("weights (SHA-256)", &run.weights_digest, "")?;
    Ok(text + &curve(&run.eval_curve))
}

/// The held-out loss in figures and bars.
fn curve(points: &[(u64, f64)]) -> String {
    let highest = points.iter().map(|(_, loss)| *loss).fold(f64::MIN_POSITIVE, f64::max);
    let bar = |loss: f64| "█".repeat((loss / highest * BAR).round() as usize);
    let rows = points.iter().map(|(step, loss)| format!("| {step} | {loss:.3} | {} |\n", bar(*loss)));
    "\n| step | held-out loss, nats | |\n|---|---|---|\n".to_owned() + &rows.collect::<String>()
}

/// Training loss as a line, held-out loss as points.
fn picture(train: &[(u64, f64)], held_out: &[(u64, f64)]) -> String {
    let (width, height, left, bottom) = (720.0, 360.0, 48.0, 32.0);
    let last = train.last().map_or(1, |(step, _)| *step).max(1) as f64;
    let values = || train.iter().chain(held_out).map(|(_, loss)| *loss);
    let low = values().fold(f64::INFINITY, f64::min).floor();
    let high = values().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let x = |step: u64| left + step as f64 / last * (width - left - 8.0);
    let y = |loss: f64| 8.0 + (high - loss) / (high - low) * (height - bottom - 8.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for loss in (low as i64)..=(high as i64) {
        let at = y(loss as f64);
        svg += &format!("<line x1=\"{left}\" x2=\"{width}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n");
        svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss}</text>\n", left - 6.0, at + 4.0);
    }
    for quarter in 0..=4 {
        let step = (last * f64::from(quarter) / 4.0) as u64;
        let anchor = if quarter == 4 { "end" } else { "middle" };
        svg += &format!("<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{step}</text>\n", x(step), height - 16.0);
    }
    svg += &format!(
        "<text x=\"{left}\" y=\"{}\">step; nats a masked token: line training, points held out</text>\n",
        height - 2.0
    );
    let points: Vec<String> = train.iter().map(|(step, loss)| format!("{:.1},{:.1}", x(*step), y(*loss))).collect();
    svg += &format!("<polyline fill=\"none\" stroke=\"#2b6cb0\" points=\"{}\"/>\n", points.join(" "));
    for (step, loss) in held_out {
        svg += &format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"#c05621\"/>\n", x(*step), y(*loss));
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::super::{FULL, SMOKE};
    use super::*;

    fn results() -> Results {
        let pretraining = Pretraining {
            run: "r".to_owned(),
            steps: 400,
            attempt: 2,
            generation: 5,
            eval_loss: 4.9,
            eval_accuracy: 0.25,
            curve: vec![(1, 9.0)],
            eval_curve: vec![(200, 8.0), (400, 4.0)],
            seconds: 100.0,
            recovery_seconds: Some(1.1),
            samples: 25_600,
            weights_digest: "d".to_owned(),
        };
        let tagger = |sentences, pretrained| TaggerRow { sentences, pretrained, scratch: 0.6, most_frequent: 0.6 };
        Results {
            pretraining: Some(pretraining),
            tagger: vec![tagger(50, 0.7), tagger(200, 0.65), tagger(1000, 0.62)],
            sentiment: Some((0.77, 0.58)),
            export: None,
        }
    }

    fn of(scale: &Scale) -> String {
        let results = results();
        summary(&results, results.pretraining.as_ref().unwrap(), scale).unwrap()
    }

    #[test]
    fn what_was_to_be_reached_is_compared() {
        let text = of(&FULL);
        assert!(
            text.contains("| held-out MLM loss (unigram 6.58) | 4.900 nats, accuracy 25.0 % | at most 4.8: missed |")
        );
        let of_tagger = |sentences| text.lines().find(|line| line.contains(&format!("tagger, {sentences} "))).unwrap();
        assert!(of_tagger(50).ends_with("| 8 points above scratch: met |"), "{text}");
        assert!(of_tagger(200).ends_with("| 8 points above scratch: missed |"), "{text}");
        assert!(of_tagger(1000).ends_with("|  |"), "{text}");
        assert!(text.contains("| above scratch: met |"), "{text}");
    }

    #[test]
    fn a_smoke_test_is_not_held_to_goals_nor_to_another_corpus() {
        let text = of(&SMOKE);
        assert!(!["unigram", "met", "missed"].iter().any(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn the_curve_is_in_the_summary() {
        let rows = format!("| 200 | 8.000 | {} |\n| 400 | 4.000 | {} |\n", "█".repeat(40), "█".repeat(20));
        assert!(of(&FULL).ends_with(&rows), "{}", of(&FULL));
    }
}
