//! `cargo xtask quantize TASK`: what int8 costs and gains, on a real task's held-out examples.
//!
//! The MiniLM checkpoint is fine-tuned on the task by two workers, exported as a user would (`worker export-onnx`), in
//! float32 and in the ways of int8, and `measure.py` runs all of them in turn with onnxruntime.

use crate::cluster::{Cluster, set};
use crate::demo::{self, Examples, Task};
use crate::{building, cache, corpora, python};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask quantize spam
  cargo xtask quantize english-sentiment --steps 300")]
pub struct Arguments {
    /// An English task that gives texts a class: english-sentiment, spam or privacy.
    task: demo::Name,
    /// Of the fine-tuning.
    #[arg(long, default_value_t = 150)]
    steps: u64,
    /// Held-out examples.
    #[arg(long, default_value_t = 1000)]
    test: usize,
    /// Tokens of a text.
    #[arg(long, default_value_t = 128)]
    length: u64,
}

/// What is measured of one file.
#[derive(Deserialize)]
struct Row {
    name: String,
    bytes: u64,
    /// Of a text, in one thread, without the tokenizer; the middle one of all batches.
    ms: f64,
    correct: usize,
    /// As the file in float32 has it.
    same: usize,
    /// The greatest difference of a probability from float32's.
    off: f64,
}

const VARIANTS: [(&str, &[&str]); 4] = [
    ("float32", &[]),
    ("int8, dense layers", &["--int8"]),
    ("the same in 7 bits", &["--int8", "--weight-bits", "7"]),
    ("7 bits, embeddings too", &["--int8", "--weight-bits", "7", "--int8-embeddings"]),
];

pub fn run(arguments: &Arguments) -> Result<()> {
    let binaries = building::binaries()?;
    let interpreter = python::onnx_interpreter()?;
    let corpora = cache::folder()?.join("corpora-1");
    let task = Task::load(arguments.task, &corpora)?;
    let Examples::Texts(split) = &task.examples else {
        bail!("{} gives texts no class: name english-sentiment, spam or privacy", task.name)
    };
    let held_out = arguments.test.min(split.test.len());
    let minilm = corpora::prepare(&corpora, usize::MAX)?.minilm;
    let out = cache::root().join("out/quantize").join(task.name);
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let files = task.write(split.train.len().min(12_000), held_out, &out)?;
    let mut cluster = Cluster::start(&binaries, &out)?;
    cluster.join("alpha")?;
    cluster.join("beta")?;
    let name = format!("{}-{}", task.name, arguments.steps);
    let mut settings = vec![
        set("run.steps", arguments.steps),
        set("data.paths", json!([files.train])),
        set("data.eval_paths", json!([files.test])),
        set("objective.labels", json!(task.labels)),
        set("objective.pooling", "cls"),
        set("batch.sequence_length", arguments.length),
        set("init.from", format!("hf:{}", minilm.display())),
    ];
    settings.extend(task.settings());
    settings.extend(demo::of_checkpoint(&minilm));
    settings.push(set("optimizer.learning_rate", 1e-4));
    let accuracy = cluster.result("demo-classify", &name, &settings, task.metric)?;
    println!("fine-tuned: {:.1} % of {held_out} held-out examples right", 100.0 * accuracy);

    let exported = out.join("exported").display().to_string();
    cluster.command(&["checkpoints", "export", "--format", "hf", &name, "--out", &exported, "--overwrite"])?;
    let mut variants = Vec::new();
    for (index, (name, options)) in VARIANTS.iter().enumerate() {
        let folder = out.join(format!("onnx-{index}"));
        let mut command = Command::new(&binaries.worker);
        command.args(["export-onnx", "--model", &exported, "--overwrite", "--out"]).arg(&folder).args(*options);
        let path = cache::output(&mut command)?;
        variants.push(json!({ "name": name, "path": path.trim() }));
    }
    drop(cluster);
    let rows = measure(&interpreter, &variants, &files.test, &exported, arguments.length)?;
    let table = table(&rows, held_out);
    println!("{table}");
    let path = out.join("int8.md");
    fs::write(&path, &table).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn measure(
    python: &Path,
    variants: &[serde_json::Value],
    test: &Path,
    tokenizer: &str,
    length: u64,
) -> Result<Vec<Row>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/quantize/measure.py");
    let spec = json!({ "variants": variants, "test": test, "tokenizer": tokenizer, "length": length });
    let text = cache::output(Command::new(python).arg(script).arg(spec.to_string()))?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}

/// Speed and size as ratios to the first row.
fn table(rows: &[Row], examples: usize) -> String {
    let mut text = "| weights | MB | size | ms a text | speed | right | as float32 | probability off by |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let Some(float) = rows.first() else { return text };
    let share = |count: usize| 100.0 * count as f64 / examples.max(1) as f64;
    for row in rows {
        text.push_str(&format!(
            "| {} | {:.1} | {:.2} | {:.2} | {:.2} × | {:.1} % | {:.1} % | {:.3} |\n",
            row.name,
            row.bytes as f64 / 1e6,
            row.bytes as f64 / float.bytes as f64,
            row.ms,
            float.ms / row.ms,
            share(row.correct),
            share(row.same),
            row.off,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compares_with_the_first_row() {
        let row =
            |name: &str, bytes, ms, correct| Row { name: name.into(), bytes, ms, correct, same: correct, off: 0.1 };
        let table = table(&[row("float32", 8_000_000, 3.0, 200), row("int8", 2_000_000, 1.5, 190)], 200);
        let last = table.lines().last().unwrap();
        assert_eq!(last, "| int8 | 2.0 | 0.25 | 1.50 | 2.00 × | 95.0 % | 95.0 % | 0.100 |");
    }
}
