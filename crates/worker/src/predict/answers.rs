//! Questions with their passages, and their answers.

use super::model::Predictor;
use crate::cli::Problem;
use crate::source::{Line, TextArguments, read_text};
use clap::Args;
use config::{AnswerRule, AnswerWindows};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trainer::answers::{Answered, Candidate, Finder};

/// Candidates of a question among which probabilities are shared out, as in `run_squad.py`.
const CANDIDATES: usize = 20;

/// What a line of questions may look like.
const LINE_HELP: &str = "write `question <tab> passage`, or {\"question\": …, \"context\": …}, or name a file of SQuAD's JSON \
                         whose name ends in .json";

/// What only models that answer questions take.
#[derive(Debug, Args)]
pub struct AnswerArguments {
    /// A question about --passage; may be given again.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["text", "file"])]
    question: Vec<String>,
    /// Where the answers to --question are looked for.
    #[arg(long, value_name = "TEXT", requires = "question", conflicts_with = "passage_file")]
    passage: Option<String>,
    /// The same from a file.
    #[arg(long, value_name = "FILE", requires = "question")]
    passage_file: Option<PathBuf>,
    /// Answers told for each question, the best first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    top: Option<u32>,
    /// There is no answer where the score of none is greater than that of the best one by more than this; `inf`: there
    /// always is one. Default: as the run has it (objective.no_answer_threshold).
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = threshold)]
    no_answer_threshold: Option<f64>,
    /// Tokens from the beginning of one window of a long passage to that of the next. Default: the run's.
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Tokens of an answer at most. Default: the run's.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_answer_length: Option<usize>,
}

fn threshold(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| !value.is_nan()).ok_or_else(|| "write a number, or `inf`".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|value| *value > 0).ok_or_else(|| "write a whole number above 0".to_owned())
}

/// A question and where it is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// As the input has it.
    id: Option<Value>,
    pub(super) question: String,
    passage: Arc<str>,
}

/// Questions, or why there is no further one.
type Questions = Box<dyn Iterator<Item = Result<Asked, Problem>>>;

impl AnswerArguments {
    /// The first option that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let all = [
            ("--question", !self.question.is_empty()),
            ("--top", self.top.is_some()),
            ("--no-answer-threshold", self.no_answer_threshold.is_some()),
            ("--stride", self.stride.is_some()),
            ("--max-answer-length", self.max_answer_length.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }

    /// Of the arguments, else of a file of SQuAD, else of the lines.
    pub(super) fn questions(&self, texts: &TextArguments) -> Result<Questions, Problem> {
        if !self.question.is_empty() {
            let passage = self.read_passage()?;
            let asked = self.question.clone().into_iter().zip(1..).map(move |(question, number)| {
                checked(Asked { id: None, question, passage: passage.clone() }, &format!("--question {number}"))
            });
            return Ok(Box::new(asked));
        }
        if let Some(path) = texts.file.as_deref().filter(|path| path.extension().is_some_and(|it| it == "json")) {
            return squad(path);
        }
        Ok(Box::new(texts.lines()?.map(|line| parse(&line?))))
    }

    fn read_passage(&self) -> Result<Arc<str>, Problem> {
        match (&self.passage, &self.passage_file) {
            (Some(passage), _) => Ok(passage.as_str().into()),
            (None, Some(path)) => Ok(read_text(path)?.into()),
            (None, None) => Err(Problem::usage("--question needs --passage TEXT or --passage-file FILE")),
        }
    }

    /// Who answers `rows` windows in one forward pass.
    pub(super) fn answerer<'a>(&self, predictor: &'a Predictor, rows: usize) -> Result<Answerer<'a>, Problem> {
        let mut reading = predictor.reading().clone();
        reading.stride = self.stride.or(reading.stride);
        reading.max_answer_length = self.max_answer_length.or(reading.max_answer_length);
        reading.no_answer_threshold = self.no_answer_threshold.or(reading.no_answer_threshold);
        let windows = reading.windows(predictor.length()).map_err(|wrong| {
            Problem::usage(wrong).with_help("raise --max-length as far as the model goes, or give another --stride")
        })?;
        Ok(Answerer { predictor, windows, rule: reading.rule(), rows, top: self.top.unwrap_or(1) as usize })
    }
}

