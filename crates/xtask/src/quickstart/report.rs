//! The summary and the loss curve as a picture.

use super::stages::Results;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// Unigram entropy of this corpus under its 8k vocabulary, in nats: what knowing only frequencies reaches.
const UNIGRAM: f64 = 6.58;

/// Prints the summary and writes `summary.md` and `loss.svg`.
pub fn write(results: &Results, out: &Path) -> Result<()> {
    let run = results.pretraining.as_ref().context("no pretraining result")?;
    let mut text = String::new();
    writeln!(text, "| what | result |\n|---|---|")?;
    writeln!(
        text,
        "| pretraining | {} steps in {:.0} s, {} samples, each used once |",
        run.steps, run.seconds, run.samples
    )?;
    writeln!(
        text,
        "| held-out MLM loss (unigram {UNIGRAM}) | {:.3} nats, accuracy {:.1} % |",
        run.eval_loss,
        100.0 * run.eval_accuracy
    )?;
    writeln!(text, "| kill -9 of one of two workers | {:.1} s to the next committed step |", run.recovery_seconds)?;
    writeln!(text, "| attempts, generations | {}, {} |", run.attempt, run.generation)?;
    for row in &results.tagger {
        writeln!(
            text,
            "| tagger, {} sentences | {:.3} pretrained, {:.3} from scratch, {:.3} most frequent tag |",
            row.sentences, row.pretrained, row.scratch, row.most_frequent
        )?;
    }
    if let Some((checkpoint, scratch)) = results.sentiment {
        writeln!(text, "| sentiment | {checkpoint:.3} from the MiniLM checkpoint, {scratch:.3} from scratch |")?;
    }
    writeln!(text, "| weights (SHA-256) | {} |", run.weights_digest)?;
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
