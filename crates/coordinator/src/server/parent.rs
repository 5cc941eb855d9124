//! What a run starts from: `init.from`, or the teacher of `distill.teacher`, looked at when the run is submitted. The
//! trainer does the same again with the weights; here a person is still there to be told.

use super::checkpoints::{self, Pin, Repository};
use super::corpora::blocking;
use super::on_thread::OnThread;
use super::runs::find_with_checkpoint;
use super::wire;
use crate::weights;
use config::{
    Architecture, CheckedConfig, InitSource, ModelConfig, ModelShape, ObjectiveKind, TOKENIZER_KEY, WEIGHTS_FILES,
};
use corpus::Tokenizer;
use futures::TryStreamExt;
use proto::{Failure, FailureKind};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::{CheckpointId, Reader};
use types::Step;

/// What a run starts from.
#[derive(Debug, Default)]
pub struct Parent {
    /// The checkpoint, kept until the run's row does.
    pub pin: Option<Pin>,
    /// The shape that the run's model gets from it.
    pub shape: Option<ModelShape>,
    /// The tokenizer that it was trained with.
    pub tokenizer: ItsTokenizer,
    /// It may be another one than was meant.
    pub note: Option<String>,
}

/// What is known of the tokenizer that a model was trained with.
#[derive(Debug, Default)]
pub enum ItsTokenizer {
    /// Nothing.
    #[default]
    Unknown,
    /// Its identity: another one is refused.
    Recorded(String),
    /// The words of the one that lies beside the weights, in this file: another one may be meant.
    Beside(String, PathBuf),
}

impl ItsTokenizer {
    /// Refuses a tokenizer that is certainly another one; says so where it may be meant.
    pub fn check(&self, tokenizer: &Tokenizer, path: &str) -> Result<Option<String>, corpus::CorpusError> {
        match self {
            Self::Unknown => Ok(None),
            Self::Recorded(identity) => tokenizer.check_identity(path, Some(identity)).map(|()| None),
            Self::Beside(words, file) => Ok((*words != tokenizer.vocabulary_text()).then(|| {
                format!(
                    "`tokenizer.path` = `{path}` has other words than {}, which lies beside the weights that the run \
                     starts from: each id means another word unless the model was made for both",
                    file.display()
                )
            })),
        }
    }
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}

