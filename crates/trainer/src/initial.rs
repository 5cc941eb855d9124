//! What is decided before the first step: whether config, tokenizer and labels fit, and where the first weights come
//! from.

use crate::TrainError;
use crate::capture::{FORMAT, GENERATOR, SPAN_BOUNDARY, StateHeader};
use crate::gradients::contributions;
use crate::host::{CheckpointFiles, Host};
use crate::objective;
use crate::state::State;
use crate::teacher::Teacher;
use config::{CheckedConfig, InitSource, ModelShape, ObjectiveKind, Padding, ReduceMode};
use corpus::Tokenizer;
use kernels::fixed_point;
use model::{Execution, Missing, Model, hugging_face, safetensors_io};
use std::path::Path;
use tch::Device;
use types::{Attempt, Cursor, Digest, HELP, Step};

/// Checks what needs no weights. Where the shape comes from another model, it is checked when that one is read.
pub(crate) fn check(config: &CheckedConfig, tokenizer: &Tokenizer, labels: &[String]) -> Result<(), TrainError> {
    if config.source().1 == Ok(InitSource::Seed) {
        let shape = config.model.shape(tokenizer.size() as i64, config.batch.sequence_length as i64);
        check_shape(config, tokenizer, &shape)?;
    }
    let segmenter = corpus::check_segmenter(&config.objective, tokenizer);
    segmenter.map_err(|error| TrainError::fatal(error.to_string()))?;
    let contributions = contributions(config);
    if config.reduce.mode == ReduceMode::Exact && contributions > fixed_point::MAX_CONTRIBUTIONS {
        return Err(TrainError::fatal(format!(
            "batch.accumulate: {} for {} slots makes {contributions} gradients a step, and reduce.mode = \"exact\" can \
             sum {}: raise batch.micro_batch instead",
            config.batch.accumulate,
            config.batch.slots,
            fixed_point::MAX_CONTRIBUTIONS
        )));
    }
    let has_labels = matches!(config.objective.kind, ObjectiveKind::Classify | ObjectiveKind::Tag);
    if !has_labels || config.objective.regression {
        return Ok(());
    }
    if labels.len() < 2 {
        return Err(TrainError::fatal(format!(
            "objective.labels: the training data has {} label(s), and a classifier needs at least two: check \
             data.label_column, or list the labels in objective.labels",
            labels.len()
        )));
    }
    Ok(())
}

/// Checks that tokenizer and sequences fit a model.
fn check_shape(config: &CheckedConfig, tokenizer: &Tokenizer, shape: &ModelShape) -> Result<(), TrainError> {
    if tokenizer.size() as i64 > shape.vocabulary {
        return Err(TrainError::fatal(format!(
            "model.vocabulary: {} has {} ids, but the model has {} rows: use the tokenizer that belongs to the model, \
             or set model.vocabulary to at least {}",
            config.tokenizer.path,
            tokenizer.size(),
            shape.vocabulary,
            tokenizer.size()
        )));
    }
    corpus::check_vocabulary(tokenizer, shape).map_err(|error| TrainError::fatal(error.to_string()))?;
    if config.batch.sequence_length as i64 > shape.max_positions {
        return Err(TrainError::fatal(format!(
            "batch.sequence_length: {} is more than the model's {} positions: shorten it to {} or less",
            config.batch.sequence_length, shape.max_positions, shape.max_positions
        )));
    }
    if config.objective.kind.has_pairs() && !shape.has_segments() {
        return Err(TrainError::fatal(
            "objective.kind: sentence pairs need segments, which this model does not have: use `mlm`",
        ));
    }
    Ok(())
}

/// What every state of a run shares.
pub(crate) struct Recipe<'a> {
    pub config: &'a CheckedConfig,
    /// What a student starts from.
    pub teacher: Option<&'a Teacher>,
    pub config_digest: Digest,
    pub tokenizer: &'a Tokenizer,
    pub labels: &'a [String],
    pub device: Device,
    pub attempt: Attempt,
}