fn squad(path: &Path) -> Result<Questions, Problem> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| Problem::input(format!("{name} cannot be read: {error}")))?;
    let all = corpus::squad_questions(&name, &bytes)?;
    Ok(Box::new(all.into_iter().map(move |it| {
        let asked = Asked { id: it.id, question: it.question, passage: it.passage };
        checked(asked, &name)
    })))
}

fn parse(Line { text, number }: &Line) -> Result<Asked, Problem> {
    let at = format!("text {number}");
    let wrong = |what: String| Problem::input(format!("{at}: {what}")).with_help(LINE_HELP);
    if !text.trim_start().starts_with('{') {
        let (question, passage) =
            text.split_once('\t').ok_or_else(|| wrong(format!("`{text}` has no tab, and so no passage")))?;
        return checked(Asked { id: None, question: question.to_owned(), passage: passage.into() }, &at);
    }
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| wrong(format!("this is no JSON object: {error}")))?;
    let find = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| object.get(*key).map(|value| (*key, value)));
        let (key, value) = found.ok_or_else(|| {
            let known: Vec<&str> = object.keys().map(String::as_str).collect();
            wrong(format!("there is no `{}`, only: {}", keys[0], known.join(", ")))
        })?;
        value.as_str().map(str::to_owned).ok_or_else(|| wrong(format!("`{key}` is {value}, and must be text")))
    };
    let question = find(&["question"])?;
    let passage = find(&["context", "passage", "text"])?.into();
    checked(Asked { id: object.get("id").cloned(), question, passage }, &at)
}

fn checked(asked: Asked, at: &str) -> Result<Asked, Problem> {
    let empty = |what: &str| {
        let named = asked.id.as_ref().map(|id| format!(" (id {id})")).unwrap_or_default();
        Problem::input(format!("{at}{named}: the {what} is empty")).with_help(LINE_HELP)
    };
    if asked.question.trim().is_empty() {
        return Err(empty("question"));
    }
    if asked.passage.trim().is_empty() {
        return Err(empty("passage"));
    }
    Ok(asked)
}

/// Answers questions.
pub(super) struct Answerer<'a> {
    predictor: &'a Predictor,
    windows: AnswerWindows,
    rule: AnswerRule,
    /// In one forward pass.
    rows: usize,
    /// Answers told.
    top: usize,
}

impl Answerer<'_> {
    /// In the order of the questions.
    pub(super) fn answer(&self, asked: &[Asked]) -> Result<Vec<Answered>, Problem> {
        let questions: Vec<(&str, &str)> = asked.iter().map(|it| (it.question.as_str(), &*it.passage)).collect();
        let batches = corpus::question_batches(self.predictor.tokenizer(), &questions, self.windows, self.rows)?;
        let mut finder = Finder::new(self.rule, self.top.max(CANDIDATES));
        let mut answered = Vec::with_capacity(asked.len());
        for batch in &batches {
            answered.extend(finder.add(batch, &self.predictor.answer_scores(batch)));
        }
        answered.extend(finder.finish());
        assert_eq!(answered.len(), asked.len(), "each question has its windows");
        Ok(answered)
    }

    /// Tokens of a question that are read at most.
    pub(super) fn question_length(&self) -> usize {
        self.windows.question_length
    }

    /// Which of the questions are longer than that. Passages are read to their end, in windows.
    pub(super) fn cut(&self, asked: &[Asked]) -> Result<Vec<bool>, Problem> {
        let tokenizer = self.predictor.tokenizer();
        let is_cut = |it: &Asked| tokenizer.encode(&it.question).map(|tokens| tokens.len() > self.question_length());
        let cut: Result<Vec<bool>, corpus::CorpusError> = asked.iter().map(is_cut).collect();
        cut.map_err(Problem::from)
    }

    /// For people: one line, or with several answers one for each below the question.
    pub(super) fn plain(&self, asked: &Asked, answered: &Answered) -> String {
        let told = self.told(answered);
        let text = |candidate: &Candidate| match answered.text(candidate) {
            "" => "(no answer)".to_owned(),
            text => text.replace(['\n', '\t'], " "),
        };
        if self.top == 1 {
            let best = told.first();
            let (answer, probability) = best.map_or(("(no answer)".to_owned(), 1.0), |it| (text(it), it.probability));
            return format!("{answer}\t{probability:.4}\t{}", asked.question);
        }
        let lines = told.iter().map(|it| format!("\n  {:.4}  {}", it.probability, text(it)));
        format!("{}{}", asked.question, lines.collect::<String>())
    }

    /// One object. `cut`: some of the question did not fit.
    pub(super) fn json(&self, asked: &Asked, answered: &Answered, cut: bool) -> Value {
        let told = self.told(answered);
        let object = |key: &str, candidate: &Candidate| {
            let (start, end) = characters(answered, candidate).unzip();
            json!({
                key: answered.text(candidate), "start": start, "end": end,
                "score": candidate.score, "probability": candidate.probability,
            })
        };
        let mut line = match told.first() {
            Some(best) => object("answer", best),
            None => json!({ "answer": "", "start": null, "end": null, "score": null, "probability": null }),
        };
        (line["question"], line["cut"]) = (json!(asked.question), json!(cut));
        if let Some(id) = &asked.id {
            line["id"] = id.clone();
        }
        if self.top > 1 {
            line["answers"] = told.iter().map(|candidate| object("text", candidate)).collect();
        }
        line
    }

    /// The answer first: that there is none where the threshold says so, whatever has the highest score.
    fn told<'b>(&self, answered: &'b Answered) -> Vec<&'b Candidate> {
        let is_none = |candidate: &Candidate| candidate.start == candidate.end;
        let is_answer = |candidate: &&Candidate| is_none(candidate) == answered.none;
        let mut told: Vec<&Candidate> = answered.candidates.iter().collect();
        if let Some(place) = told.iter().position(is_answer) {
            told[..=place].rotate_right(1);
        }
        told.truncate(self.top);
        told
    }
}