/// Finds what `init.from` names, and checks that the config fits it.
pub async fn of(
    config: &CheckedConfig,
    reader: &OnThread<Reader>,
    repository: &Arc<Repository>,
) -> Result<Parent, Failure> {
    let (key, source) = config.source();
    let from = &named(config);
    let source = source.map_err(|message| invalid(format!("`{key}`: {message}")))?;
    match source {
        InitSource::Seed => Ok(Parent::default()),
        InitSource::HuggingFace { path } => {
            let is_there = |name: &&str| Path::new(&path).join(name).is_file();
            let missing = if is_there(&"config.json") { WEIGHTS_FILES[0] } else { "config.json" };
            if missing == "config.json" || !WEIGHTS_FILES.iter().any(is_there) {
                return Err(invalid(format!(
                    "`{key}` = `{from}`: there is no file {path}/{missing}\n  help: name a folder with Hugging \
                     Face's config.json and model.safetensors or pytorch_model.bin, as `checkpoints export --format hf` \
                     or `save_pretrained` writes it; it has to be there on every worker's host, too"
                )));
            }
            let file = Path::new(&path).join("config.json");
            let text = std::fs::read(&file)
                .map_err(|error| invalid(format!("`{key}` = `{from}`: cannot read {}: {error}", file.display())))?;
            let shape = inherited(config, &text)?;
            let folder = PathBuf::from(&path);
            let look = move || Ok((weights::names(&folder), beside(&folder, &text)));
            let (names, tokenizer) = blocking(look).await?;
            let names = names.map_err(|message| invalid(format!("`{key}` = `{from}`: {message}")))?;
            let predicts_words = names.is_none_or(|names| weights::have_vocabulary_head(&names));
            check_head(config, predicts_words, &format!("{path} has none among its weights"))?;
            Ok(Parent { shape: Some(shape), tokenizer, ..Parent::default() })
        }
        InitSource::Run { run, step } => {
            let (row, note) = find_with_checkpoint(reader, &run)
                .await
                .map_err(|failure| invalid(format!("`{key}` = `{from}`: {}", failure.message)))?;
            let found = match step {
                None => repository.newest_good(&row.id, row.step).await?.0,
                Some(step) => {
                    let run = row.id.clone();
                    let rows = reader.call(move |reader| reader.checkpoints(&run)).await;
                    let rows = rows.map_err(wire::database_failure)?;
                    rows.into_iter().rev().map(|row| row.id).find(|id| id.step == Step(step))
                }
            };
            let Some(id) = found else {
                let there = format!("`coordinator checkpoints list {}` shows what there is", row.id);
                let (which, help) = match (step, end(&row.status, row.step, row.reason.as_deref())) {
                    (Some(step), _) => (format!("no checkpoint at step {step}"), there),
                    (None, None) => ("no good checkpoint yet".to_owned(), there),
                    (None, Some(end)) => {
                        let more = format!("`coordinator runs show {}` tells more", row.id);
                        (format!("no good checkpoint: it {end}"), more)
                    }
                };
                return Err(invalid(format!("`{key}` = `{from}`: run {} has {which}\n  help: {help}", row.id)));
            };
            // From here on retention leaves it; what is verified now is what the run will find.
            let pin = repository.pin(id).await;
            let id = pin.id();
            let problems = repository.store().verify(id).await.map_err(checkpoints::failure)?;
            if !problems.is_empty() {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let message = format!("`{key}` = `{from}`: checkpoint {id} is damaged: {}", problems.join("; "));
                return Err(Failure::new(FailureKind::Corrupt, message));
            }
            let shape = inherited(config, &read(repository, id, "config.json").await?)?;
            if let Ok(theirs) = config::parse("the run's config", &row.config) {
                let learned = theirs.objective.kind;
                let why = format!("run {} learned `{}`", row.id, learned.as_str());
                check_head(config, learned.predicts_words(), &why)?;
            }
            let bytes = read(repository, id, "tokenizer.json").await?;
            let identity = move || {
                let theirs = Tokenizer::from_bytes("its tokenizer.json", &bytes, true);
                theirs.map(|theirs| theirs.identity().to_string()).map_err(|error| invalid(error.to_string()))
            };
            let tokenizer = ItsTokenizer::Recorded(blocking(identity).await?);
            let note = note.map(|note| format!("`{key}` = `{from}`: {note}"));
            Ok(Parent { shape: Some(shape), tokenizer, note, pin: Some(pin) })
        }
    }
}

/// How a run ended before it was done, in a line.
fn end(status: &str, step: Step, reason: Option<&str>) -> Option<String> {
    match status {
        "failed" => {
            let why = reason.and_then(|reason| reason.lines().next());
            Some(format!("failed at step {step}{}", why.map(|why| format!(": {why}")).unwrap_or_default()))
        }
        "cancelled" => Some(format!("was cancelled at step {step}")),
        _ => None,
    }
}

/// What `init.from` or `distill.teacher` says.
pub fn named(config: &CheckedConfig) -> String {
    config.distill.as_ref().map_or_else(|| config.init.from.clone(), |distill| distill.teacher.clone())
}

/// A small file of a checkpoint.
async fn read(repository: &Repository, id: &CheckpointId, name: &str) -> Result<Vec<u8>, Failure> {
    let (_, content) = repository.store().open_file(id, name).await.map_err(checkpoints::failure)?;
    let chunks: Vec<_> = content.try_collect().await.map_err(checkpoints::failure)?;
    Ok(chunks.concat())
}

/// What a Hugging Face folder says of the tokenizer that its model was trained with.
fn beside(folder: &Path, config_json: &[u8]) -> ItsTokenizer {
    let keys: Value = serde_json::from_slice(config_json).unwrap_or_default();
    if let Some(identity) = keys[TOKENIZER_KEY].as_str() {
        return ItsTokenizer::Recorded(identity.to_owned());
    }
    for name in ["tokenizer.json", "vocab.txt"] {
        let file = folder.join(name);
        // One that cannot be read tells nothing; nobody asked for it.
        let theirs = std::fs::read(&file).ok().and_then(|bytes| Tokenizer::from_bytes(name, &bytes, true).ok());
        if let Some(theirs) = theirs {
            return ItsTokenizer::Beside(theirs.vocabulary_text(), file);
        }
    }
    ItsTokenizer::Unknown
}

