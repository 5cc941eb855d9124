//! A model with its tokenizer, from a folder.

use crate::cli::Problem;
use config::{Reading, TokenizerConfig};
use corpus::Tokenizer;
use model::{Head, Input, Missing, Model, hugging_face};
use std::ops::Range;
use std::path::Path;
use tch::{Device, Tensor};

/// For a folder that is none, or not a model's.
const NO_MODEL_HELP: &str = "name a folder that `coordinator checkpoints export --format hf` or `save_pretrained` \
                             wrote, or a run of the coordinator with `--checkpoint RUN`";

/// What of the folder's model is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The encoder, whatever the head.
    Encoder,
    /// The encoder and the head over the vocabulary.
    Vocabulary,
}

/// A model that computes, and the tokenizer that belongs to it.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
    device: Device,
    /// Tokens of a text that are read at most.
    length: usize,
    /// How it was trained to read, where its folder says so.
    pub(crate) reading: Option<Reading>,
}

/// Tokens of one text, with those around it.
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// For each id the bytes of the text; nothing for the special tokens around it.
    pub(crate) ranges: Vec<Range<usize>>,
    /// Some of the text did not fit.
    pub(crate) cut: bool,
}

/// How many texts did not fit into what a model reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cuts {
    texts: usize,
    cut: usize,
}

impl Cuts {
    /// Counts some texts, each of which was cut or not.
    pub(crate) fn count(&mut self, texts: impl IntoIterator<Item = bool>) {
        for cut in texts {
            self.texts += 1;
            self.cut += usize::from(cut);
        }
    }

    /// Says so, once and at the end, if any had more than these `tokens`.
    pub(crate) fn tell(self, tokens: usize) {
        let Self { texts, cut } = self;
        if cut > 0 {
            tracing::warn!(
                cut,
                texts,
                tokens,
                "texts were cut: what comes after these tokens is not read (--max-length, as far as the model goes)"
            );
        }
    }

    /// The same of questions, whose length the run says.
    pub(crate) fn tell_of_questions(self, tokens: usize) {
        let Self { texts: questions, cut } = self;
        if cut > 0 {
            tracing::warn!(
                cut,
                questions,
                tokens,
                "questions were cut: what comes after these tokens is not read (objective.max_question_length of a run)"
            );
        }
    }
}

impl Loaded {
    pub(crate) fn open(folder: &Path, wanted: Wanted, length: Option<usize>, device: Device) -> Result<Self, Problem> {
        let at = |error: &dyn std::fmt::Display| Problem::input(format!("{}: {error}", folder.display()));
        let (read, tokenizer) = open_folder(folder)?;
        if wanted == Wanted::Vocabulary && !read.head.predicts_masked() {
            return Err(at(&"the model has no head over the vocabulary, so it cannot say which word is hidden")
                .with_help(
                    "use a model that was pretrained on masked words (BertForMaskedLM, BertForPreTraining, \
                 ModernBertForMaskedLM in config.json's `architectures`), before it was fine-tuned",
                ));
        }
        let (head, missing) = match wanted {
            Wanted::Vocabulary => (read.head, Missing::Refuse),
            // What is on the encoder is not used: it need not be there, and is not read.
            Wanted::Encoder => (Head::None, Missing::Keep),
        };
        let mut model = Model::new(&read.shape, head, 0, device).map_err(|error| at(&error))?;
        model.load_parameters(&read.tensors, missing).map_err(|error| at(&error))?;
        let positions = usize::try_from(model.shape().max_positions).unwrap_or(usize::MAX);
        let trained = read.reading.as_ref().and_then(|reading| reading.sequence_length);
        let length = length.or(trained).unwrap_or(positions).min(positions);
        Ok(Self { model, tokenizer, device, length, reading: read.reading })
    }

    /// A text as the model reads it: `[CLS] text [SEP]`, cut at the end.
    pub(crate) fn tokens(&self, text: &str) -> Result<Tokens, Problem> {
        let special = self.tokenizer.special();
        let mut encoded = self.tokenizer.encode_with_ranges(text)?;
        let cut = encoded.len() > self.length - 2;
        encoded.truncate(self.length - 2);
        let outside = || std::iter::once(0..0);
        let ids = std::iter::once(special.classify).chain(encoded.iter().map(|(id, _)| *id));
        let ids = ids.chain(std::iter::once(special.separator)).collect();
        let ranges = outside().chain(encoded.into_iter().map(|(_, range)| range)).chain(outside()).collect();
        Ok(Tokens { ids, ranges, cut })
    }

    /// Tokens of a text that are read at most, with those around it.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The last hidden states of a batch that was made as in training. `[samples, length, hidden]`
    pub(crate) fn encode_batch(&self, batch: &corpus::Batch) -> Tensor {
        let size = [batch.samples as i64, batch.sequence_length as i64];
        let ids = Tensor::from_slice(&batch.ids).reshape(size).to_device(self.device);
        let mask = batch.mask.as_ref().map(|mask| Tensor::from_slice(mask).reshape(size).to_device(self.device));
        tch::no_grad(|| self.model.encode(&Input { ids, segments: None, mask }, false))
    }

    /// The last hidden states and which tokens are real (None: all). `[texts, length, hidden]`, `[texts, length]`
    pub(crate) fn encode(&self, texts: &[&[u32]]) -> (Tensor, Option<Tensor>) {
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let (mut ids, mut real) = (Vec::with_capacity(texts.len() * longest), Vec::new());
        for text in texts {
            ids.extend(text.iter().map(|id| i64::from(*id)));
            real.extend(std::iter::repeat_n(true, text.len()));
            ids.resize(ids.len() + longest - text.len(), i64::from(self.tokenizer.special().pad));
            real.resize(ids.len(), false);
        }
        let size = [texts.len() as i64, longest as i64];
        let padded = real.contains(&false);
        let mask = padded.then(|| Tensor::from_slice(&real).reshape(size).to_device(self.device));
        let ids = Tensor::from_slice(&ids).reshape(size).to_device(self.device);
        let input = Input { ids, segments: None, mask };
        let hidden = tch::no_grad(|| self.model.encode(&input, false));
        (hidden, input.mask)
    }
}

