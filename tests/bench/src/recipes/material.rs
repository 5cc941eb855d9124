//! What all variants have in common: the texts to train on, the texts held out, and vocabularies; and the one measure
//! that does not depend on how a variant trained.
//!
//! The measure: the held-out texts in packed blocks of 128 tokens, 15 % of them to be predicted, chosen and masked once,
//! by a fixed seed. All variants with one vocabulary predict the very same words in the very same blocks, whatever the
//! length of their blocks, their share of masked words or their seed. Where weights are averaged, it is the average that
//! is measured.

use crate::corpora;
use anyhow::{Context, Result, ensure};
use config::{CheckedConfig, ModelShape, RunConfig, TokenizerConfig};
use corpus::{Batch, Columns, Corpus, FileSource, Labels, Loader, Tokenizer, WordPieceOptions};
use model::{Head, Input, Missing, Model, safetensors_io};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Tensor};

/// One text in so many is held out.
const HELD_OUT: usize = 40;
pub const LENGTH: usize = 128;
pub const MASK_RATE: f64 = 0.15;
/// Texts in a unit, as the recipes of the smaller sizes have it.
const UNIT_ROWS: u64 = 4;
/// All there are.
const SAMPLES: u64 = 1 << 20;

/// A folder with the texts and vocabularies.
#[derive(Clone)]
pub struct Material(PathBuf);

impl Material {
    /// Splits the texts of `corpus` (a Parquet file with a column `text`), where that is not done yet.
    pub fn prepare(folder: &Path, corpus: &Path) -> Result<Self> {
        let material = Self(folder.to_owned());
        if !material.0.join("held-out.parquet").exists() {
            let texts = corpora::texts(corpus, usize::MAX)?;
            ensure!(texts.len() >= HELD_OUT, "{} has {} texts, fewer than {HELD_OUT}", corpus.display(), texts.len());
            std::fs::create_dir_all(folder)?;
            for (name, held_out) in [("train.parquet", false), ("held-out.parquet", true)] {
                let chosen = texts.iter().enumerate().filter(|(at, _)| (at % HELD_OUT == 0) == held_out);
                let file = folder.join(name);
                let aside = folder.join(format!("{name}.part"));
                corpora::write(&aside, chosen.map(|(_, text)| text));
                std::fs::rename(aside, file)?;
            }
        }
        Ok(material)
    }

    /// A folder that [`Self::prepare`] has filled.
    pub fn open(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub fn train(&self) -> PathBuf {
        self.0.join("train.parquet")
    }

    pub fn held_out(&self) -> PathBuf {
        self.0.join("held-out.parquet")
    }

    pub fn tokenizer(&self, vocabulary: usize) -> PathBuf {
        self.0.join(format!("vocabulary-{vocabulary}")).join("tokenizer.json")
    }

    /// Trains a WordPiece vocabulary of this size on the training texts, where that is not done yet.
    pub fn train_tokenizer(&self, vocabulary: usize) -> Result<()> {
        let file = self.tokenizer(vocabulary);
        if file.exists() {
            return Ok(());
        }
        let source = FileSource::open(&[self.train().display().to_string()], &[], None, &Columns::text("text"))?;
        let options = WordPieceOptions { size: vocabulary, lowercase: true, min_frequency: 2 };
        let tokenizer = corpus::train_word_piece(&source, options, &mut |_, _| {})?;
        let folder = file.parent().context("it is in a folder")?;
        let aside = folder.with_extension("part");
        tokenizer.write_folder(&aside)?;
        std::fs::rename(aside, folder)?;
        Ok(())
    }

    /// A config on these texts, evaluated and stored at its end only.
    pub fn config(&self, config: RunConfig, vocabulary: usize) -> RunConfig {
        let mut config = config;
        config.data.paths = vec![self.train().display().to_string()];
        config.data.eval_paths = vec![self.held_out().display().to_string()];
        config.tokenizer = TokenizerConfig { path: self.tokenizer(vocabulary).display().to_string(), lowercase: true };
        config.checkpoint.every_steps = 0;
        config.eval.every_steps = 0;
        // By its own objective, which is of no use here.
        config.eval.samples = 1;
        config.recovery.verify_every = 0;
        config
    }

    /// The common measure.
    pub fn measure(&self, vocabulary: usize, recipe: RunConfig) -> Result<Measure> {
        let mut config = self.config(recipe, vocabulary);
        config.run.seed = 1;
        // What is held out is packed unit by unit.
        config.data.unit_rows = Some(UNIT_ROWS);
        config.objective = config::ObjectiveConfig {
            kind: config::ObjectiveKind::Mlm,
            mask_rate: MASK_RATE,
            ..config::ObjectiveConfig::default()
        };
        config.batch = config::BatchConfig {
            slots: 1,
            micro_batch: 16,
            accumulate: 1,
            ramp_from: None,
            ramp_share: None,
            sequence_length: LENGTH,
            short_length: None,
            short_share: None,
            ..config.batch
        };
        let config: CheckedConfig = config.check("the measure")?;
        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
        let batches = Loader::new(Arc::new(Corpus::open(&config)?), tokenizer, &config).eval_batches(SAMPLES)?;
        ensure!(!batches.is_empty(), "{} gives no block of {LENGTH} tokens", self.held_out().display());
        let bytes = corpora::texts(&self.held_out(), usize::MAX)?.iter().map(String::len).sum::<usize>();
        Ok(Measure { batches, bytes: bytes as f64 })
    }
}

/// Held-out blocks with their masks.
pub struct Measure {
    batches: Vec<Batch>,
    bytes: f64,
}

/// What a model predicts of the masked words.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Nats a masked token.
    pub loss: f64,
    pub accuracy: f64,
    /// Nats a byte of text: for vocabularies of different sizes, whose tokens are not equally long.
    pub loss_of_byte: f64,
    pub predicted: i64,
}

