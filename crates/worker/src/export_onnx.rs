//! `worker export-onnx`: a model as a file that onnxruntime and others run, in float32 or int8.

use crate::cli::Problem;
use crate::embed::write_whole;
use crate::loaded::open_folder;
use crate::source::SourceArguments;
use clap::Args;
use config::{Reading, TOKENIZER_KEY};
use model::onnx_graph::{self, Exported, Numbers};
use model::{Missing, Model};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::Device;

/// What a tokenizer needs, of what is there.
const TOKENIZER_FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"];

/// `worker export-onnx`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker export-onnx --checkpoint sentiment --out deployed/
  worker export-onnx --model exported/ --out deployed/ --int8

Writes model.onnx, or model_int8.onnx, and beside it config.json and the tokenizer's files. Inputs are input_ids,
attention_mask and, where the model has segments, token_type_ids; batch and length are free, and so is the number of choices
between them for multiple choice. Outputs are named as in transformers: logits; start_logits and end_logits;
last_hidden_state, and sentence_embedding of a model that makes vectors.

--int8 stores the weights of dense layers as whole numbers with a scale for each output, and multiplies whole numbers.
docs/guide/deployment.md says what that costs and gains.")]
pub struct ExportOnnxArguments {
    #[command(flatten)]
    source: SourceArguments,
    /// A folder, made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Dense layers in int8: a quarter of their size, and faster where the processor has instructions for it.
    #[arg(long)]
    int8: bool,
    /// With --int8: 8 or 7 bits of a weight. Processors without VNNI sum two products in 16 bits, and 8 bits can overflow
    /// there.
    #[arg(long, requires = "int8", default_value_t = 8, value_name = "BITS", value_parser = clap::value_parser!(u32).range(7..=8))]
    weight_bits: u32,
    /// With --int8: the table of the word embeddings too, with a scale for each word.
    #[arg(long, requires = "int8")]
    int8_embeddings: bool,
    /// Print one JSON object: path, bytes, and bytes of the dense layers before and after.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &ExportOnnxArguments) -> Result<ExitCode, Problem> {
    let numbers = if arguments.int8 {
        Numbers::Int8 { bits: arguments.weight_bits, tables: arguments.int8_embeddings }
    } else {
        Numbers::Float
    };
    let fetched = arguments.source.fetch()?;
    let (path, exported) = export(fetched.folder(), fetched.reading.as_ref(), numbers, &arguments.out)?;
    let Exported { bytes, dense_float, dense_stored } = exported;
    let told = if arguments.json {
        let told = json!({
            "path": path.display().to_string(), "bytes": bytes.len(),
            "dense_bytes_float32": dense_float, "dense_bytes": dense_stored,
        });
        told.to_string()
    } else {
        path.display().to_string()
    };
    writeln!(std::io::stdout(), "{told}")
        .map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads `folder` and writes into `out`; the file's path and what is in it.
fn export(
    folder: &Path,
    reading: Option<&Reading>,
    numbers: Numbers,
    out: &Path,
) -> Result<(PathBuf, Exported), Problem> {
    let at = |error: &dyn std::fmt::Display| Problem::failure(format!("{}: {error}", folder.display()));
    let (read, tokenizer) = open_folder(folder)?;
    let mut model = Model::new(&read.shape, read.head, 0, Device::Cpu).map_err(|error| at(&error))?;
    model.load_parameters(&read.tensors, Missing::Refuse).map_err(|error| at(&error))?;
    let vocabulary = tokenizer.size() as i64;
    let identity = tokenizer.identity().to_string();
    let metadata = [(TOKENIZER_KEY, identity.clone())];
    let exported = onnx_graph::export(&model, vocabulary, numbers, &metadata).map_err(|error| at(&error))?;

    std::fs::create_dir_all(out)
        .map_err(|error| Problem::failure(format!("cannot make the folder {}: {error}", out.display())))?;
    for name in TOKENIZER_FILES.into_iter().filter(|name| folder.join(name).exists()) {
        let bytes = std::fs::read(folder.join(name)).map_err(|error| at(&format!("{name}: {error}")))?;
        write_whole(&out.join(name), &bytes)?;
    }
    let config = std::fs::read(folder.join("config.json")).map_err(|error| at(&format!("config.json: {error}")))?;
    let mut config: Value = serde_json::from_slice(&config).map_err(|error| at(&format!("config.json: {error}")))?;
    config["vocab_size"] = weights_rows(out).unwrap_or_else(|| json!(vocabulary.min(model.shape().vocabulary)));
    config[TOKENIZER_KEY] = json!(identity);
    if let Some(reading) = reading {
        config[Reading::KEY] = json!(reading);
    }
    write_whole(&out.join("config.json"), format!("{config:#}\n").as_bytes())?;
    let path = out.join(if numbers == Numbers::Float { "model.onnx" } else { "model_int8.onnx" });
    write_whole(&path, &exported.bytes)?;
    Ok((path, exported))
}

/// The folder may be an export already, with weights in it that have as many rows as its config.json says.
fn weights_rows(out: &Path) -> Option<Value> {
    let config = std::fs::read(out.join("config.json")).ok().filter(|_| out.join("model.safetensors").exists())?;
    serde_json::from_slice::<Value>(&config).ok()?.get("vocab_size").cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loaded::tests::write_model;
    use model::Head;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_holds_what_is_needed_to_use_the_graph() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_model(from.path(), Head::MaskedLm);
        let out = to.path().join("deployed");
        let reading = Reading { sequence_length: Some(12), ..Reading::default() };
        let (path, exported) = export(from.path(), Some(&reading), Numbers::Float, &out).ok().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), exported.bytes.len() as u64);
        let int8 = Numbers::Int8 { bits: 8, tables: true };
        let (_, whole) = export(from.path(), None, int8, &out).ok().unwrap();
        assert!(whole.bytes.len() < exported.bytes.len());
        assert_eq!(
            names(&out),
            [
                "config.json",
                "model.onnx",
                "model_int8.onnx",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer_config.json"
            ]
        );
        let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        // 10 tokens, for which the model in training has 16 rows.
        assert_eq!((&config["vocab_size"], config[TOKENIZER_KEY].is_string()), (&json!(10), true));
    }

    #[test]
    fn a_head_that_is_not_there_is_named() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_model(from.path(), Head::None);
        let path = from.path().join("config.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("BertModel", "BertForMaskedLM");
        std::fs::write(&path, text).unwrap();
        let (message, _) = export(from.path(), None, Numbers::Float, to.path()).err().unwrap().into_text_and_help();
        assert!(message.contains("cls.predictions") && message.contains("architectures"), "{message}");
        assert_eq!(names(to.path()), Vec::<String>::new());
    }
}
