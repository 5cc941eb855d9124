//! `cargo xtask demo NAME`: what pretraining is worth on a real task, through the commands that a user types.
//!
//! An encoder is pretrained on text of the task's language by two workers, once for all tasks of it. Then it is fine-tuned
//! on 100, on 1,000 and on all labelled examples, beside the same network from random weights, for English texts also
//! beside the MiniLM checkpoint, and beside what needs no network: the commonest class and a linear SVM.
//!
//! Each result is kept in `out/demo/LANGUAGE` as soon as it is there, so that an interrupted demo goes on where it was.

mod baselines;
mod cloze;
mod distil;
mod report;
mod senses;
mod task;

use crate::cluster::{Cluster, set};
use crate::{building, cache, corpora, python};
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use task::Language;
pub use task::{Examples, Task};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo brown-pos
  cargo xtask demo chinese-sentiment --smoke")]
pub struct Arguments {
    /// Which task.
    name: Name,
    /// The same in a few minutes: little text, few steps, 100 examples; nothing learned worth quoting.
    #[arg(long)]
    smoke: bool,
    /// Throw away this language's earlier runs and start over.
    #[arg(long)]
    fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Film reviews: positive or negative.
    EnglishSentiment,
    /// Mails: spam or not.
    Spam,
    /// Parts of speech of the Brown corpus.
    BrownPos,
    /// Whether a sentence of a privacy policy answers a question.
    Privacy,
    /// Parts of passages that answer questions, or that there is none.
    Answers,
    /// Reviews in Chinese: positive or negative.
    ChineseSentiment,
    /// Parts of speech of People's Daily.
    ChinesePos,
    /// People, places and organisations in People's Daily, character by character.
    ChineseNames,
    /// Whether the second part of a Chinese saying belongs to the first.
    Sayings,
    /// One word in two senses: vectors by context beside Word2Vec's one.
    Senses,
    /// A student of half its teacher's layers (DistilBERT).
    Distil,
    /// Which of two to five choices answers a question.
    #[value(alias = "choice")]
    Choices,
}

/// How much is done.
struct Scale {
    /// Under `out`.
    folder: &'static str,
    /// Files or paragraphs to pretrain on.
    texts: usize,
    vocabulary: usize,
    pretraining_steps: u64,
    distillation_steps: u64,
    /// Labelled examples; the last may be more than there are.
    sizes: &'static [usize],
    /// Of a fine-tuning with few examples: their share of an epoch is what limits the others.
    steps: u64,
    steps_max: u64,
    test: usize,
}

const FULL: Scale = Scale {
    folder: "demo",
    texts: usize::MAX,
    vocabulary: 8192,
    pretraining_steps: 2400,
    distillation_steps: 600,
    sizes: &[100, 1000, 12_000],
    steps: 150,
    steps_max: 400,
    test: 1000,
};
const SMOKE: Scale = Scale {
    folder: "demo-smoke",
    texts: 400,
    vocabulary: 2048,
    pretraining_steps: 30,
    distillation_steps: 20,
    sizes: &[100],
    steps: 10,
    steps_max: 10,
    test: 100,
};

/// Samples of one fine-tuning step: configs/demo-*.toml.
const BATCH: usize = 32;

pub fn run(arguments: &Arguments) -> Result<()> {
    let binaries = building::binaries()?;
    let scale = if arguments.smoke { &SMOKE } else { &FULL };
    let corpora = cache::folder()?.join("corpora-1");
    match arguments.name {
        Name::Senses => return senses::run(&binaries, &corpora, scale, arguments.fresh),
        Name::Distil => return distil::run(&binaries, &corpora, scale, arguments.fresh),
        _ => {}
    }
    let interpreter = python::interpreter()?;
    let task = Task::load(arguments.name, &corpora)?;
    let out = folder(scale, task.language, arguments.fresh)?;
    let mut cluster = Cluster::start(&binaries, &out)?;
    let pretrained = pretrain(&mut cluster, task.language, &corpora, scale, &out)?;
    let checkpoint = match task.language {
        Language::English => Some(corpora::prepare(&corpora, usize::MAX)?.minilm),
        Language::Chinese => None,
    };
    println!("== {}", task.title);
    let prompt = task.prompt();
    let mut without_examples = BTreeMap::new();
    if let Some(prompt) = &prompt {
        without_examples = prompt.zero_shot(&cluster, &pretrained, &task, scale.test, &out)?;
    }
    let labels = (!task.labels.is_empty()).then(|| set("objective.labels", json!(task.labels)));
    let mut rows = Vec::new();
    for &size in scale.sizes {
        let size = size.min(task.examples.train());
        let files = task.write(size, scale.test, &out)?;
        let mut row = report::Row::new(size);
        row.add(baselines::measure(&interpreter, &task, &files)?);
        row.add(without_examples.clone());
        let steps = (3 * (size / BATCH) as u64).clamp(scale.steps, scale.steps_max);
        let mut measured = |what: &str, from: &str, more: &[[String; 2]]| -> Result<()> {
            let began = Instant::now();
            let mut settings = vec![
                set("run.steps", steps),
                set("data.paths", json!([files.train])),
                set("data.eval_paths", json!([files.test])),
                set("init.from", from),
            ];
            settings.extend(task.settings());
            settings.extend_from_slice(more);
            let name = format!("{}-{size}-{what}", task.name).replace(' ', "-");
            let value = cluster.result(task.config(), &name, &settings, task.metric)?;
            println!("  {size:>6} examples, {what}: {value:.3} ({:.0} s)", began.elapsed().as_secs_f64());
            row.add(BTreeMap::from([(what.to_owned(), value)]));
            Ok(())
        };
        let tokenizer = set("tokenizer.path", out.join("tokenizer/tokenizer.json").display().to_string());
        let from_here = format!("run:{pretrained}");
        let own: Vec<_> = labels.iter().cloned().chain([tokenizer.clone()]).collect();
        measured("scratch", "", &own)?;
        measured("pretrained", &from_here, &own)?;
        if let Some(prompt) = &prompt {
            let own: Vec<_> = prompt.settings().into_iter().chain([tokenizer]).collect();
            measured("cloze", &from_here, &own)?;
        }
        if let Some(checkpoint) = &checkpoint {
            let own = labels.iter().cloned().chain(of_checkpoint(checkpoint));
            // A head that begins from nothing has few steps: Brown's tags come to 0.93 after fifty at 1e-3, to 0.56 at 1e-4, and
            // answers to nothing at 1e-4.
            let rate = match task.examples {
                Examples::Tagged(_) => 1e-3,
                Examples::Answers(_) => 3e-4,
                Examples::Texts(_) | Examples::Choices(_) => 1e-4,
            };
            // A step of it costs many of the small network's.
            let mut own: Vec<_> =
                own.chain([set("optimizer.learning_rate", rate), set("run.steps", steps / 3)]).collect();
            if matches!(task.examples, Examples::Choices(_)) {
                // Its choices are told by the first token, as in transformers.
                own.push(set("objective.pooling", "cls"));
            }
            measured("MiniLM", &format!("hf:{}", checkpoint.display()), &own)?;
        }
        rows.push(row);
    }
    report::write(&task, &rows, &out)
}

