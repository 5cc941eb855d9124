//! The stages of the quickstart in order; each leaves its figures in [`Results`].

use super::Scale;
use crate::building::Binaries;
use crate::cache;
use crate::cluster::{Cluster, set};
use crate::corpora::{self, Corpora};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// What came out; kept in results.json.
#[derive(Default, Serialize, Deserialize)]
pub struct Results {
    /// Of pretraining.
    pub pretraining: Option<Pretraining>,
    /// One row for each number of labelled sentences.
    pub tagger: Vec<TaggerRow>,
    /// Accuracy on held-out reviews: from the real checkpoint, and from scratch.
    pub sentiment: Option<(f64, f64)>,
    /// Where the Hugging Face folder lies.
    pub export: Option<String>,
}

/// Of pretraining.
#[derive(Serialize, Deserialize)]
pub struct Pretraining {
    /// The run's id.
    pub run: String,
    /// Steps done.
    pub steps: u64,
    /// Attempts: 2 after one stop and resume.
    pub attempt: u64,
    /// Generations: how often the membership changed.
    pub generation: u64,
    /// Held-out MLM loss in nats, and accuracy.
    pub eval_loss: f64,
    /// Of masked tokens.
    pub eval_accuracy: f64,
    /// (step, training loss).
    pub curve: Vec<(u64, f64)>,
    /// (step, held-out loss).
    pub eval_curve: Vec<(u64, f64)>,
    /// Wall time of training, waits included; if the quickstart was interrupted, since it was taken up again.
    pub seconds: f64,
    /// From SIGKILL of one worker until a second step was seen to be committed after it, by a poll of 0.2 s. None if the
    /// run had come too far by then: on a fast machine, or when an interrupted quickstart was taken up again.
    pub recovery_seconds: Option<f64>,
    /// Samples of the ledger, and whether each was used exactly once.
    pub samples: u64,
    /// SHA-256 of all parameters.
    pub weights_digest: String,
}

/// Accuracy of the part-of-speech tagger on held-out sentences.
#[derive(Serialize, Deserialize)]
pub struct TaggerRow {
    /// Labelled sentences.
    pub sentences: usize,
    /// Started from the pretrained encoder.
    pub pretrained: f64,
    /// The same network from random weights.
    pub scratch: f64,
    /// Each word's most frequent tag.
    pub most_frequent: f64,
}

/// Runs every stage that has left no result yet.
pub fn all(binaries: &Binaries, scale: &Scale, out: &Path) -> Result<Results> {
    let file = out.join("results.json");
    let mut results: Results = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("{}: use --fresh", file.display()))?,
        Err(_) => Results::default(),
    };
    if results.export.is_some() {
        println!("all stages are done already; `--fresh` starts over");
        return Ok(results);
    }
    let save = |results: &Results| -> Result<()> { Ok(fs::write(&file, serde_json::to_string_pretty(results)?)?) };
    println!("== data");
    let corpora = corpora::prepare(&cache::folder()?.join("corpora-1"), scale.texts)?;
    let mut cluster = Cluster::start(binaries, out)?;
    prepare_corpus(&cluster, &corpora, scale, out)?;
    cluster.join("alpha")?;
    cluster.join("beta")?;
    if results.pretraining.is_none() {
        results.pretraining = Some(pretrain(&mut cluster, scale, out)?);
        save(&results)?;
    }
    let pretrained = results.pretraining.as_ref().context("just done")?.run.clone();
    if results.tagger.is_empty() {
        results.tagger = tag(&cluster, &corpora, scale, out, &pretrained)?;
        save(&results)?;
    }
    if results.sentiment.is_none() {
        results.sentiment = Some(classify(&cluster, &corpora, scale, out)?);
        save(&results)?;
    }
    println!("== export");
    let export = out.join("hugging-face").display().to_string();
    cluster.command(&["checkpoints", "export", &pretrained, "--format", "hf", "--out", &export, "--overwrite"])?;
    results.export = Some(export);
    save(&results)?;
    Ok(results)
}

