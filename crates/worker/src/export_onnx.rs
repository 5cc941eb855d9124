//! `worker export-onnx`: a model as a file that onnxruntime and others run, in float32 or int8.

use crate::cli::Problem;
use crate::embed::write_whole;
use crate::loaded::open_folder;
use crate::source::SourceArguments;
use clap::Args;
use config::{Reading, TOKENIZER_KEY};
use corpus::{Filling, TOKENIZER_FILES};
use model::onnx_graph::{self, Exported, Numbers};
use model::{Missing, Model};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tch::Device;

const CONFIG: &str = "config.json";
/// The key of an export's config.json that says which weights its graphs are made of: their
/// [digest](onnx_graph::weights_digest).
const WEIGHTS_KEY: &str = "trireme_weights";

/// `worker export-onnx`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker export-onnx --checkpoint sentiment --out deployed/
  worker export-onnx --model exported/ --out deployed/ --int8

Writes model.onnx, or model_int8.onnx, and beside it config.json and the tokenizer's files. Inputs are input_ids,
attention_mask and, where the model has segments, token_type_ids; batch and length are free, and so is the number of choices
between them for multiple choice. Outputs are named as in transformers: logits; start_logits and end_logits;
last_hidden_state, and sentence_embedding of a model that makes vectors.

One folder can hold both graphs of the same weights, and the model that they are made of (--model and --out the same).

