//! A model with its tokenizer, and what it makes of text.

use crate::cli::Problem;
use config::TokenizerConfig;
use corpus::Tokenizer;
use model::{Head, Input, Missing, Model, hugging_face};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// What was made of one text.
pub enum Prediction {
    /// The probability of each class, in the order of the labels.
    Class(Vec<f64>),
    /// For each word: the word, the index of its tag and the tag's probability. Words past the model's length have none.
    Tags(Vec<(String, Option<(usize, f64)>)>),
}

/// A fine-tuned model.
pub struct Predictor {
    model: Model,
    tokenizer: Tokenizer,
    labels: Vec<String>,
    device: Device,
    length: usize,
}

impl Predictor {
    /// From a folder with config.json, model.safetensors and tokenizer.json or vocab.txt.
    pub fn open(folder: &Path, length: Option<usize>, device: Device) -> Result<Self, Problem> {
        let at = |error: &dyn std::fmt::Display| Problem::failure(format!("{}: {error}", folder.display()));
        let read = hugging_face::read_folder(folder).map_err(|error| Problem::failure(error.to_string()))?;
        let labels = match read.head.labels() {
            Some(labels) => labels.to_vec(),
            None => {
                return Err(at(&"the model predicts no labels; fine-tune it first (run.kind = \"finetune\")"));
            }
        };
        let mut model = Model::new(&read.shape, read.head, 0, device).map_err(|error| at(&error))?;
        model.load_parameters(&read.tensors, Missing::Refuse).map_err(|error| at(&error))?;
        let path = ["tokenizer.json", "vocab.txt"].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
        let path = path.ok_or_else(|| at(&"there is neither tokenizer.json nor vocab.txt"))?;
        let config = TokenizerConfig { path: path.display().to_string(), lowercase: lowercase(folder)? };
        let tokenizer = Tokenizer::open(&config).map_err(|error| Problem::failure(error.to_string()))?;
        corpus::check_vocabulary(&tokenizer, model.shape()).map_err(|error| Problem::failure(error.to_string()))?;
        let positions = usize::try_from(model.shape().max_positions).unwrap_or(usize::MAX);
        let length = length.unwrap_or(positions).min(positions);
        Ok(Self { model, tokenizer, labels, device, length })
    }

    /// The labels in the order of the model's outputs.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// One prediction for each text.
    pub fn predict(&self, texts: &[String]) -> Result<Vec<Prediction>, Problem> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        match self.model.head() {
            Head::SequenceClassifier { .. } => self.classify(texts),
            _ => self.tag(texts),
        }
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, Problem> {
        self.tokenizer.encode(text).map_err(|error| Problem::failure(error.to_string()))
    }

    fn classify(&self, texts: &[String]) -> Result<Vec<Prediction>, Problem> {
        let rows = texts.iter().map(|text| self.ids(text)).collect::<Result<Vec<_>, _>>()?;
        let input = self.input(&rows);
        let probabilities = tch::no_grad(|| {
            let hidden = self.model.encode(&input, false);
            let logits = self.model.class_logits(&hidden, input.mask.as_ref(), false);
            logits.softmax(-1, Kind::Double)
        });
        Ok(matrix(&probabilities).into_iter().map(Prediction::Class).collect())
    }

    fn tag(&self, texts: &[String]) -> Result<Vec<Prediction>, Problem> {
        let mut rows = Vec::new();
        let mut words = Vec::new();
        for text in texts {
            let mut row = Vec::new();
            let mut first_pieces = Vec::new();
            for word in text.split_whitespace() {
                // A word without a piece (control characters only) still has its place in the answer.
                let pieces = self.ids(word)?;
                first_pieces.push((word.to_owned(), (!pieces.is_empty()).then_some(row.len() + 1)));
                row.extend(pieces);
            }
            rows.push(row);
            words.push(first_pieces);
        }
        let input = self.input(&rows);
        let width = usize::try_from(input.ids.size()[1]).unwrap_or(0);
        let probabilities = tch::no_grad(|| {
            let hidden = self.model.encode(&input, false);
            self.model.token_logits(&hidden, false).softmax(-1, Kind::Double)
        });
        let probabilities = matrix(&probabilities.reshape([-1, self.labels.len() as i64]));
        let answers = words.into_iter().enumerate().map(|(index, words)| {
            let tags = words.into_iter().map(|(word, at)| {
                let at = at.filter(|at| at + 1 < self.length.min(width + 1));
                let tag = at.and_then(|at| best(&probabilities[index * width + at]));
                (word, tag)
            });
            Prediction::Tags(tags.collect())
        });
        Ok(answers.collect())
    }

    /// `[CLS] row [SEP]`, cut at the model's length and padded to the longest.
    fn input(&self, rows: &[Vec<u32>]) -> Input {
        let special = self.tokenizer.special();
        let room = self.length.saturating_sub(2);
        let width = rows.iter().map(|row| row.len().min(room)).max().unwrap_or(0) + 2;
        let mut ids = Vec::with_capacity(rows.len() * width);
        let mut mask = Vec::with_capacity(rows.len() * width);
        for row in rows {
            let real = row.len().min(room);
            ids.push(i64::from(special.classify));
            ids.extend(row[..real].iter().map(|id| i64::from(*id)));
            ids.push(i64::from(special.separator));
            mask.extend(std::iter::repeat_n(true, real + 2));
            ids.extend(std::iter::repeat_n(i64::from(special.pad), width - real - 2));
            mask.extend(std::iter::repeat_n(false, width - real - 2));
        }
        let size = [rows.len() as i64, width as i64];
        let padded = mask.iter().any(|real| !real);
        Input {
            ids: Tensor::from_slice(&ids).reshape(size).to_device(self.device),
            segments: None,
            mask: padded.then(|| Tensor::from_slice(&mask).reshape(size).to_device(self.device)),
        }
    }
}

/// Whether a vocab.txt is of lower-cased words: as `tokenizer_config.json` says, or else it is, as for Hugging Face.
fn lowercase(folder: &Path) -> Result<bool, Problem> {
    let path = folder.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(true);
    }
    let broken = |error: &dyn std::fmt::Display| Problem::failure(format!("{}: {error}", path.display()));
    let text = std::fs::read(&path).map_err(|error| broken(&error))?;
    let config: serde_json::Value = serde_json::from_slice(&text).map_err(|error| broken(&error))?;
    Ok(config["do_lower_case"].as_bool().unwrap_or(true))
}

/// `[rows, columns]`, double.
fn matrix(tensor: &Tensor) -> Vec<Vec<f64>> {
    let size = tensor.size();
    let mut flat = vec![0.0; tensor.numel()];
    let count = flat.len();
    tensor.to_device(Device::Cpu).contiguous().view([-1]).copy_data(&mut flat, count);
    flat.chunks(usize::try_from(size[1]).unwrap_or(1).max(1)).map(<[f64]>::to_vec).collect()
}

/// The index of the highest probability; the first of equals.
pub fn best(probabilities: &[f64]) -> Option<(usize, f64)> {
    probabilities.iter().copied().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cased_vocabulary_is_read_as_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(lowercase(folder.path()).is_ok_and(|lowercase| lowercase));
        for (text, expected) in [("{}", Some(true)), (r#"{"do_lower_case": false}"#, Some(false)), ("{", None)] {
            std::fs::write(folder.path().join("tokenizer_config.json"), text).unwrap();
            assert_eq!(lowercase(folder.path()).ok(), expected, "{text}");
        }
    }
}