/// Words of a head that was never trained stand for nothing, and `cloze` asks for them.
fn check_head(config: &CheckedConfig, predicts_words: bool, why: &str) -> Result<(), Failure> {
    if config.objective.kind != ObjectiveKind::Cloze || predicts_words {
        return Ok(());
    }
    Err(invalid(format!(
        "`init.from` = `{}` has no head over the vocabulary, and `objective.kind` = `cloze` asks for its words: {why}\n  \
         help: start from a model that was pretrained on masked words and not fine-tuned since",
        named(config)
    )))
}

/// The shape of the model that starts from the one with this config.json, if the config fits it.
fn inherited(config: &CheckedConfig, text: &[u8]) -> Result<ModelShape, Failure> {
    let (key, from) = (config.source().0, named(config));
    let source = source(text, &config.model)
        .map_err(|message| invalid(format!("`{key}` = `{from}`: its config.json cannot be used: {message}")))?;
    let shape = match &config.distill {
        None => config.model.inherit(source).map_err(invalid)?,
        Some(distill) => {
            let layers = source.layers;
            let shape = config.model.student(source).map_err(invalid)?;
            distill.layers_of(layers, shape.layers).map_err(invalid)?;
            shape
        }
    };
    config.check_tuning_of(&shape).map_err(invalid)?;
    let length = i64::try_from(config.batch.sequence_length).unwrap_or(i64::MAX);
    if length > shape.max_positions {
        return Err(invalid(format!(
            "`batch.sequence_length` = {length} is more than the {} positions of the model of `{key}`\n  help: \
             shorten it to {} or less",
            shape.max_positions, shape.max_positions
        )));
    }
    if config.objective.kind.has_pairs() && !shape.has_segments() {
        let message = "`objective.kind`: sentence pairs need segments, which the model of `init.from` does not have\n  \
                       help: use `mlm`";
        return Err(invalid(message.to_owned()));
    }
    Ok(shape)
}