impl Recipe<'_> {
    /// The state that a run starts or resumes from; for rank 0 of a generation in which nobody holds any.
    pub fn make(&self, host: &dyn Host) -> Result<State, TrainError> {
        if let Some(files) = host.restore().map_err(|error| TrainError::local(format!("cannot restore: {error}")))? {
            return self.restored(&files);
        }
        if let Some(teacher) = self.teacher {
            let mut state = self.state(self.first_header(teacher.student(&self.config.model)?))?;
            teacher.initialise(&mut state.model)?;
            if let Some(average) = &mut state.average {
                average.restart(&state.parameters);
            }
            return Ok(state);
        }
        match self.config.init.source().map_err(|error| TrainError::fatal(format!("init.from: {error}")))? {
            InitSource::Seed => {
                let size = self.tokenizer.size() as i64;
                let shape = self.config.model.shape(size, self.config.batch.sequence_length as i64);
                self.state(self.first_header(shape))
            }
            InitSource::Run { .. } => {
                let files = host.parent().map_err(|error| TrainError::fatal(format!("init.from: {error}")))?;
                let (shape, _) = hugging_face::from_config_json(text(&files, "config.json")?)
                    .map_err(|error| TrainError::fatal(format!("init.from: config.json: {error}")))?;
                let tensors = safetensors_io::read(file(&files, "model.safetensors")?)
                    .map_err(|error| TrainError::fatal(format!("init.from: model.safetensors: {error}")))?;
                check_tokenizer(&self.config.tokenizer.path, self.tokenizer, &files)
                    .map_err(|error| TrainError::fatal(format!("init.from: {error}")))?;
                self.inherited(shape, &tensors)
            }
            InitSource::HuggingFace { path } => {
                let folder = hugging_face::read_folder(Path::new(&path))
                    .map_err(|error| TrainError::fatal(format!("init.from: {path}: {error}")))?;
                self.tokenizer
                    .check_identity(&self.config.tokenizer.path, folder.tokenizer_identity.as_deref())
                    .map_err(|error| TrainError::fatal(format!("init.from: {path}: {error}")))?;
                self.inherited(folder.shape, &folder.tensors)
            }
        }
    }

    /// A state with the shape and labels of `header`; its weights are to be written over.
    pub fn state(&self, header: StateHeader) -> Result<State, TrainError> {
        check_shape(self.config, self.tokenizer, &header.shape)?;
        self.config.check_tuning_of(&header.shape).map_err(TrainError::fatal)?;
        if self.config.run.cuda_graphs && self.device.is_cuda() && !kernels::Graph::AVAILABLE {
            let reason = "run.cuda_graphs: this worker was built without the cargo feature `cuda`";
            return Err(TrainError::local(format!("{reason}{HELP}build it as docs/guide/cuda.md says")));
        }
        let head = objective::head(self.config, &header.shape, &header.labels);
        let lora = self.config.lora.as_ref();
        let mut model = Model::adapted(&header.shape, head, lora, self.config.run.seed, self.device)
            .map_err(|error| TrainError::fatal(error.to_string()))?;
        model.set_execution(Execution {
            unpadded: self.config.batch.padding == Padding::Unpadded,
            activation_checkpointing: self.config.run.activation_checkpointing,
            cuda_graphs: self.config.run.cuda_graphs,
        });
        if let Some(layers) = self.config.model.frozen_layers {
            model.freeze(layers);
        }
        Ok(State::new(header, model, &self.config.optimizer))
    }

    /// The state before the first step.
    fn first_header(&self, shape: ModelShape) -> StateHeader {
        StateHeader {
            format: FORMAT,
            step: Step(0),
            attempt: self.attempt,
            updates: 0,
            skipped_in_a_row: 0,
            cursors: vec![Cursor::default(); self.config.batch.slots as usize],
            samples_digest: Digest::default(),
            config_digest: self.config_digest,
            optimizer: self.config.optimizer.kind,
            averaged: self.config.optimizer.ema_decay.is_some(),
            evaluated: None,
            measured: None,
            labels: self.labels.to_vec(),
            shape,
        }
    }

    /// The encoder of another model; heads that it lacks, or whose shape differs, stay as drawn from the seed.
    fn inherited(&self, source: ModelShape, tensors: &[(String, tch::Tensor)]) -> Result<State, TrainError> {
        // What the coordinator read from its own folder stands in the config.
        let other = if self.config.init.from.starts_with("hf:") {
            "; or this host has another folder of that name"
        } else {
            ""
        };
        let inherited = self.config.model.inherit(source);
        let shape = inherited.map_err(|differs| TrainError::fatal(format!("{differs}{other}")))?;
        let mut state = self.state(self.first_header(shape))?;
        let report = state
            .model
            .load_parameters(tensors, Missing::Keep)
            .map_err(|error| TrainError::fatal(format!("init.from: {}: {error}", self.config.init.from)))?;
        tracing::info!(
            from = %self.config.init.from,
            loaded = report.loaded,
            drawn = ?report.missing,
            reshaped = ?report.shape_mismatches,
            unused = ?report.unexpected,
            "weights taken over"
        );
        // Words of a head that was never trained stand for nothing.
        if self.config.objective.kind == ObjectiveKind::Cloze && !report.missing.is_empty() {
            return Err(TrainError::fatal(format!(
                "init.from: {} has no head over the vocabulary (it lacks {}), and `cloze` asks for its words: start from \
                 a model that was pretrained on masked words and not fine-tuned since",
                self.config.init.from,
                report.missing.join(", ")
            )));
        }
        if let Some(average) = &mut state.average {
            average.restart(&state.parameters);
        }
        Ok(state)
    }

    /// The state of a checkpoint, whoever wrote it.
    fn restored(&self, files: &CheckpointFiles) -> Result<State, TrainError> {
        let broken = |name: &str, error: &dyn std::fmt::Display| {
            TrainError::fatal(format!("the checkpoint's {name} cannot be used: {error}"))
        };
        let header: StateHeader =
            serde_json::from_slice(file(files, "state.json")?).map_err(|error| broken("state.json", &error))?;
        self.check_header(&header)?;
        let mut state = self.state(StateHeader { attempt: self.attempt, ..header })?;
        let mut weights = safetensors_io::read(file(files, "model.safetensors")?)
            .map_err(|error| broken("model.safetensors", &error))?;
        for name in [GENERATOR, SPAN_BOUNDARY] {
            if let Some(beside) = files.files.get(name) {
                weights.extend(safetensors_io::read(beside).map_err(|error| broken(name, &error))?);
            }
        }
        let loaded = state.result_mut().load_parameters(&weights, Missing::Refuse);
        loaded.map_err(|error| broken("model.safetensors", &error))?;
        let mut moments = std::collections::BTreeMap::new();
        for (name, bytes) in &files.files {
            if name.starts_with("optimizer-") && name.ends_with(".safetensors") {
                moments.extend(safetensors_io::read(bytes).map_err(|error| broken(name, &error))?);
            }
        }
        for (_, key, mut tensor) in state.beside_the_model() {
            let saved =
                moments.remove(&key).ok_or_else(|| broken("optimizer state", &format!("`{key}` is missing")))?;
            if saved.size() != tensor.size() {
                let error = format!("`{key}` is {:?}, not {:?}", saved.size(), tensor.size());
                return Err(broken("optimizer state", &error));
            }
            tch::no_grad(|| tensor.copy_(&saved));
        }
        if let Some(name) = moments.keys().next() {
            return Err(broken("optimizer state", &format!("`{name}` belongs to no parameter")));
        }
        Ok(state)
    }

    fn check_header(&self, header: &StateHeader) -> Result<(), TrainError> {
        let config = self.config;
        let refuse = |text: String| Err(TrainError::fatal(format!("the checkpoint does not fit the config: {text}")));
        if header.format != FORMAT {
            return refuse(format!("its format is {}, this program reads {FORMAT}", header.format));
        }
        if header.cursors.len() != config.batch.slots as usize {
            let slots = header.cursors.len();
            return refuse(format!("it has {slots} slots, batch.slots is {}: set it to {slots}", config.batch.slots));
        }
        if header.optimizer != config.optimizer.kind {
            return refuse(format!("it holds the state of {:?}, optimizer.kind differs", header.optimizer));
        }
        if header.averaged != config.optimizer.ema_decay.is_some() {
            let (holds, fix) = if header.averaged {
                ("an average of the weights", "set optimizer.ema_decay as it was")
            } else {
                ("no average of the weights", "leave out optimizer.ema_decay, or start another run with init.from")
            };
            return refuse(format!("it holds {holds}: {fix}"));
        }
        if header.labels != self.labels {
            return refuse(format!("its labels are {:?}, the data's are {:?}", header.labels, self.labels));
        }
        if header.config_digest != self.config_digest {
            tracing::warn!(step = header.step.0, "the config changed since this checkpoint was written");
        }
        Ok(())
    }
}

