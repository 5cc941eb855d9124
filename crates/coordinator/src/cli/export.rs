//! `coordinator checkpoints export`: a folder that `transformers` loads.
//!
//! A checkpoint's files have Hugging Face's names and contents already. Here they are downloaded and compared with the
//! manifest, the rows that only pad the vocabulary are left out, and config.json says which tokenizer belongs to the model.
//! A model card comes with them. A file gets its name when all of them are right; another model's files go away then.

mod card;
mod vocabulary;

use super::args::{Connection, ExportArguments, ExportFormat};
use super::checkpoints::resolve;
use super::client::Client;
use super::data::corpus_problem;
use super::output;
use super::problem::Problem;
use crate::data_dir;
use corpus::{CARD, Filling};
use proto::v1;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::io::AsyncWriteExt;

/// What is taken of a checkpoint; config.json comes last, because it makes a folder a model.
const FILES: [&str; 5] = [WEIGHTS, TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", CONFIG];
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";
/// What a checkpoint holds of heads that serve pretraining alone, and that `transformers` has no names for.
const LEFT_OUT: [&str; 2] = ["generator.safetensors", "span_boundary.safetensors"];

pub async fn run(connection: &Connection, arguments: ExportArguments) -> Result<ExitCode, Problem> {
    let ExportArguments { checkpoint, format: ExportFormat::Hf, out, overwrite, json } = arguments;
    Filling::Model.check(&out, overwrite).map_err(corpus_problem)?;
    let readme = out.join(CARD);
    if readme.exists() && !corpus::is_own_card(&out) {
        let help = format!("move it away, or name another folder: a model card of that name is written ({CARD})");
        return Err(Problem::input(format!("{} is no card of a model", readme.display())).help(help));
    }
    let client = Client::connect(connection).await?;
    let manifest = client.checkpoints().manifest(resolve(&client, &checkpoint).await?).await?.into_inner();
    // From here on by its full name: the newest one may be another a moment later.
    let exact = manifest.checkpoint.clone().unwrap_or_default();
    let request = v1::RunRequest { run: exact.run.clone() };
    let run = client.runs().show(request).await?.into_inner();
    tokio::fs::create_dir_all(&out)
        .await
        .map_err(|error| Problem::failure(format!("cannot create {}: {error}", out.display())))?;
    let mut files = Vec::new();
    for name in FILES {
        let file = manifest.files.iter().find(|file| file.name == name).ok_or_else(|| {
            Problem::failure(format!("the checkpoint at step {} of run {} has no {name}", exact.step, exact.run))
        })?;
        files.push(download(&client, &exact, file, &out).await?);
    }
    let held = |name: &&str| manifest.files.iter().any(|file| file.name == **name);
    let left_out: Vec<&str> = LEFT_OUT.into_iter().filter(held).collect();
    let of = (run, exact.clone());
    let finishing = tokio::task::spawn_blocking(move || finish(files, &of.0, &of.1));
    let Finished { class, removed, warning } =
        finishing.await.map_err(|error| Problem::failure(format!("writing the folder: {error}")))??;
    if json {
        output::json(&json!({
            "run": exact.run, "generation": exact.generation, "step": exact.step, "path": out.display().to_string(),
            "warnings": warning.as_slice(), "left_out": left_out, "removed": removed,
        }))?;
    } else {
        output::line(&out.display().to_string())?;
        output::removed(&removed);
    }
    if !json && !left_out.is_empty() {
        output::message(&format!("left out, since only pretraining uses it: {}", left_out.join(", ")));
    }
    match warning {
        Some(warning) => output::message(&format!("WARNING: {warning}")),
        None if json => {}
        None => {
            output::message(&format!(
                "step {} of run {}; load it with {class}.from_pretrained of transformers",
                exact.step, exact.run
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that does not have its name yet, and that is gone if it never gets it.
struct Partial {
    name: &'static str,
    folder: PathBuf,
}

impl Partial {
    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.partial", self.name))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Problem {
        Problem::failure(format!("cannot write {}: {error}", self.folder.join(self.name).display()))
    }

    fn move_into_place(self) -> Result<(), Problem> {
        data_dir::move_into_place(&self.path(), &self.folder.join(self.name)).map_err(|error| self.failed(&error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It has its name, or is of no use.
        let _ = std::fs::remove_file(self.path());
    }
}

/// One file, every byte of which is as it was written.
async fn download(
    client: &Client,
    checkpoint: &v1::CheckpointRef,
    file: &v1::CheckpointFile,
    folder: &Path,
) -> Result<Partial, Problem> {
    let name = FILES.into_iter().find(|name| file.name == *name).expect("only what is listed is asked for");
    let partial = Partial { name, folder: folder.to_owned() };
    let request = v1::DownloadRequest { checkpoint: Some(checkpoint.clone()), file: file.name.clone() };
    let mut chunks = client.checkpoints().download(request).await?.into_inner();
    let mut out = tokio::fs::File::create(partial.path()).await.map_err(|error| partial.failed(&error))?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0_u64;
    while let Some(chunk) = chunks.message().await? {
        hasher.update(&chunk.data);
        bytes += chunk.data.len() as u64;
        out.write_all(&chunk.data).await.map_err(|error| partial.failed(&error))?;
    }
    out.sync_all().await.map_err(|error| partial.failed(&error))?;
    if bytes != file.bytes || hasher.finalize().as_bytes() != file.blake3.as_slice() {
        return Err(Problem::failure(format!("{} of step {} is damaged in the store", file.name, checkpoint.step))
            .help(format!("`coordinator checkpoints verify {}@{}` tells more", checkpoint.run, checkpoint.step)));
    }
    Ok(partial)
}

/// What a user must know of a folder that is whole.
#[derive(Debug, PartialEq)]
struct Finished {
    /// Of `transformers`, which loads it with its head.
    class: String,
    /// The files of another model that have gone.
    removed: Vec<String>,
    /// What `transformers` would do with it, if that is wrong.
    warning: Option<String>,
}

/// Cuts the vocabulary, writes the card, removes another model's files and gives these their names.
fn finish(mut files: Vec<Partial>, run: &v1::Run, checkpoint: &v1::CheckpointRef) -> Result<Finished, Problem> {
    let path = |name: &str| files.iter().find(|file| file.name == name).map(Partial::path).unwrap_or_default();
    let broken =
        |name: &str, error: &dyn std::fmt::Display| Problem::failure(format!("the checkpoint's {name}: {error}"));
    let read = |name: &str| std::fs::read(path(name)).map_err(|error| broken(name, &error));
    let mut config: Value = serde_json::from_slice(&read(CONFIG)?).map_err(|error| broken(CONFIG, &error))?;
    let mut more = Vec::new();
    if let Some(rows) = config["vocab_size"].as_u64() {
        let tokenizer = corpus::Tokenizer::from_bytes(TOKENIZER, &read(TOKENIZER)?, true).map_err(corpus_problem)?;
        let tokens = tokenizer.size() as u64;
        if tokens < rows {
            vocabulary::cut(&path(WEIGHTS), rows, tokens).map_err(|error| broken(WEIGHTS, &error))?;
            config["vocab_size"] = json!(tokens);
        }
        more.extend(tokenizer.byte_level_files().into_iter().flatten());
        config[config::TOKENIZER_KEY] = json!(tokenizer.identity().to_string());
        if let Ok(run) = config::parse("the run's config", &run.config) {
            config[config::Reading::KEY] = json!(config::Reading::of(&run));
        }
        write(&path(CONFIG), &format!("{config:#}\n")).map_err(|error| broken(CONFIG, &error))?;
    }
    let mut hasher = blake3::Hasher::new();
    let hashed = std::fs::File::open(path(WEIGHTS)).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    hashed.map_err(|error| broken(WEIGHTS, &error))?;
    let weights = hasher.finalize().to_hex();
    let text = card::card(&card::Facts { run, checkpoint, config: &config, weights: &weights });
    let mut removed = Vec::new();
    if let Some(folder) = files.first().map(|file| file.folder.clone()) {
        for (name, contents) in more {
            let file = Partial { name, folder: folder.clone() };
            write(&file.path(), &String::from_utf8_lossy(&contents)).map_err(|error| file.failed(&error))?;
            files.insert(0, file);
        }
        let card = Partial { name: CARD, folder: folder.clone() };
        write(&card.path(), &text).map_err(|error| card.failed(&error))?;
        files.insert(0, card);
        removed = Filling::Model.clear(&folder).map_err(corpus_problem)?;
    }
    for file in files {
        file.move_into_place()?;
    }
    let class = config["architectures"][0].as_str().unwrap_or("AutoModel").to_owned();
    Ok(Finished { class, removed, warning: warning(&config) })
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Of a model that `transformers` loads as something else.
fn warning(config: &Value) -> Option<String> {
    let class = config["architectures"][0].as_str().unwrap_or_default();
    let pools_by_mean = config["model_type"] != "modernbert"
        && class.ends_with("ForSequenceClassification")
        && config["classifier_pooling"] == "mean";
    pools_by_mean.then(|| {
        let base = config["model_type"].as_str().unwrap_or("bert");
        let (instead, head) = match base {
            "electra" | "roberta" => ("looks at the first token instead", "as a sequence of one token to `model.classifier`"),
            "distilbert" => {
                ("looks at the first token instead", "to `model.pre_classifier`, ReLU and `model.classifier`")
            }
            _ => ("puts a pooler of random weights in its place", "to `model.classifier`"),
        };
        format!(
            "this classifier was trained with objective.pooling = \"mean\", and transformers has no such model of this \
             kind. {class} {instead}: its predictions are WRONG. Either label text with `worker predict --model`; or, in \
             Python, give the mean of `model.{base}(...).last_hidden_state` over the real tokens {head}; or train with \
             objective.pooling = \"cls\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(folder: &Path, name: &'static str, contents: &str) -> Partial {
        let partial = Partial { name, folder: folder.to_owned() };
        std::fs::write(partial.path(), contents).unwrap();
        partial
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_left_of_what_failed() {
        let folder = tempfile::tempdir().unwrap();
        let (run, checkpoint) = (v1::Run::default(), v1::CheckpointRef::default());
        let finish = |files| finish(files, &run, &checkpoint);
        let files = vec![partial(folder.path(), WEIGHTS, "x"), partial(folder.path(), CONFIG, "{")];
        assert!(finish(files).unwrap_err().to_string().contains("config.json"));
        assert_eq!(names(folder.path()), Vec::<String>::new());
        // Of another model, and of nobody's.
        for name in [WEIGHTS, "model.onnx", "merges.txt", "notes.txt"] {
            std::fs::write(folder.path().join(name), "old").unwrap();
        }
        let files = vec![
            partial(folder.path(), WEIGHTS, "x"),
            partial(folder.path(), CONFIG, r#"{"architectures": ["BertForMaskedLM"]}"#),
        ];
        let class = "BertForMaskedLM".to_owned();
        let removed = ["merges.txt", "model.onnx", WEIGHTS].map(str::to_owned).to_vec();
        assert_eq!(finish(files).unwrap(), Finished { class, removed, warning: None });
        assert_eq!(names(folder.path()), [CARD, CONFIG, WEIGHTS, "notes.txt"]);
        assert_eq!(std::fs::read(folder.path().join(WEIGHTS)).unwrap(), b"x");
        let card = std::fs::read_to_string(folder.path().join(CARD)).unwrap();
        assert!(card.contains(&blake3::hash(b"x").to_hex().to_string()), "{card}");
    }

    #[test]
    fn a_bert_that_pools_by_the_mean_comes_with_a_warning() {
        let config = |class: &str, pooling: &str| {
            let kind = if class.starts_with("Modern") { "modernbert" } else { "bert" };
            json!({"model_type": kind, "architectures": [class], "classifier_pooling": pooling})
        };
        let told = warning(&config("BertForSequenceClassification", "mean")).unwrap();
        assert!(told.contains("predictions are WRONG") && told.contains("worker predict --model"), "{told}");
        assert_eq!(warning(&config("BertForSequenceClassification", "cls")), None);
        assert_eq!(warning(&config("ModernBertForSequenceClassification", "mean")), None);
        let electra = json!({"model_type": "electra", "architectures": ["ElectraForSequenceClassification"],
            "classifier_pooling": "mean"});
        assert!(warning(&electra).unwrap().contains("ElectraForSequenceClassification looks at the first token"));
        assert_eq!(warning(&json!({})), None);
    }
}