/// What Hugging Face's config.json says of a model's size; what it leaves out is as Hugging Face has it.
fn source(text: &[u8], config: &ModelConfig) -> Result<ModelShape, String> {
    if let Some(pointer) = config::lfs_pointer(text) {
        return Err(pointer.to_owned());
    }
    let object: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let (architecture, defaults) = match object.get("model_type").and_then(Value::as_str) {
        Some("bert") => (Architecture::Bert, [30_522, 768, 12, 12, 3_072, 512]),
        Some("modernbert") => (Architecture::Modern, [50_368, 768, 22, 12, 1_152, 8_192]),
        Some("albert") => (Architecture::Albert, [30_000, 4_096, 12, 64, 16_384, 512]),
        Some("electra") => (Architecture::Electra, [30_522, 256, 12, 4, 1_024, 512]),
        Some("distilbert") => (Architecture::Distilbert, [30_522, 768, 6, 12, 3_072, 512]),
        Some("roberta") => (Architecture::Roberta, [50_265, 768, 12, 12, 3_072, 512]),
        other => {
            let found = other.unwrap_or("nothing");
            return Err(format!(
                "`model_type` is {found}; `bert`, `modernbert`, `albert`, `electra`, `distilbert` and `roberta` are \
                 supported"
            ));
        }
    };
    let (hidden, layers, heads, intermediate) = if architecture == Architecture::Distilbert {
        ("dim", "n_layers", "n_heads", "hidden_dim")
    } else {
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    };
    let keys = ["vocab_size", hidden, layers, heads, intermediate, "max_position_embeddings"];
    let mut numbers = defaults;
    for (number, key) in numbers.iter_mut().zip(keys) {
        if let Some(value) = object.get(key) {
            *number = value.as_i64().filter(|value| *value > 0).ok_or_else(|| format!("`{key}` is {value}"))?;
        }
    }
    let [vocabulary, hidden, layers, heads, intermediate, max_positions] = numbers;
    let segment_types = match (architecture, object.get("type_vocab_size").and_then(Value::as_i64)) {
        (Architecture::Modern | Architecture::Distilbert, _) => 0,
        (_, types) => types.unwrap_or(2),
    };
    let embedding = match architecture {
        Architecture::Albert | Architecture::Electra => {
            let width = object.get("embedding_size").and_then(Value::as_i64).unwrap_or(128);
            Some(width).filter(|width| *width != hidden)
        }
        _ => None,
    };
    // What has nothing to do with sizes is the trainer's to check.
    let rest = config.shape(vocabulary, max_positions);
    let shape = ModelShape {
        architecture,
        vocabulary,
        hidden,
        layers,
        heads,
        intermediate,
        max_positions,
        segment_types,
        embedding,
        ..rest
    };
    // Behind the rows that are of no position.
    Ok(ModelShape { max_positions: shape.max_positions - shape.first_position(), ..shape })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: &str = r#"{"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096}"#;

    fn config(model: &str) -> CheckedConfig {
        let text = format!(
            "[run]\nname = \"r\"\nkind = \"finetune\"\nsteps = 10\n[data]\npaths = [\"/c\"]\nlabel_column = \"l\"\n\
             [tokenizer]\npath = \"/t\"\n[batch]\nslots = 1\nmicro_batch = 1\nsequence_length = 513\n[init]\n\
             from = \"hf:/m\"\n[objective]\nkind = \"classify\"\n[model]\n{model}"
        );
        config::parse("r", &text).unwrap().check("r").unwrap()
    }

    #[test]
    fn a_run_that_has_ended_says_how() {
        let failed = end("failed", Step(0), Some("alpha: no row is left\n  help: mend it"));
        assert_eq!(failed.unwrap(), "failed at step 0: alpha: no row is left");
        assert_eq!(end("cancelled", Step(3), None).unwrap(), "was cancelled at step 3");
        assert_eq!(end("interrupted", Step(3), Some("its workers are gone")), None);
    }

    #[test]
    fn the_sizes_are_those_of_the_other_model() {
        let model = ModelConfig::default();
        let large = source(LARGE.as_bytes(), &model).unwrap();
        assert_eq!((large.layers, large.hidden, large.vocabulary, large.max_positions), (24, 1024, 30_522, 512));
        let modern = source(br#"{"model_type": "modernbert"}"#, &model).unwrap();
        assert_eq!((modern.layers, modern.segment_types), (22, 0));
        assert!(source(br#"{"model_type": "gpt2"}"#, &model).unwrap_err().contains("gpt2"));
        assert!(source(br#"{"model_type": "bert", "hidden_size": 0}"#, &model).unwrap_err().contains("hidden_size"));
    }

    #[test]
    fn a_config_that_does_not_fit_is_refused() {
        let refused = |model: &str, text: &str| inherited(&config(model), text.as_bytes()).unwrap_err().message;
        assert!(refused("layers = 2", LARGE).contains("model.layers"));
        assert!(refused("size = \"base\"", LARGE).contains("model.size"));
        assert!(refused("architecture = \"modern\"", LARGE).contains("model.architecture"));
        assert!(refused("", LARGE).contains("sequence_length"));
        assert!(refused("", "{").contains("config.json"));
        let longer = LARGE.replace("\"bert\",", "\"bert\", \"max_position_embeddings\": 1024,");
        assert_eq!(inherited(&config("layers = 24"), longer.as_bytes()).unwrap().layers, 24);
    }

    #[test]
    fn the_vocabulary_is_what_the_trainer_makes_of_it() {
        let export = LARGE.replace("\"bert\",", "\"bert\", \"vocab_size\": 998, \"max_position_embeddings\": 1024,");
        let rows = |model: &str| inherited(&config(model), export.as_bytes()).map(|shape| shape.vocabulary);
        assert_eq!((rows("").unwrap(), rows("vocabulary = 1000").unwrap()), (1000, 1000));
        assert_eq!(rows("vocabulary = 998").unwrap(), 998);
        assert!(rows("vocabulary = 1008").unwrap_err().message.contains("model.vocabulary: 1008"));
    }
}
