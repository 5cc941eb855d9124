//! A model with its tokenizer, and what it makes of text.

use super::Text;
use crate::cli::Problem;
use crate::loaded::open_folder;
use config::Reading;
use corpus::{Batch, CorpusError, Labels, Tokenizer};
use model::{Head, Input, Missing, Model};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// What a model says of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A class for each text.
    Classes,
    /// A tag for each word.
    Tags,
    /// A number for each text.
    Numbers,
    /// How near the two texts of a pair are.
    Similarities,
    /// An answer to each question.
    Answers,
    /// The right one of each text's choices.
    Choices,
}

/// What was made of one text.
pub enum Prediction {
    /// The probability of each class, in the order of the labels.
    Class(Vec<f64>),
    /// For each word: the word, the index of its tag and the tag's probability. Words past the model's length have none.
    Tags(Vec<(String, Option<(usize, f64)>)>),
    /// What a regression gives.
    Number(f64),
    /// The cosine of a pair's vectors.
    Similarity(f64),
}

/// A fine-tuned model.
pub struct Predictor {
    model: Model,
    tokenizer: Tokenizer,
    task: Task,
    reading: Reading,
    device: Device,
    length: usize,
}

impl Predictor {
    /// From a folder with config.json, model.safetensors and tokenizer.json or vocab.txt. `reading` is that of the run;
    /// without one, what the folder says.
    pub fn open(
        folder: &Path,
        length: Option<usize>,
        reading: Option<&Reading>,
        device: Device,
    ) -> Result<Self, Problem> {
        let at = |error: &dyn std::fmt::Display| Problem::input(format!("{}: {error}", folder.display()));
        let (read, tokenizer) = open_folder(folder)?;
        let reading = reading.cloned().or(read.reading).unwrap_or_default();
        let task = task(&read.head).map_err(|(what, help)| match &reading.prompt {
            Some(prompt) => Problem::input(format!("the model labels texts by a prompt: {prompt}"))
                .with_help("`worker prompt` asks it: --checkpoint RUN, or --model FOLDER"),
            None => Problem::input(what).with_help(help),
        })?;
        let mut model = Model::new(&read.shape, read.head, 0, device).map_err(|error| at(&error))?;
        model.load_parameters(&read.tensors, Missing::Refuse).map_err(|error| at(&error))?;
        let positions = usize::try_from(model.shape().max_positions).unwrap_or(usize::MAX);
        let length = length.or(reading.sequence_length).unwrap_or(positions).min(positions);
        Ok(Self { model, tokenizer, task, reading, device, length })
    }

    /// What it says of texts.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The labels in the order of the model's outputs.
    pub fn labels(&self) -> &[String] {
        self.model.head().labels().unwrap_or_default()
    }

    /// How it was trained to read.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Tokens in a row at most.
    pub fn length(&self) -> usize {
        self.length
    }

    /// What belongs to it.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether each text is a pair, whatever is asked for.
    pub fn reads_pairs(&self) -> bool {
        self.reading.pairs || self.task == Task::Similarities
    }

    /// One prediction for each text, and whether some of the text was cut; all are pairs, or none is.
    ///
    /// # Panics
    /// If the model answers questions or chooses.
    pub fn predict(&self, texts: &[Text]) -> Result<(Vec<Prediction>, Vec<bool>), Problem> {
        if texts.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let predictions = match self.task {
            Task::Classes | Task::Numbers => self.classify(texts),
            Task::Tags => self.tag(texts),
            Task::Similarities => self.compare(texts),
            Task::Answers | Task::Choices => unreachable!("questions go another way"),
        };
        predictions.map_err(Problem::from)
    }

    /// `[rows, length, 2]`: the scores of an answer's first and last token.
    pub fn answer_scores(&self, batch: &Batch) -> Tensor {
        let input = self.input(batch);
        tch::no_grad(|| self.model.answer_logits(&self.model.encode(&input, false), false))
    }

    /// For each text the scores of its choices, and whether anything of it was cut.
    pub fn choice_scores(
        &self,
        texts: &[(&str, Option<&str>, Vec<&str>)],
    ) -> Result<Vec<(Vec<f64>, bool)>, CorpusError> {
        let (batch, cut) = corpus::choice_batch(&self.tokenizer, texts, self.length)?;
        let input = self.input(&batch);
        let logits = tch::no_grad(|| {
            let hidden = self.model.encode(&input, false);
            self.model.choice_logits(&hidden, input.mask.as_ref(), false).to_kind(Kind::Double)
        });
        let logits = matrix(&logits.unsqueeze(1)).concat();
        let mut rest = logits.as_slice();
        let scores = texts.iter().map(|(_, _, choices)| {
            let (own, after) = rest.split_at(choices.len());
            rest = after;
            own.to_vec()
        });
        Ok(scores.collect::<Vec<_>>().into_iter().zip(cut).collect())
    }