/// Where a language's runs are kept; emptied first if they are to be thrown away.
fn folder(scale: &Scale, language: Language, fresh: bool) -> Result<PathBuf> {
    let out = cache::root().join("out").join(scale.folder).join(language.name());
    if fresh && out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(out)
}

/// MiniLM's own tokenizer and shape.
pub fn of_checkpoint(folder: &Path) -> Vec<[String; 2]> {
    let mut settings = vec![set("tokenizer.path", folder.join("tokenizer.json").display().to_string())];
    settings.push(set("model.architecture", "bert"));
    for (key, value) in [("layers", 6), ("hidden", 384), ("heads", 12), ("intermediate", 1536), ("vocabulary", 30_522)]
    {
        settings.push(set(&format!("model.{key}"), value));
    }
    settings
}

/// A language's text as Parquet, and a tokenizer trained on it.
fn corpus(
    cluster: &Cluster<'_>,
    language: Language,
    corpora: &Path,
    scale: &Scale,
    out: &Path,
) -> Result<(PathBuf, PathBuf)> {
    let parquet = out.join("corpus.parquet");
    if !parquet.exists() {
        let mut import = vec!["data".to_owned(), "import".to_owned()];
        import.extend(texts(language, corpora, scale, out)?.iter().map(|path| path.display().to_string()));
        import.extend(["--out".to_owned(), parquet.display().to_string()]);
        print!("{}", cluster.command(&import)?);
    }
    let folder = out.join("tokenizer");
    let tokenizer = folder.join("tokenizer.json");
    if !tokenizer.exists() {
        let (data, size) = (parquet.display().to_string(), scale.vocabulary.to_string());
        let folder = folder.display().to_string();
        let train = ["tokenizer", "train", "--data", &data, "--vocabulary", &size, "--lowercase", "--out", &folder];
        print!("{}", cluster.command(&[&train[..], &["--overwrite"]].concat())?);
    }
    Ok((parquet, tokenizer))
}

/// The run that all of a language's tasks start from, by two workers.
fn pretrain(
    cluster: &mut Cluster<'_>,
    language: Language,
    corpora: &Path,
    scale: &Scale,
    out: &Path,
) -> Result<String> {
    println!("== pretraining on {} text", language.name());
    let (parquet, tokenizer) = corpus(cluster, language, corpora, scale, out)?;
    cluster.join("alpha")?;
    cluster.join("beta")?;
    let name = format!("{}-encoder", language.name());
    let mut settings = vec![
        set("run.steps", scale.pretraining_steps),
        set("data.paths", json!([parquet])),
        set("tokenizer.path", tokenizer.display().to_string()),
    ];
    if language == Language::Chinese {
        // No `##` says which characters belong together.
        settings.extend([set("objective.whole_word", true), set("objective.word_segmenter", "jieba")]);
    }
    let run = cluster.submit("quickstart", &name, &settings)?;
    let state = cluster.wait(&run, |state| state["status"] == "completed")?;
    println!(
        "  {} steps, held-out loss {:.3} nats",
        state["step"],
        state["metrics"]["eval/mlm_loss"].as_f64().unwrap_or(f64::NAN)
    );
    Ok(run)
}

/// Plain text files.
fn texts(language: Language, corpora: &Path, scale: &Scale, out: &Path) -> Result<Vec<PathBuf>> {
    match language {
        Language::English => Ok(corpora::prepare(corpora, scale.texts.div_ceil(60))?.texts),
        Language::Chinese => {
            let mut paragraphs = corpora::labelled::chinese_paragraphs(corpora)?;
            paragraphs.truncate(scale.texts);
            let file = out.join("chinese.txt");
            // An empty line ends a document.
            fs::write(&file, paragraphs.join("\n\n"))?;
            Ok(vec![file])
        }
    }
}