--int8 stores the weights of dense layers as whole numbers with a scale for each output, and multiplies whole numbers.
docs/guide/deployment.md says what that costs and gains.")]
pub struct ExportOnnxArguments {
    #[command(flatten)]
    source: SourceArguments,
    /// A folder, made if it is not there; else it must be empty, the model's own, or of the same weights.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Write into a folder that holds other things: the files of a model that are there go away, all other files stay.
    #[arg(long)]
    overwrite: bool,
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
    /// Print one JSON object: path, bytes, bytes of the dense layers before and after, and the files that went away.
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
    if !arguments.out.join(CONFIG).exists() {
        // Whose it is if there is one takes the weights to tell.
        check_out(&arguments.out, arguments.overwrite)?;
    }
    let fetched = arguments.source.fetch()?;
    let reading = fetched.reading.as_ref();
    let written = export(fetched.folder(), reading, numbers, &arguments.out, arguments.overwrite)?;
    let Written { path, exported: Exported { bytes, dense_float, dense_stored }, removed } = written;
    if let Some(told) = Filling::removal(&removed).filter(|_| !arguments.json) {
        // A closed stderr must not stop the command.
        let _ = writeln!(std::io::stderr(), "{told}");
    }
    let told = if arguments.json {
        let told = json!({
            "path": path.display().to_string(), "bytes": bytes.len(),
            "dense_bytes_float32": dense_float, "dense_bytes": dense_stored, "removed": removed,
        });
        told.to_string()
    } else {
        path.display().to_string()
    };
    writeln!(std::io::stdout(), "{told}")
        .map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

/// A graph that was written.
struct Written {
    path: PathBuf,
    exported: Exported,
    /// The files of another model that have gone.
    removed: Vec<String>,
}

/// Reads `folder` and writes into `out`.
fn export(
    folder: &Path,
    reading: Option<&Reading>,
    numbers: Numbers,
    out: &Path,
    overwrite: bool,
) -> Result<Written, Problem> {
    let at = |error: &dyn std::fmt::Display| Problem::input(format!("{}: {error}", folder.display()));
    let (read, tokenizer) = open_folder(folder)?;
    let mut model = Model::new(&read.shape, read.head, 0, Device::Cpu).map_err(|error| at(&error))?;
    model.load_parameters(&read.tensors, Missing::Refuse).map_err(|error| at(&error))?;
    let vocabulary = tokenizer.size() as i64;
    let weights = onnx_graph::weights_digest(&model, vocabulary).map_err(|error| at(&error))?;
    let is_own = matches!((folder.canonicalize(), out.canonicalize()), (Ok(folder), Ok(out)) if folder == out);
    let belongs = is_own || weights_of(out).is_some_and(|found| found == weights.to_string());
    if !belongs {
        check_out(out, overwrite)?;
    }
    let identity = tokenizer.identity().to_string();
    let metadata = [(TOKENIZER_KEY, identity.clone())];
    let exported = onnx_graph::export(&model, vocabulary, numbers, &metadata).map_err(|error| at(&error))?;

    std::fs::create_dir_all(out)
        .map_err(|error| Problem::failure(format!("cannot make the folder {}: {error}", out.display())))?;
    let graph = if numbers == Numbers::Float { "model.onnx" } else { "model_int8.onnx" };
    let removed = if belongs { Vec::new() } else { Filling::Model.clear(out)? };
    // A config.json says that the graph is there: it comes last.
    let mut others = Vec::new();
    if !is_own {
        let own = |name: &str| std::fs::read(folder.join(name)).map_err(|error| at(&format!("{name}: {error}")));
        for name in TOKENIZER_FILES.into_iter().filter(|name| folder.join(name).exists()) {
            others.push((name, own(name)?));
        }
        let mut config: Value =
            serde_json::from_slice(&own(CONFIG)?).map_err(|error| at(&format!("{CONFIG}: {error}")))?;
        config["vocab_size"] = json!(vocabulary.min(model.shape().vocabulary));
        config[TOKENIZER_KEY] = json!(identity);
        config[WEIGHTS_KEY] = json!(weights.to_string());
        if let Some(reading) = reading {
            config[Reading::KEY] = json!(reading);
        }
        others.push((CONFIG, format!("{config:#}\n").into_bytes()));
    }
    let path = out.join(graph);
    write_whole(&path, &exported.bytes)?;
    for (name, bytes) in others {
        write_whole(&out.join(name), &bytes)?;
    }
    Ok(Written { path, exported, removed })
}

fn check_out(out: &Path, overwrite: bool) -> Result<(), Problem> {
    Filling::Model.check(out, overwrite).map_err(|error| {
        let own = if out.join(CONFIG).exists() {
            "; beside the model that it is made of, name that with --model"
        } else {
            ""
        };
        Problem::input(format!("{error}{own}"))
    })
}

/// Which weights the graphs in an export are made of.
fn weights_of(out: &Path) -> Option<String> {
    let config: Value = serde_json::from_slice(&std::fs::read(out.join(CONFIG)).ok()?).ok()?;
    config[WEIGHTS_KEY].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loaded::tests::write_model;
    use model::{Head, safetensors_io};
    use tch::Tensor;

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
        let written = export(from.path(), Some(&reading), Numbers::Float, &out, false).ok().unwrap();
        let Written { path, exported, .. } = written;
        assert_eq!(std::fs::metadata(&path).unwrap().len(), exported.bytes.len() as u64);
        let int8 = Numbers::Int8 { bits: 8, tables: true };
        let whole = export(from.path(), None, int8, &out, false).ok().unwrap();
        assert!(whole.exported.bytes.len() < exported.bytes.len() && whole.removed.is_empty());
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
    fn graphs_of_other_weights_are_not_mixed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_model(from.path(), Head::MaskedLm);
        let out = to.path().join("deployed");
        let int8 = Numbers::Int8 { bits: 8, tables: false };
        for numbers in [Numbers::Float, int8] {
            export(from.path(), None, numbers, &out, false).ok().unwrap();
        }
        // The same model without the rows of no token: 10 are used.
        let cut = tempfile::tempdir().unwrap();
        let words = ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"];
        let weights = safetensors_io::read(&std::fs::read(from.path().join("model.safetensors")).unwrap()).unwrap();
        let narrow = |(name, tensor): (String, Tensor)| {
            let tensor = if words.contains(&name.as_str()) { tensor.narrow(0, 0, 10) } else { tensor };
            (name, tensor)
        };
        let weights: Vec<_> = weights.into_iter().map(narrow).collect();
        for name in ["tokenizer.json", "config.json"] {
            let text = std::fs::read_to_string(from.path().join(name)).unwrap();
            let text = text.replace("\"vocab_size\": 16", "\"vocab_size\": 10");
            std::fs::write(cut.path().join(name), text).unwrap();
        }
        std::fs::write(cut.path().join("model.safetensors"), safetensors_io::write(&weights).unwrap()).unwrap();
        export(cut.path(), None, int8, &out, false).ok().unwrap();
        for name in ["model.safetensors", "merges.txt", "notes.txt"] {
            std::fs::write(out.join(name), "old").unwrap();
        }
        // Another head is another model.
        write_model(from.path(), Head::PreTraining);
        let refused = export(from.path(), None, int8, &out, false).err().unwrap();
        let (message, _) = refused.into_text_and_help();
        assert!(message.contains(&out.display().to_string()) && message.contains("--overwrite"), "{message}");
        assert!(out.join("model.onnx").exists());
        let removed = export(from.path(), None, int8, &out, true).ok().unwrap().removed;
        let gone = ["config.json", "merges.txt", "model.onnx", "model.safetensors", "model_int8.onnx"];
        assert_eq!(removed[..5], gone, "and the tokenizer's: {removed:?}");
        let is_there = |name: &str| out.join(name).exists();
        assert_eq!(["model_int8.onnx", "config.json", "tokenizer.json", "notes.txt"].map(is_there), [true; 4]);
        assert_eq!(["model.onnx", "model.safetensors", "merges.txt"].map(is_there), [false; 3]);
    }

    #[test]
    fn a_model_s_own_folder_gets_a_graph_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::MaskedLm);
        let before: Vec<_> = names(folder.path()).into_iter().map(|name| folder.path().join(name)).collect();
        let read = || before.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>();
        let contents = read();
        // By another name for it.
        let out = folder.path().join(".");
        export(folder.path(), None, Numbers::Float, &out, true).ok().unwrap();
        assert!(read() == contents && names(folder.path()).len() == before.len() + 1);
        assert!(folder.path().join("model.onnx").exists());
    }

    #[test]
    fn a_head_that_is_not_there_is_named() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_model(from.path(), Head::None);
        let path = from.path().join("config.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("BertModel", "BertForMaskedLM");
        std::fs::write(&path, text).unwrap();
        let refused = export(from.path(), None, Numbers::Float, to.path(), false).err().unwrap();
        let (message, _) = refused.into_text_and_help();
        assert!(message.contains("cls.predictions") && message.contains("architectures"), "{message}");
        assert_eq!(names(to.path()), Vec::<String>::new());
    }
}