    fn classify(&self, texts: &[Text]) -> Result<(Vec<Prediction>, Vec<bool>), CorpusError> {
        let first: Vec<&str> = texts.iter().map(|text| text.first.as_str()).collect();
        let second: Option<Vec<&str>> = texts.iter().map(|text| text.second.as_deref()).collect();
        let (batch, cut) = corpus::text_batch(&self.tokenizer, &first, second.as_deref(), self.length)?;
        let input = self.input(&batch);
        let outputs = tch::no_grad(|| {
            let hidden = self.model.encode(&input, false);
            let logits = self.model.class_logits(&hidden, input.mask.as_ref(), false);
            if self.task == Task::Numbers { logits.to_kind(Kind::Double) } else { logits.softmax(-1, Kind::Double) }
        });
        let rows = matrix(&outputs).into_iter();
        let predictions = if self.task == Task::Numbers {
            rows.map(|row| Prediction::Number(row[0])).collect()
        } else {
            rows.map(Prediction::Class).collect()
        };
        Ok((predictions, cut))
    }

    /// Each text by itself, as in training.
    fn compare(&self, texts: &[Text]) -> Result<(Vec<Prediction>, Vec<bool>), CorpusError> {
        let pairs: Vec<(&str, &str)> =
            texts.iter().map(|text| (text.first.as_str(), text.second.as_deref().unwrap_or_default())).collect();
        let (batch, cut) = corpus::separate_batch(&self.tokenizer, &pairs, self.length)?;
        let input = self.input(&batch);
        let cosines = tch::no_grad(|| {
            let vectors = self.model.embeddings(&self.model.encode(&input, false), input.mask.as_ref());
            let pairs = vectors.view([texts.len() as i64, 2, -1]).to_kind(Kind::Double);
            (pairs.select(1, 0) * pairs.select(1, 1)).sum_dim_intlist(1, true, Kind::Double)
        });
        Ok((matrix(&cosines).into_iter().map(|row| Prediction::Similarity(row[0])).collect(), cut))
    }

    fn tag(&self, texts: &[Text]) -> Result<(Vec<Prediction>, Vec<bool>), CorpusError> {
        let sentences: Vec<Vec<&str>> = texts.iter().map(|text| text.first.split_whitespace().collect()).collect();
        let (batch, cut) = corpus::word_batch(&self.tokenizer, &sentences, self.length)?;
        let input = self.input(&batch);
        let probabilities = tch::no_grad(|| {
            let hidden = self.model.encode(&input, false);
            self.model.token_logits(&hidden, false).softmax(-1, Kind::Double)
        });
        let probabilities = matrix(&probabilities.reshape([-1, self.labels().len() as i64]));
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
        Ok((answers.collect(), cut))
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

/// What a model with this head is for here; else what is wrong, and what to do.
fn task(head: &Head) -> Result<Task, (&'static str, &'static str)> {
    match head {
        Head::SequenceClassifier { labels, .. } if labels.len() == 1 => Ok(Task::Numbers),
        Head::SequenceClassifier { .. } => Ok(Task::Classes),
        Head::TokenClassifier { .. } => Ok(Task::Tags),
        Head::QuestionAnswering => Ok(Task::Answers),
        Head::Embedder => Ok(Task::Similarities),
        Head::MultipleChoice { .. } => Ok(Task::Choices),
        _ => Err((
            "the model predicts no labels",
            "fine-tune it first (run.kind = \"finetune\"). As it is, `worker fill-mask` says which words are hidden, and \
             `worker embed` makes vectors of texts",
        )),
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
            Predictor::open(Path::new("/nope"), None, None, Device::Cpu).err().unwrap().into_text_and_help();
        assert!(message.contains("/nope/config.json"), "{message}");
        let help = help.unwrap();
        assert!(help.contains("checkpoints export") && help.contains("--checkpoint RUN"), "{help}");
    }

    #[test]
    fn a_model_with_a_prompt_is_sent_to_who_asks_it() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::MaskedLm);
        let reading = Reading { prompt: Some("{text} It was [MASK].".into()), ..Reading::default() };
        let refused = Predictor::open(folder.path(), None, Some(&reading), Device::Cpu).err().unwrap();
        let (message, help) = refused.into_text_and_help();
        assert!(message.contains("{text} It was [MASK].") && help.unwrap().contains("worker prompt"), "{message}");
    }