impl Measure {
    /// A model for masked words with these weights (the bytes of `model.safetensors`).
    pub fn of_weights(&self, shape: &ModelShape, weights: &[u8], device: Device) -> Result<Measured> {
        let mut model = Model::new(shape, Head::MaskedLm, 0, device)?;
        model.load_parameters(&safetensors_io::read(weights)?, Missing::Refuse)?;
        self.of(&model, device)
    }

    pub fn of(&self, model: &Model, device: Device) -> Result<Measured> {
        let (mut loss, mut correct, mut predicted) = (0.0, 0, 0);
        for batch in &self.batches {
            let Labels::Masked { positions, ids, .. } = &batch.labels else { anyhow::bail!("a block without masks") };
            let shape = [batch.samples as i64, batch.sequence_length as i64];
            let input = Input {
                ids: Tensor::from_slice(&batch.ids).view(shape).to_device(device),
                segments: None,
                mask: batch.mask.as_ref().map(|mask| Tensor::from_slice(mask).view(shape).to_device(device)),
            };
            let [positions, labels] = [positions, ids].map(|list| Tensor::from_slice(list).to_device(device));
            let (sum, right) = tch::no_grad(|| model.mlm_loss_sum(&model.encode(&input, false), &positions, &labels));
            loss += sum.double_value(&[]);
            correct += right.int64_value(&[]);
            predicted += ids.len() as i64;
        }
        ensure!(loss.is_finite(), "the held-out loss is not finite");
        let loss = loss / predicted as f64;
        let tokens: u64 = self.batches.iter().map(Batch::tokens).sum();
        let accuracy = correct as f64 / predicted as f64;
        Ok(Measured { loss, accuracy, loss_of_byte: loss * tokens as f64 / self.bytes, predicted })
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::variants;
    use super::*;
    use config::ModelSize;

    /// Sentences of words that follow each other, in as many texts as are needed to hold two out.
    pub fn corpus(folder: &Path) -> PathBuf {
        let word = |number: usize| ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"][number % 8];
        let text = |start: usize| (0..400).map(|at| word(start + at)).collect::<Vec<_>>().join(" ");
        let texts: Vec<String> = (0..2 * HELD_OUT).map(text).collect();
        let file = folder.join("corpus.parquet");
        corpora::write(&file, texts.iter());
        file
    }

    #[test]
    fn all_variants_predict_the_same_words() {
        let folder = tempfile::tempdir().unwrap();
        let material = Material::prepare(&folder.path().join("prepared"), &corpus(folder.path())).unwrap();
        material.train_tokenizer(64).unwrap();
        assert_eq!(corpora::texts(&material.held_out(), 100).unwrap().len(), 2);
        let ids = |name: &str| {
            let config = variants::Variant::of_name(name).unwrap().applied(variants::recipe(ModelSize::Tiny).unwrap());
            let measure = material.measure(64, config).unwrap();
            let masked: Vec<Vec<i64>> = measure.batches.iter().map(|batch| batch.ids.clone()).collect();
            (masked, measure.bytes)
        };
        let base = ids(variants::BASE);
        assert!(base.0.iter().flatten().count() > 5 * LENGTH, "{base:?}");
        for name in ["mask-40", "block-256", "mask-30-to-15", "bert-as-published"] {
            assert_eq!(ids(name), base, "{name}");
        }
    }

    #[test]
    fn a_model_that_knows_nothing_is_as_good_as_chance() {
        let folder = tempfile::tempdir().unwrap();
        let material = Material::prepare(&folder.path().join("prepared"), &corpus(folder.path())).unwrap();
        material.train_tokenizer(64).unwrap();
        let recipe = variants::recipe(ModelSize::Tiny).unwrap();
        let shape = recipe.model.shape(64, LENGTH as i64);
        let model = Model::new(&shape, Head::MaskedLm, 3, Device::Cpu).unwrap();
        let found = material.measure(64, recipe).unwrap().of(&model, Device::Cpu).unwrap();
        assert!((found.loss - 64f64.ln()).abs() < 0.2, "{found:?}");
    }
}