fn prepare_corpus(cluster: &Cluster, corpora: &Corpora, scale: &Scale, out: &Path) -> Result<()> {
    let parquet = out.join("corpus.parquet").display().to_string();
    if !Path::new(&parquet).exists() {
        let mut arguments = vec!["data".to_owned(), "import".to_owned()];
        arguments.extend(corpora.texts.iter().map(|path| path.display().to_string()));
        arguments.extend(["--out".to_owned(), parquet.clone()]);
        print!("{}", cluster.command(&arguments)?);
    }
    let tokenizer = out.join("tokenizer").display().to_string();
    if !Path::new(&tokenizer).join("tokenizer.json").exists() {
        let size = scale.vocabulary.to_string();
        let train =
            ["tokenizer", "train", "--data", &parquet, "--vocabulary", &size, "--lowercase", "--out", &tokenizer];
        print!("{}", cluster.command(&[&train[..], &["--overwrite"]].concat())?);
    }
    print!("{}", cluster.command(&["data", "inspect", &parquet])?);
    Ok(())
}

fn number(value: &Value, what: &str) -> Result<f64> {
    value.as_f64().with_context(|| format!("the run reports no {what}"))
}

fn pretrain(cluster: &mut Cluster, scale: &Scale, out: &Path) -> Result<Pretraining> {
    println!("== pretraining: two workers, one of them killed half way, then a stop and a resume");
    let started = Instant::now();
    let settings = [
        set("data.paths", json!([out.join("corpus.parquet")])),
        set("tokenizer.path", out.join("tokenizer/tokenizer.json").display().to_string()),
    ];
    let run = cluster.submit(scale.config, scale.config, &settings)?;
    let total = cluster.show(&run)?["total_steps"].as_u64().context("total_steps")?;
    let at_least = |step: u64| move |state: &Value| state["step"].as_u64() >= Some(step);

    let late = at_least(total * 3 / 4);
    let half = cluster.wait(&run, |state| late(state) || at_least(total / 2)(state) && state["world_size"] == 2)?;
    let recovery_seconds = if late(&half) { None } else { kill_and_replace(cluster, &run)? };
    if !is_over(&cluster.wait(&run, late)?) {
        stop_and_resume(cluster, &run)?;
    }
    let state = cluster.wait(&run, |state| state["status"] == "completed")?;
    let seconds = started.elapsed().as_secs_f64();

    let ledger = cluster.json(&["ledger", "verify", &run, "--json"])?;
    ensure!(ledger["ok"] == true, "the ledger of run {run} does not hold: {ledger}");
    println!("  done in {seconds:.0} s; the ledger holds: {} samples, none twice, none missing", ledger["samples"]);
    let curve = |key: &str| -> Result<Vec<(u64, f64)>> {
        let text = cluster.command(&["metrics", &run, "--key", key, "--json"])?;
        let row = |line: &str| -> Result<(u64, f64)> {
            let row: Value = serde_json::from_str(line)?;
            Ok((row["step"].as_u64().context("step")?, number(&row["value"], key)?))
        };
        text.lines().map(row).collect()
    };
    Ok(Pretraining {
        steps: total,
        attempt: state["attempt"].as_u64().unwrap_or_default(),
        generation: state["generation"].as_u64().unwrap_or_default(),
        eval_loss: number(&state["metrics"]["eval/mlm_loss"], "eval/mlm_loss")?,
        eval_accuracy: number(&state["metrics"]["eval/mlm_accuracy"], "eval/mlm_accuracy")?,
        curve: curve("train/loss")?,
        eval_curve: curve("eval/mlm_loss")?,
        seconds,
        recovery_seconds,
        samples: ledger["samples"].as_u64().unwrap_or_default(),
        weights_digest: state["weights_digest"].as_str().unwrap_or_default().to_owned(),
        run,
    })
}

/// A fast machine may have completed a small run before it was stopped.
fn is_over(state: &Value) -> bool {
    state["status"] == "completed"
}

/// SIGKILL to one of two workers; the seconds until the run was seen to go on, if there was anything left to do.
fn kill_and_replace(cluster: &mut Cluster, run: &str) -> Result<Option<f64>> {
    let before = cluster.show(run)?["step"].as_u64().unwrap_or_default();
    println!("  step {before}: kill -9 of worker beta");
    let killed = Instant::now();
    cluster.kill("beta")?;
    // One step may have been on its way to the coordinator when the worker died.
    let goes_on = |state: &Value| state["world_size"] == 1 && state["step"].as_u64() > Some(before + 1);
    let after = cluster.wait(run, |state| goes_on(state) || is_over(state))?;
    let seconds = killed.elapsed().as_secs_f64();
    cluster.join("gamma")?;
    if is_over(&after) {
        return Ok(None);
    }
    println!("  step {}: going on with one worker after {seconds:.1} s; a new one joins", after["step"]);
    Ok(Some(seconds))
}