/// Reads the model and its tokenizer, and makes sure that they belong together.
pub(crate) fn open_folder(folder: &Path) -> Result<(hugging_face::Folder, Tokenizer), Problem> {
    let at = |error: &dyn std::fmt::Display| Problem::input(format!("{}: {error}", folder.display()));
    let read = hugging_face::read_folder(folder).map_err(|error| {
        let problem = Problem::input(error.to_string());
        if folder.join("config.json").exists() { problem } else { problem.with_help(NO_MODEL_HELP) }
    })?;
    let names = ["tokenizer.json", "vocab.txt", "vocab.json"];
    let path = names.map(|name| folder.join(name)).into_iter().find(|path| path.exists());
    let path =
        path.ok_or_else(|| at(&"there is neither tokenizer.json nor vocab.txt, nor vocab.json with merges.txt"))?;
    let config = TokenizerConfig { path: path.display().to_string(), lowercase: lowercase(folder)? };
    let tokenizer = Tokenizer::open(&config)?;
    tokenizer.check_identity(&config.path, read.tokenizer_identity.as_deref())?;
    corpus::check_vocabulary(&tokenizer, &read.shape)?;
    Ok((read, tokenizer))
}

/// Whether a vocab.txt is of lower-cased words: as `tokenizer_config.json` says, or else it is, as for Hugging Face.
fn lowercase(folder: &Path) -> Result<bool, Problem> {
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(true);
    }
    let broken = |error: &dyn std::fmt::Display| Problem::input(format!("{}: {error}", path.display()));
    let text = std::fs::read(&path).map_err(|error| broken(&error))?;
    let config: serde_json::Value = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
    Ok(config["do_lower_case"].as_bool().unwrap_or(true))
}

/// A small model as a folder, for the tests of what uses models.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use config::ModelConfig;

    pub(crate) const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nsea\nwind\nship\n##s\n";

    /// A small BERT of random weights, large enough to tell inputs apart, as a folder.
    pub(crate) fn write_model(folder: &Path, head: Head) -> Model {
        let tokenizer = Tokenizer::from_bytes("vocab.txt", WORDS.as_bytes(), true).unwrap();
        let config = ModelConfig {
            layers: Some(1),
            hidden: Some(16),
            heads: Some(2),
            intermediate: Some(16),
            max_positions: Some(16),
            initializer_range: Some(0.5),
            ..ModelConfig::default()
        };
        let shape = config.shape(tokenizer.size() as i64, 16);
        let model = Model::new(&shape, head, 3, Device::Cpu).unwrap();
        let mut files = hugging_face::side_files(&shape, model.head(), tokenizer.bytes()).unwrap();
        let named: Vec<_> = model.parameters().into_iter().map(|it| (it.name, it.tensor)).collect();
        files.push(("model.safetensors", model::safetensors_io::write(&named).unwrap()));
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        model
    }

    #[test]
    fn a_cased_vocabulary_is_read_as_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(lowercase(folder.path()).is_ok_and(|lowercase| lowercase));
        for (text, expected) in [("{}", Some(true)), (r#"{"do_lower_case": false}"#, Some(false)), ("{", None)] {
            std::fs::write(folder.path().join("tokenizer_config.json"), text).unwrap();
            assert_eq!(lowercase(folder.path()).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_text_in_a_batch_gets_what_it_gets_alone() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::MaskedLm);
        let loaded = Loaded::open(folder.path(), Wanted::Encoder, None, Device::Cpu).ok().unwrap();
        let short = loaded.tokens("the ship").ok().unwrap();
        let long = loaded.tokens("the wind the sea the ships the sea the wind the sea the ships").ok().unwrap();
        assert_eq!((short.ids, short.cut, long.ids.len(), long.cut), (vec![2, 5, 8, 3], false, 16, true));
        let (together, mask) = loaded.encode(&[&[2, 5, 8, 3], &long.ids]);
        let (alone, none) = loaded.encode(&[&[2, 5, 8, 3]]);
        assert!(mask.is_some() && none.is_none());
        let off = (together.get(0).narrow(0, 0, 4) - alone.get(0)).abs().max().double_value(&[]);
        assert!(off < 1e-5, "{off}");
    }

    #[test]
    fn what_was_cut_is_counted_over_all_batches() {
        let mut cuts = Cuts::default();
        cuts.count([false, true]);
        cuts.count([true]);
        assert_eq!(cuts, Cuts { texts: 3, cut: 2 });
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused_with_both_hashes() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::MaskedLm);
        let path = folder.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let own = Tokenizer::from_bytes("vocab.txt", WORDS.as_bytes(), true).unwrap().identity().to_string();
        config["trireme_tokenizer"] = own.clone().into();
        std::fs::write(&path, config.to_string()).unwrap();
        assert!(open_folder(folder.path()).is_ok());
        let other = WORDS.replace("sea\nwind", "wind\nsea");
        let other = Tokenizer::from_bytes("vocab.txt", other.as_bytes(), true).unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), other.bytes()).unwrap();
        let (message, _) = open_folder(folder.path()).err().unwrap().into_text_and_help();
        assert!(message.contains(&own) && message.contains(&other.identity().to_string()), "{message}");
        assert!(message.contains("tokenizer.json"), "{message}");
    }
}