    #[test]
    fn a_model_of_no_task_is_refused_with_what_it_is_good_for() {
        for head in [Head::MaskedLm, Head::None] {
            let folder = tempfile::tempdir().unwrap();
            write_model(folder.path(), head);
            let refused = Predictor::open(folder.path(), None, None, Device::Cpu).err().unwrap();
            let (message, help) = refused.into_text_and_help();
            let help = help.unwrap();
            assert!(message.contains("predicts no labels"), "{message}");
            assert!(help.contains("worker embed") && help.contains("worker fill-mask"), "{help}");
        }
    }

    #[test]
    fn a_number_is_the_output_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let head = Head::SequenceClassifier { labels: vec!["score".into()], pooling: Pooling::Cls };
        let model = write_model(folder.path(), head);
        let predictor = Predictor::open(folder.path(), None, None, Device::Cpu).ok().unwrap();
        let texts = [text("the wind", None), text("the sea the ship", None)];
        let (predicted, _) = predictor.predict(&texts).ok().unwrap();
        let Prediction::Number(number) = predicted[0] else { panic!("no number") };
        let input = Input { ids: Tensor::from_slice(&[2i64, 5, 7, 3]).unsqueeze(0), segments: None, mask: None };
        let right = model.class_logits(&model.encode(&input, false), None, false).double_value(&[0, 0]);
        assert!((number - right).abs() < 1e-5, "{number} and not {right}");
    }

    #[test]
    fn a_pair_that_is_to_match_gets_its_cosine() {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path(), Head::Embedder);
        let predictor = Predictor::open(folder.path(), None, None, Device::Cpu).ok().unwrap();
        assert!(predictor.reads_pairs());
        let pairs = [text("the wind", Some("sea")), text("the sea", Some("the sea"))];
        let (predicted, _) = predictor.predict(&pairs).ok().unwrap();
        let vector = |ids: &[i64]| {
            let input = Input { ids: Tensor::from_slice(ids).unsqueeze(0), segments: None, mask: None };
            model.embeddings(&model.encode(&input, false), None)
        };
        let right = (vector(&[2, 5, 7, 3]) * vector(&[2, 6, 3])).sum(Kind::Double).double_value(&[]);
        for (prediction, right) in predicted.iter().zip([right, 1.0]) {
            let Prediction::Similarity(cosine) = prediction else { panic!("no cosine") };
            assert!((cosine - right).abs() < 1e-5, "{cosine} and not {right}");
        }
    }

    #[test]
    fn the_length_is_what_was_trained_with() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::TokenClassifier { labels: vec!["a".into(), "b".into()] });
        let path = folder.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[Reading::KEY] = serde_json::json!({ "sequence_length": 12 });
        std::fs::write(&path, config.to_string()).unwrap();
        let length = |given, reading: Option<&Reading>| {
            Predictor::open(folder.path(), given, reading, Device::Cpu).ok().unwrap().length()
        };
        let run = Reading { sequence_length: Some(10), ..Reading::default() };
        assert_eq!((length(None, None), length(None, Some(&run)), length(Some(99), Some(&run))), (12, 10, 16));
    }

    #[test]
    fn the_second_text_of_a_pair_is_in_segment_1() {
        let folder = tempfile::tempdir().unwrap();
        let head = Head::SequenceClassifier { labels: vec!["a".into(), "b".into()], pooling: Pooling::Cls };
        let model = write_model(folder.path(), head);
        let predictor = Predictor::open(folder.path(), None, None, Device::Cpu).ok().unwrap();
        let pairs = [text("the wind", Some("ships")), text("the sea", Some("the wind the ship"))];
        let Prediction::Class(predicted) = &predictor.predict(&pairs).ok().unwrap().0[0] else { panic!("no class") };
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
        let predictor = Predictor::open(folder.path(), Some(8), None, Device::Cpu).ok().unwrap();
        let texts = [text("ships \u{7} wind", None), text("the ship the ship the ship the", None)];
        let (predictions, cut) = predictor.predict(&texts).ok().unwrap();
        assert_eq!(cut, [false, true]);
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