/// Refuses another tokenizer than the one that lies in the other run's checkpoint.
pub(crate) fn check_tokenizer(
    path: &str,
    tokenizer: &Tokenizer,
    files: &CheckpointFiles,
) -> Result<(), corpus::CorpusError> {
    let Some(theirs) = files.files.get("tokenizer.json") else { return Ok(()) };
    let theirs = Tokenizer::from_bytes("the other run's tokenizer.json", theirs, true)?;
    tokenizer.check_identity(path, Some(&theirs.identity().to_string()))
}

fn file<'a>(files: &'a CheckpointFiles, name: &str) -> Result<&'a [u8], TrainError> {
    let bytes = files.files.get(name).ok_or_else(|| TrainError::fatal(format!("the checkpoint has no {name}")))?;
    Ok(bytes)
}

fn text<'a>(files: &'a CheckpointFiles, name: &str) -> Result<&'a str, TrainError> {
    std::str::from_utf8(file(files, name)?)
        .map_err(|_| TrainError::fatal(format!("the checkpoint's {name} is no text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a run of this model and objective on an English vocabulary whose `[PAD]` is 0.
    fn refused(model: &str, objective: &str) -> String {
        let text = format!(
            "[run]\nname = \"r\"\nkind = \"pretrain\"\nsteps = 1\n[data]\npaths = [\"/c\"]\n[tokenizer]\n\
             path = \"/vocab.txt\"\n[model]\n{model}\n[objective]\nkind = \"mlm\"\n{objective}\n[batch]\n\
             slots = 1\nmicro_batch = 1\nsequence_length = 16\n"
        );
        let config = config::parse("r", &text).unwrap().check("r").unwrap();
        let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\n";
        let tokenizer = Tokenizer::from_bytes("vocab.txt", words.as_bytes(), true).unwrap();
        check(&config, &tokenizer, &[]).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_tokenizer_that_does_not_go_with_the_run_is_refused() {
        assert_eq!(refused("", ""), "");
        let padding = refused("architecture = \"roberta\"", "");
        assert!(padding.contains("must be 1 and is 0") && padding.contains("byte-level-bpe"), "{padding}");
        let segmenter = refused("", "whole_word = true\nword_segmenter = \"jieba\"");
        assert!(segmenter.contains("objective.word_segmenter: the tokenizer has no Chinese"), "{segmenter}");
    }

    #[test]
    fn the_tokenizer_of_another_run_s_model_must_be_this_run_s() {
        let of = |words: &str| {
            let words = format!("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n{words}");
            Tokenizer::from_bytes("vocab.txt", words.as_bytes(), true).unwrap()
        };
        let files = |tokenizer: &Tokenizer| CheckpointFiles {
            files: [("tokenizer.json".to_owned(), tokenizer.bytes().to_vec())].into(),
        };
        let (ours, other) = (of("sea\nwind\n"), of("wind\nsea\n"));
        assert!(check_tokenizer("vocab.txt", &ours, &files(&of("sea\nwind\n"))).is_ok());
        let error = check_tokenizer("vocab.txt", &ours, &files(&other)).unwrap_err().to_string();
        for tokenizer in [&ours, &other] {
            assert!(error.contains(&tokenizer.identity().to_string()), "{error}");
        }
    }
}