/// First character of the passage and the one behind the last; None: no answer.
fn characters(answered: &Answered, candidate: &Candidate) -> Option<(usize, usize)> {
    let text = answered.text(candidate);
    if text.is_empty() {
        return None;
    }
    let passage = &answered.example.passage;
    let part = &passage[candidate.start..candidate.end];
    let before = candidate.start + (part.len() - part.trim_start().len());
    let start = passage[..before].chars().count();
    Some((start, start + text.chars().count()))
}

/// Questions, and options that nobody gave, for the tests of what prints answers.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::loaded::tests::write_model;
    use config::Reading;
    use corpus::Example;
    use model::{Head, Input};
    use tch::{Device, Tensor};

    pub(in crate::predict) fn asked(question: &str, passage: &str) -> Asked {
        Asked { id: None, question: question.into(), passage: passage.into() }
    }

    pub(in crate::predict) fn options() -> AnswerArguments {
        AnswerArguments {
            question: Vec::new(),
            passage: None,
            passage_file: None,
            top: None,
            no_answer_threshold: None,
            stride: None,
            max_answer_length: None,
        }
    }

    #[test]
    fn lines_are_objects_or_have_a_tab() {
        let line = |text: &str| parse(&Line { text: text.to_owned(), number: 3 });
        assert_eq!(line("who?\tthe ship").ok(), Some(asked("who?", "the ship")));
        let full = line(r#"{"id": 7, "question": "who?", "context": "the ship", "answers": []}"#).ok().unwrap();
        assert_eq!((full.id, full.question.as_str(), &*full.passage), (Some(json!(7)), "who?", "the ship"));
        for (text, says) in [
            ("who?", "no tab"),
            ("who?\t ", "the passage is empty"),
            (r#"{"question": "who?"}"#, "there is no `context`, only: question"),
            (r#"{"question": 1, "context": "a"}"#, "`question` is 1"),
            ("{", "no JSON object"),
        ] {
            let (message, help) = line(text).err().unwrap().into_text_and_help();
            assert!(message.contains("text 3") && message.contains(says) && help.is_some(), "{text}: {message}");
        }
    }

    #[test]
    fn the_answer_is_the_best_span_over_all_windows() {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path(), Head::QuestionAnswering);
        let predictor = Predictor::open(folder.path(), None, None, Device::Cpu).ok().unwrap();
        let passage = "the ships the sea wind the sea the ship wind sea ships wind";
        let all = [asked("the wind", passage), asked("the sea", "Ünd wind")];
        let arguments = AnswerArguments { top: Some(5), max_answer_length: Some(2), stride: Some(4), ..options() };
        let answers = |rows| arguments.answerer(&predictor, rows).ok().unwrap().answer(&all).ok().unwrap();
        let found = answers(3);
        // By hand: [CLS] the wind [SEP] and 11 of the passage's tokens [SEP], each window on its own.
        let tokens = [5i64, 8, 9, 5, 6, 7, 5, 6, 5, 8, 7, 6, 8, 9, 7];
        let mut best = f64::NEG_INFINITY;
        for window in [&tokens[..11], &tokens[4..]] {
            let ids = [&[2, 5, 7, 3], window, &[3]].concat();
            let segments: Vec<i64> = (0..ids.len()).map(|at| i64::from(at > 3)).collect();
            let row = |values: &[i64]| Tensor::from_slice(values).unsqueeze(0);
            let input = Input { ids: row(&ids), segments: Some(row(&segments)), mask: None };
            let scores = model.answer_logits(&model.encode(&input, false), false);
            for start in 4..4 + window.len() {
                for end in start..(start + 2).min(4 + window.len()) {
                    let of = |at: usize, which: i64| scores.double_value(&[0, at as i64, which]);
                    best = best.max(of(start, 0) + of(end, 1));
                }
            }
        }
        let score = found[0].best().unwrap().score;
        assert!((score - best).abs() < 1e-4, "{score} and not {best}");
        for (one, other) in found.iter().zip(answers(32)) {
            assert_eq!(one.answer(), other.answer());
        }
        let told = arguments.answerer(&predictor, 3).ok().unwrap().json(&all[0], &found[0], false);
        assert_eq!(told["answers"].as_array().map(Vec::len), Some(5));
        let (start, end) = (told["start"].as_u64().unwrap() as usize, told["end"].as_u64().unwrap() as usize);
        assert_eq!(told["answer"], json!(passage[start..end]));
        let shares: f64 = found[0].candidates.iter().map(|candidate| candidate.probability).sum();
        assert!((shares - 1.0).abs() < 1e-9 && found[0].candidates.len() > 5);
    }

    #[test]
    fn the_threshold_is_the_run_s_or_the_given_one() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::QuestionAnswering);
        let open = |no_answer_threshold| {
            let reading = Reading { no_answer_threshold, ..Reading::default() };
            Predictor::open(folder.path(), None, Some(&reading), Device::Cpu).ok().unwrap()
        };
        let one = [asked("the wind", "the sea the ship")];
        let told = |predictor: &Predictor, given: Option<f64>| {
            let arguments = AnswerArguments { no_answer_threshold: given, ..options() };
            let answerer = arguments.answerer(predictor, 4).ok().unwrap();
            let answered = answerer.answer(&one).ok().unwrap();
            (answerer.json(&one[0], &answered[0], false), answerer.plain(&one[0], &answered[0]))
        };
        let never = open(None);
        assert!(told(&never, None).0["start"].is_u64());
        let (line, plain) = told(&never, Some(-1e6));
        assert_eq!((&line["answer"], &line["start"]), (&json!(""), &Value::Null));
        assert!(plain.starts_with("(no answer)\t"), "{plain}");
        let always = open(Some(-1e6));
        assert_eq!(told(&always, None).0["answer"], "");
        assert!(told(&always, Some(f64::INFINITY)).0["start"].is_u64());
    }

    #[test]
    fn offsets_are_characters() {
        let passage = "Über Köln  fließt".to_owned();
        let example = Arc::new(Example { passage, offsets: Vec::new(), answers: Vec::new() });
        let candidate = Candidate { start: 5, end: 12, score: 1.0, probability: 1.0 };
        let answered = Answered { example, none: false, candidates: vec![candidate.clone()] };
        assert_eq!((answered.text(&candidate), characters(&answered, &candidate)), ("Köln", Some((5, 9))));
    }

    #[test]
    fn a_sequence_without_room_for_a_passage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::QuestionAnswering);
        let reading = Reading { max_question_length: Some(13), ..Reading::default() };
        let predictor = Predictor::open(folder.path(), None, Some(&reading), Device::Cpu).ok().unwrap();
        let (message, help) = options().answerer(&predictor, 1).err().unwrap().into_text_and_help();
        assert!(message.contains("16 tokens have no room") && help.unwrap().contains("--max-length"), "{message}");
    }
}
