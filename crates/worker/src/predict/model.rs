//! A model with its tokenizer, and what it makes of text.

use super::Text;
use crate::cli::Problem;
use crate::loaded::open_folder;
use corpus::{Batch, CorpusError, Labels, Tokenizer};
use model::{Head, Input, Missing, Model};
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
        let (read, tokenizer) = open_folder(folder)?;
        let no_labels = |what: &str| at(&format!("the model {what}, and only classes and tags are predicted here"));
        let labels = match read.head.labels() {
            // One output is a number, whose probability among all outputs would always be 1.
            Some([_]) => return Err(no_labels("gives a number (objective.regression)")),
            Some(labels) => labels.to_vec(),
            None if read.head == Head::QuestionAnswering => return Err(no_labels("finds answers in passages")),
            None if read.head == Head::Embedder => {
                return Err(no_labels("makes vectors of texts").with_help("`worker embed` writes these"));
            }
            None => {
                return Err(at(&"the model predicts no labels; fine-tune it first (run.kind = \"finetune\")"));
            }
        };
        let mut model = Model::new(&read.shape, read.head, 0, device).map_err(|error| at(&error))?;
        model.load_parameters(&read.tensors, Missing::Refuse).map_err(|error| at(&error))?;
        let positions = usize::try_from(model.shape().max_positions).unwrap_or(usize::MAX);
        let length = length.unwrap_or(positions).min(positions);
        Ok(Self { model, tokenizer, labels, device, length })
    }

    /// The labels in the order of the model's outputs.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Whether a text as a whole gets a label, not each of its words.
    pub fn classifies(&self) -> bool {
        matches!(self.model.head(), Head::SequenceClassifier { .. })
    }

    /// One prediction for each text; all are pairs, or none is.
    pub fn predict(&self, texts: &[Text]) -> Result<Vec<Prediction>, Problem> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let predictions = if self.classifies() { self.classify(texts) } else { self.tag(texts) };
        predictions.map_err(|error| Problem::failure(error.to_string()))
    }

    fn classify(&self, texts: &[Text]) -> Result<Vec<Prediction>, CorpusError> {
        let first: Vec<&str> = texts.iter().map(|text| text.first.as_str()).collect();
        let second: Option<Vec<&str>> = texts.iter().map(|text| text.second.as_deref()).collect();
        let batch = corpus::text_batch(&self.tokenizer, &first, second.as_deref(), self.length)?;
        let input = self.input(&batch);
        let probabilities = tch::no_grad(|| {
            let hidden = self.model.encode(&input, false);
            let logits = self.model.class_logits(&hidden, input.mask.as_ref(), false);
            logits.softmax(-1, Kind::Double)
        });
        Ok(matrix(&probabilities).into_iter().map(Prediction::Class).collect())
    }

    fn tag(&self, texts: &[Text]) -> Result<Vec<Prediction>, CorpusError> {
        let sentences: Vec<Vec<&str>> = texts.iter().map(|text| text.first.split_whitespace().collect()).collect();
        let batch = corpus::word_batch(&self.tokenizer, &sentences, self.length)?;
        let input = self.input(&batch);
        let probabilities = tch::no_grad(|| {
            let hidden = self.model.encode(&input, false);
            self.model.token_logits(&hidden, false).softmax(-1, Kind::Double)
        });
        let probabilities = matrix(&probabilities.reshape([-1, self.labels.len() as i64]));
        let Labels::Tags(numbers) = &batch.labels else { unreachable!("a batch of words has tags") };
        let width = batch.sequence_length;
        let answers = sentences.iter().zip(numbers.chunks(width).zip(probabilities.chunks(width)));
        let answers = answers.map(|(words, (numbers, probabilities))| {
            let mut tags: Vec<_> = words.iter().map(|word| ((*word).to_owned(), None)).collect();
            for (number, probabilities) in numbers.iter().zip(probabilities) {
                // Not a word's first piece: IGNORED, which is negative.
                if let Some((_, tag)) = usize::try_from(*number).ok().and_then(|number| tags.get_mut(number)) {
                    *tag = best(probabilities);
                }
            }
            Prediction::Tags(tags)
        });
        Ok(answers.collect())
    }

    fn input(&self, batch: &Batch) -> Input {
        let size = [batch.samples as i64, batch.sequence_length as i64];
        let tensor = |values: &[i64]| Tensor::from_slice(values).reshape(size).to_device(self.device);
        Input {
            ids: tensor(&batch.ids),
            segments: batch.segment_ids.as_deref().map(tensor),
            mask: batch.mask.as_ref().map(|mask| Tensor::from_slice(mask).reshape(size).to_device(self.device)),
        }
    }
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
    use crate::loaded::tests::write_model;
    use config::Pooling;

    fn text(first: &str, second: Option<&str>) -> Text {
        Text { first: first.into(), second: second.map(str::to_owned) }
    }

    #[test]
    fn a_folder_that_is_not_there_comes_with_what_to_do() {
        let (message, help) =
            Predictor::open(Path::new("/nope"), None, Device::Cpu).err().unwrap().into_text_and_help();
        assert!(message.contains("/nope/config.json"), "{message}");
        let help = help.unwrap();
        assert!(help.contains("checkpoints export") && help.contains("--checkpoint RUN"), "{help}");
    }

    #[test]
    fn what_is_no_class_is_refused() {
        let number = Head::SequenceClassifier { labels: vec!["score".into()], pooling: Pooling::Cls };
        for (head, what) in [
            (number, "gives a number"),
            (Head::QuestionAnswering, "finds answers in passages"),
            (Head::Embedder, "makes vectors of texts"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            write_model(folder.path(), head);
            let refused = Predictor::open(folder.path(), None, Device::Cpu).err();
            let (message, _) = refused.unwrap_or_else(|| panic!("{what}: accepted")).into_text_and_help();
            assert!(message.contains(what), "{message}");
        }
    }

    #[test]
    fn the_second_text_of_a_pair_is_in_segment_1() {
        let folder = tempfile::tempdir().unwrap();
        let head = Head::SequenceClassifier { labels: vec!["a".into(), "b".into()], pooling: Pooling::Cls };
        let model = write_model(folder.path(), head);
        let predictor = Predictor::open(folder.path(), None, Device::Cpu).ok().unwrap();
        let pairs = [text("the wind", Some("ships")), text("the sea", Some("the wind the ship"))];
        let Prediction::Class(predicted) = &predictor.predict(&pairs).ok().unwrap()[0] else { panic!("no class") };
        // [CLS] the wind [SEP] ship ##s [SEP], padded by one beside the longer pair.
        let expected = |segments: &[i64]| {
            let input = Input {
                ids: Tensor::from_slice(&[2i64, 5, 7, 3, 8, 9, 3]).unsqueeze(0),
                segments: Some(Tensor::from_slice(segments).unsqueeze(0)),
                mask: None,
            };
            let logits = model.class_logits(&model.encode(&input, false), None, false);
            matrix(&logits.detach().softmax(-1, Kind::Double)).remove(0)
        };
        let off = |other: &[f64]| (predicted[0] - other[0]).abs();
        assert!(off(&expected(&[0, 0, 0, 0, 1, 1, 1])) < 1e-5, "{predicted:?}");
        assert!(off(&expected(&[0; 7])) > 1e-3, "the segments make no difference here: {predicted:?}");
    }

    #[test]
    fn every_word_has_its_tag_and_those_that_do_not_fit_have_none() {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path(), Head::TokenClassifier { labels: vec!["a".into(), "b".into()] });
        let predictor = Predictor::open(folder.path(), Some(8), Device::Cpu).ok().unwrap();
        let texts = [text("ships \u{7} wind", None), text("the ship the ship the ship the", None)];
        let predictions = predictor.predict(&texts).ok().unwrap();
        let Prediction::Tags(tags) = &predictions[0] else { panic!("no tags") };
        // ship ##s, nothing that the tokenizer keeps, wind.
        let input = Input { ids: Tensor::from_slice(&[2i64, 8, 9, 1, 7, 3]).unsqueeze(0), segments: None, mask: None };
        let logits = model.token_logits(&model.encode(&input, false), false).detach().squeeze_dim(0);
        let expected = matrix(&logits.softmax(-1, Kind::Double));
        let words: Vec<&str> = tags.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, ["ships", "\u{7}", "wind"]);
        for ((word, tag), place) in tags.iter().zip([1, 3, 4]) {
            let ((tag, score), (right, sure)) = (tag.unwrap(), best(&expected[place]).unwrap());
            assert!(tag == right && (score - sure).abs() < 1e-5, "{word}: {score} and not {sure}");
        }
        let Prediction::Tags(tags) = &predictions[1] else { panic!("no tags") };
        assert_eq!(tags.iter().filter(|(_, tag)| tag.is_some()).count(), 6);
        assert_eq!((tags.len(), tags[6].1), (7, None));
    }
}