fn stop_and_resume(cluster: &Cluster, run: &str) -> Result<()> {
    if let Err(error) = cluster.command(&["runs", "cancel", run]) {
        // What is complete cannot be cancelled.
        return if is_over(&cluster.show(run)?) { Ok(()) } else { Err(error) };
    }
    let stopped = cluster.wait(run, |state| state["status"] == "cancelled" || is_over(state))?;
    if is_over(&stopped) {
        return Ok(());
    }
    println!("  step {}: stopped; resuming from its checkpoint", stopped["step"]);
    cluster.command(&["runs", "resume", run])?;
    Ok(())
}

/// Of every fine-tuning here.
const ACCURACY: &str = "eval/accuracy";

fn tag(cluster: &Cluster, corpora: &Corpora, scale: &Scale, out: &Path, parent: &str) -> Result<Vec<TaggerRow>> {
    println!("== part-of-speech tagging on Brown: pretrained against from scratch");
    let (test, rest) = corpora.tagged.split_at(1000);
    let test_file = out.join("brown-test.txt");
    fs::write(&test_file, test.join("\n"))?;
    let labels: std::collections::BTreeSet<&str> = corpora
        .tagged
        .iter()
        .flat_map(|line| line.split(' '))
        .filter_map(|word| word.rsplit_once('/').map(|(_, tag)| tag))
        .collect();
    let mut rows = Vec::new();
    for &sentences in scale.tagged {
        let train = &rest[..sentences];
        let train_file = out.join(format!("brown-{sentences}.txt"));
        fs::write(&train_file, train.join("\n"))?;
        let accuracy = |name: &str, from: &str| {
            let settings = [
                set("run.steps", scale.tagger_steps),
                set("data.paths", json!([train_file])),
                set("data.eval_paths", json!([test_file])),
                set("tokenizer.path", out.join("tokenizer/tokenizer.json").display().to_string()),
                set("objective.labels", json!(labels)),
                set("init.from", from),
            ];
            cluster.result("finetune-tagger", &format!("tagger-{sentences}-{name}"), &settings, ACCURACY)
        };
        let row = TaggerRow {
            sentences,
            pretrained: accuracy("pretrained", &format!("run:{parent}"))?,
            scratch: accuracy("scratch", "")?,
            most_frequent: corpora::most_frequent_tag(train, test),
        };
        println!(
            "  {sentences:>5} sentences: pretrained {:.3}, scratch {:.3}, most frequent tag {:.3}",
            row.pretrained, row.scratch, row.most_frequent
        );
        rows.push(row);
    }
    Ok(rows)
}

fn classify(cluster: &Cluster, corpora: &Corpora, scale: &Scale, out: &Path) -> Result<(f64, f64)> {
    println!("== sentiment of film reviews: from the MiniLM checkpoint against from scratch");
    let write = |name: &str, rows: &[(String, String)]| -> Result<String> {
        let path = out.join(name);
        let lines: Vec<String> =
            rows.iter().map(|(text, label)| json!({"text": text, "label": label}).to_string()).collect();
        fs::write(&path, lines.join("\n"))?;
        Ok(path.display().to_string())
    };
    // Where configs/finetune-sentiment.toml looks for it.
    let link = out.join("minilm");
    if !link.exists() {
        std::os::unix::fs::symlink(&corpora.minilm, &link)?;
    }
    let held_out = 512.min(scale.reviews * 2);
    let test = write("reviews-test.jsonl", &corpora.reviews[..held_out])?;
    let train = write("reviews-train.jsonl", &corpora.reviews[held_out..held_out + scale.reviews])?;
    let accuracy = |name: &str, from: &str| {
        let settings = [
            set("run.steps", scale.review_steps),
            set("data.paths", json!([train])),
            set("data.eval_paths", json!([test])),
            set("tokenizer.path", link.join("tokenizer.json").display().to_string()),
            set("init.from", from),
        ];
        cluster.result("finetune-sentiment", &format!("sentiment-{name}"), &settings, ACCURACY)
    };
    let checkpoint = accuracy("checkpoint", &format!("hf:{}", link.display()))?;
    let scratch = accuracy("scratch", "")?;
    println!("  {} reviews: from the checkpoint {checkpoint:.3}, from scratch {scratch:.3}", scale.reviews);
    Ok((checkpoint, scratch))
}
