//! `coordinator checkpoints export`: a folder that `transformers` loads.
//!
//! The files of a checkpoint have Hugging Face's names already; here they are downloaded and checked against the
//! manifest, and the two small files that a tokenizer needs beside its own are written.

use super::args::{Connection, ExportArguments, ExportFormat};
use super::checkpoints::reference;
use super::client::Client;
use super::output;
use super::problem::Problem;
use crate::data_dir;
use proto::v1;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use tokio::io::AsyncWriteExt;

/// What is taken of a checkpoint.
const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

pub async fn run(connection: &Connection, arguments: ExportArguments) -> Result<ExitCode, Problem> {
    let ExportArguments { checkpoint, format: ExportFormat::Hf, out, json } = arguments;
    let client = Client::connect(connection).await?;
    let manifest = client.checkpoints().manifest(reference(&checkpoint)?).await?.into_inner();
    // From here on by its full name: the newest one may be another a moment later.
    let exact = manifest.checkpoint.clone().unwrap_or_default();
    tokio::fs::create_dir_all(&out)
        .await
        .map_err(|error| Problem::failure(format!("cannot create {}: {error}", out.display())))?;
    for name in FILES {
        let file = manifest.files.iter().find(|file| file.name == name).ok_or_else(|| {
            Problem::failure(format!("the checkpoint at step {} of run {} has no {name}", exact.step, exact.run))
        })?;
        download(&client, &exact, file, &out.join(name)).await?;
    }
    write_tokenizer_files(&out)?;
    if json {
        output::json(&json!({
            "run": exact.run, "generation": exact.generation, "step": exact.step, "path": out.display().to_string(),
        }))?;
    } else {
        output::line(&out.display().to_string())?;
        output::message(&format!("step {} of run {}; load it with AutoModel.from_pretrained", exact.step, exact.run));
    }
    Ok(ExitCode::SUCCESS)
}

/// One file: it appears under its name only when every byte is right.
async fn download(
    client: &Client,
    checkpoint: &v1::CheckpointRef,
    file: &v1::CheckpointFile,
    path: &Path,
) -> Result<(), Problem> {
    let failed = |error: std::io::Error| Problem::failure(format!("cannot write {}: {error}", path.display()));
    let request = v1::DownloadRequest { checkpoint: Some(checkpoint.clone()), file: file.name.clone() };
    let mut chunks = client.checkpoints().download(request).await?.into_inner();
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut out = tokio::fs::File::create(&partial).await.map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0_u64;
    while let Some(chunk) = chunks.message().await? {
        hasher.update(&chunk.data);
        bytes += chunk.data.len() as u64;
        out.write_all(&chunk.data).await.map_err(failed)?;
    }
    out.sync_all().await.map_err(failed)?;
    drop(out);
    if bytes != file.bytes || hasher.finalize().as_bytes() != file.blake3.as_slice() {
        // A partial file of no use.
        let _ = tokio::fs::remove_file(&partial).await;
        return Err(Problem::failure(format!("{} of step {} is damaged in the store", file.name, checkpoint.step))
            .help(format!("`coordinator checkpoints verify {}@{}` tells more", checkpoint.run, checkpoint.step)));
    }
    data_dir::move_into_place(Path::new(&partial), path).map_err(failed)
}

/// What `AutoTokenizer` needs beside tokenizer.json.
fn write_tokenizer_files(folder: &Path) -> Result<(), Problem> {
    let read = |name: &str| -> Result<Value, Problem> {
        let path = folder.join(name);
        let broken = |error: String| Problem::failure(format!("{}: {error}", path.display()));
        let text = std::fs::read(&path).map_err(|error| broken(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))
    };
    let (tokenizer, model) = (read("tokenizer.json")?, read("config.json")?);
    let special = json!({
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    });
    let mut config = special.clone();
    let lowercase = find(&tokenizer["normalizer"], "lowercase").and_then(Value::as_bool).unwrap_or(false);
    config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
    config["do_lower_case"] = json!(lowercase);
    config["model_max_length"] = model["max_position_embeddings"].clone();
    config["clean_up_tokenization_spaces"] = json!(true);
    config["model_input_names"] = match model["model_type"].as_str() {
        Some("modernbert") => json!(["input_ids", "attention_mask"]),
        _ => json!(["input_ids", "token_type_ids", "attention_mask"]),
    };
    for (name, value) in [("special_tokens_map.json", &special), ("tokenizer_config.json", &config)] {
        let path = folder.join(name);
        let text = serde_json::to_string_pretty(value).map_err(std::io::Error::from)?;
        let partial = folder.join(format!("{name}.partial"));
        let written = std::fs::File::create(&partial).and_then(|mut file| {
            writeln!(file, "{text}")?;
            file.sync_all()?;
            data_dir::move_into_place(&partial, &path)
        });
        written.map_err(|error| Problem::failure(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

/// A field of a normalizer, or of one in a sequence of them.
fn find<'a>(normalizer: &'a Value, field: &str) -> Option<&'a Value> {
    normalizer.get(field).or_else(|| normalizer["normalizers"].as_array()?.iter().find_map(|inner| find(inner, field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokenizer_files_follow_the_tokenizer_and_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        write("tokenizer.json", json!({"normalizer": {"type": "BertNormalizer", "lowercase": true}}));
        write("config.json", json!({"model_type": "bert", "max_position_embeddings": 512}));
        write_tokenizer_files(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written["do_lower_case"], true);
        assert_eq!(written["model_max_length"], 512);
        assert_eq!(written["mask_token"], "[MASK]");
        assert!(folder.path().join("special_tokens_map.json").exists());
    }
}
