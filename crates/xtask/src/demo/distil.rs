//! `cargo xtask demo distil`: how much of a teacher's held-out accuracy a student of half its layers keeps, beside the same
//! network without a teacher.

use super::{Language, Scale, corpus, folder};
use crate::building::Binaries;
use crate::cluster::{Cluster, set};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::path::Path;

const ACCURACY: &str = "eval/mlm_accuracy";
const LOSS: &str = "eval/mlm_loss";

/// Its name, its accuracy and its loss.
type Row = (&'static str, f64, f64);

pub fn run(binaries: &Binaries, corpora: &Path, scale: &Scale, fresh: bool) -> Result<()> {
    let out = folder(scale, Language::English, fresh)?;
    let mut cluster = Cluster::start(binaries, &out)?;
    let (parquet, tokenizer) = corpus(&cluster, Language::English, corpora, scale, &out)?;
    cluster.join("alpha")?;
    cluster.join("beta")?;
    let train = |config: &str, name: &str, steps: u64, more: &[[String; 2]]| -> Result<(f64, f64)> {
        let mut settings = vec![
            set("run.steps", steps),
            set("data.paths", json!([parquet])),
            set("tokenizer.path", tokenizer.display().to_string()),
            set("checkpoint.every_steps", 0),
            set("eval.every_steps", 0),
            // Alike for all of them, as the held-out texts are by that.
            set("data.unit_rows", 32),
            set("data.eval_fraction", 0.05),
            set("optimizer.learning_rate", 5e-4),
            set("optimizer.weight_decay", 0.01),
        ];
        settings.extend_from_slice(more);
        let run = cluster.submit(config, name, &settings)?;
        let state = cluster.wait(&run, |state| state["status"] == "completed")?;
        let metric =
            |name: &str| state["metrics"][name].as_f64().with_context(|| format!("run {run} reports no {name}"));
        Ok((metric(ACCURACY)?, metric(LOSS)?))
    };
    let shape = |layers: i64| {
        let sizes = [("layers", layers), ("hidden", 128), ("heads", 2), ("intermediate", 512)];
        sizes.map(|(key, value)| set(&format!("model.{key}"), value))
    };
    let steps = scale.distillation_steps;
    println!("== teacher: 4 layers, {} steps", 2 * steps);
    let masked = [set("objective.kind", "mlm"), set("model.dropout", 0.0), set("model.attention_dropout", 0.0)];
    let teacher: Vec<_> = shape(4).into_iter().chain(masked.clone()).collect();
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |what, (accuracy, loss)| {
        println!("  {what}: {:.1} % of masked words, {loss:.3} nats", 100.0 * accuracy);
        rows.push((what, accuracy, loss));
    };
    add("teacher, 4 layers", train("bert-mini", "distil-teacher", 2 * steps, &teacher)?);
    println!("== students: 2 layers, {steps} steps");
    let student = [set("distill.teacher", "run:distil-teacher"), set("model.layers", 2)];
    add("student, 2 layers", train("distilbert-mini", "distil-student", steps, &student)?);
    let alone: Vec<_> = shape(2).into_iter().chain(masked).chain([set("model.architecture", "distilbert")]).collect();
    add("the same steps without a teacher", train("bert-mini", "distil-alone", steps, &alone)?);
    let text = table(&rows);
    println!("\n{text}");
    let path = out.join("distil.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Accuracies beside the first one's.
fn table(rows: &[Row]) -> String {
    let mut text = "A student of half the layers (`cargo xtask demo distil`), held out:\n\n\
                    | | masked words right | of the teacher's | nats |\n|---|---|---|---|\n"
        .to_owned();
    let teacher = rows.first().map_or(f64::NAN, |(_, accuracy, _)| *accuracy);
    for (what, accuracy, loss) in rows {
        let (right, share) = (100.0 * accuracy, 100.0 * accuracy / teacher);
        text.push_str(&format!("| {what} | {right:.2} % | {share:.1} % | {loss:.3} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_stand_beside_the_teacher_s() {
        let text = table(&[("teacher", 0.2, 4.0), ("student", 0.19, 4.1)]);
        assert!(text.ends_with("| student | 19.00 % | 95.0 % | 4.100 |\n"), "{text}");
    }
}
