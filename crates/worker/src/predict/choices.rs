//! Texts with choices, and which of them is right.

use super::model::{Predictor, best};
use crate::cli::Problem;
use crate::source::Line;
use clap::Args;
use serde_json::{Map, Value, json};

/// What a line may look like.
const LINE_HELP: &str = "write `text <tab> choice <tab> choice`, with a question behind the text where the model was trained \
                         with one, or {\"text\": …, \"question\": …, \"choices\": [\"…\", \"…\"]}";

/// What only models of multiple choice take.
#[derive(Debug, Args)]
pub struct ChoiceArguments {
    /// A choice, the same for all texts; given twice or more.
    #[arg(long, value_name = "TEXT")]
    choice: Vec<String>,
}

/// A text, perhaps a question, and choices.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Posed {
    /// As the input has it.
    id: Option<Value>,
    text: String,
    question: Option<String>,
    choices: Vec<String>,
    /// What the choices are called, where the input says it.
    labels: Option<Vec<Value>>,
}

/// What is made of a text's choices, in their order.
pub(super) struct Chosen {
    scores: Vec<f64>,
    probabilities: Vec<f64>,
    /// Some of it did not fit.
    pub(super) cut: bool,
}

impl ChoiceArguments {
    /// Whether there are any.
    pub(super) fn are_given(&self) -> bool {
        !self.choice.is_empty()
    }

    /// What a line asks; `asked`: there is a question.
    pub(super) fn posed(&self, line: &Line, asked: bool) -> Result<Posed, Problem> {
        let Line { text, number } = line;
        let wrong = |what: String| Problem::input(format!("text {number}: {what}")).with_help(LINE_HELP);
        let posed = if text.trim_start().starts_with('{') {
            self.parse(text).map_err(wrong)?
        } else {
            let mut parts = text.split('\t').map(str::to_owned);
            let text = parts.next().unwrap_or_default();
            let question = if asked { parts.next() } else { None };
            let mut choices: Vec<String> = parts.collect();
            if self.are_given() && !choices.is_empty() {
                return Err(wrong("there are choices behind a tab, and --choice too".to_owned()));
            }
            choices.extend_from_slice(&self.choice);
            Posed { text, question, choices, ..Posed::default() }
        };
        if asked && posed.question.is_none() {
            return Err(wrong("there is no question, and the model was trained with one".to_owned()));
        }
        let texts: Vec<&str> = posed.choices.iter().map(String::as_str).collect();
        corpus::check_choices(&texts).map_err(|(what, help)| wrong(format!("{what}: {help}")))?;
        Ok(posed)
    }

    fn parse(&self, text: &str) -> Result<Posed, String> {
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("this is no JSON object: {error}"))?;
        let find = |keys: &[&str]| keys.iter().find_map(|key| object.get(*key).map(|value| ((*key).to_owned(), value)));
        let missing = |key: &str| {
            let known: Vec<&str> = object.keys().map(String::as_str).collect();
            format!("there is no `{key}`, only: {}", known.join(", "))
        };
        let string = |(key, value): (String, &Value)| {
            value.as_str().map(str::to_owned).ok_or_else(|| format!("`{key}` is {value}, and must be text"))
        };
        let text = string(find(&["text", "context", "passage"]).ok_or_else(|| missing("text"))?)?;
        let question = find(&["question"]).filter(|(_, value)| !value.is_null()).map(string).transpose()?;
        let (mut choices, mut labels) = (self.choice.clone(), None);
        match find(&["choices", "options", "endings"]) {
            None if self.are_given() => {}
            None => return Err(missing("choices")),
            Some((key, _)) if self.are_given() => return Err(format!("there are `{key}`, and --choice too")),
            Some((key, value)) => {
                let (list, named) = match value {
                    Value::Object(lists) => (lists.get("text"), lists.get("label")),
                    list => (Some(list), None),
                };
                let texts = list.and_then(Value::as_array).map(|list| list.iter().map(corpus::scalar));
                let texts = texts.and_then(Iterator::collect::<Option<Vec<_>>>);
                choices = texts.ok_or_else(|| format!("`{key}` is {value}, and must be a list of texts"))?;
                labels = named.and_then(Value::as_array).cloned();
                if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != choices.len()) {
                    return Err(format!("{} texts and {} labels of choices", choices.len(), labels.len()));
                }
            }
        }
        Ok(Posed { id: object.get("id").cloned(), text, question, choices, labels })
    }
}

impl Posed {
    /// For people: one line.
    pub(super) fn plain(&self, chosen: &Chosen) -> String {
        let (number, probability) = best(&chosen.probabilities).unwrap_or_default();
        let flat = |text: &str| text.replace(['\n', '\t'], " ");
        let question = self.question.iter().map(|question| format!("\t{}", flat(question))).collect::<String>();
        format!("{}\t{probability:.4}\t{}{question}", flat(&self.choices[number]), flat(&self.text))
    }

    /// One object.
    pub(super) fn json(&self, chosen: &Chosen) -> Value {
        let (number, probability) = best(&chosen.probabilities).unwrap_or_default();
        let scored = self.choices.iter().zip(chosen.scores.iter().zip(&chosen.probabilities));
        let scored = scored
            .map(|(text, (score, probability))| json!({ "text": text, "score": score, "probability": probability }));
        let mut line = json!({
            "text": self.text, "choice": self.choices[number], "number": number, "probability": probability,
            "choices": scored.collect::<Vec<_>>(), "cut": chosen.cut,
        });
        if let Some(question) = &self.question {
            line["question"] = json!(question);
        }
        if let Some(labels) = &self.labels {
            line["label"] = labels[number].clone();
        }
        if let Some(id) = &self.id {
            line["id"] = id.clone();
        }
        line
    }
}

/// In the order of what is posed. `rows` choices go into one forward pass, or those of one text.
pub(super) fn choose(predictor: &Predictor, posed: &[Posed], rows: usize) -> Result<Vec<Chosen>, Problem> {
    let mut chosen = Vec::with_capacity(posed.len());
    let mut rest = posed;
    while !rest.is_empty() {
        let mut used = 0;
        let fit = rest.iter().take_while(|it| {
            used += it.choices.len();
            used <= rows
        });
        let (now, later) = rest.split_at(fit.count().max(1));
        let texts: Vec<(&str, Option<&str>, Vec<&str>)> = now
            .iter()
            .map(|it| (it.text.as_str(), it.question.as_deref(), it.choices.iter().map(String::as_str).collect()))
            .collect();
        let scored = predictor.choice_scores(&texts)?;
        chosen.extend(scored.into_iter().map(|(scores, cut)| {
            let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
            let all: f64 = weights.iter().sum();
            Chosen { scores, probabilities: weights.iter().map(|weight| weight / all).collect(), cut }
        }));
        rest = later;
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reference::stands_in_the_contract;
    use crate::loaded::tests::write_model;
    use config::Pooling;
    use model::{Head, Input};
    use tch::{Device, Kind, Tensor};

    fn parse(given: &[&str], asked: bool, text: &str) -> Result<Posed, Problem> {
        let choice = given.iter().map(|choice| (*choice).to_owned()).collect();
        ChoiceArguments { choice }.posed(&Line { text: text.to_owned(), number: 3 }, asked)
    }

    fn posed(text: &str, question: Option<&str>, choices: &[&str]) -> Posed {
        let choices = choices.iter().map(|choice| (*choice).to_owned()).collect();
        Posed { text: text.into(), question: question.map(str::to_owned), choices, ..Posed::default() }
    }

    #[test]
    fn lines_are_objects_or_have_tabs() {
        let two = ["sea", "ship"];
        assert_eq!(parse(&[], false, "the wind\tsea\tship").ok(), Some(posed("the wind", None, &two)));
        assert_eq!(parse(&[], true, "the wind\twho?\tsea\tship").ok(), Some(posed("the wind", Some("who?"), &two)));
        assert_eq!(parse(&two, true, "the wind\twho?").ok(), Some(posed("the wind", Some("who?"), &two)));
        let object = r#"{"id": 7, "context": "the wind", "question": "who?", "choices": {"text": ["sea", "ship"], "label": ["A", "B"]}}"#;
        let full = parse(&[], true, object).ok().unwrap();
        assert_eq!((full.id, full.labels), (Some(json!(7)), Some(vec![json!("A"), json!("B")])));
        assert_eq!((full.question.as_deref(), full.choices), (Some("who?"), two.map(str::to_owned).to_vec()));
        let numbers = parse(&[], false, r#"{"text": "2+2", "choices": [3, 4]}"#).ok();
        assert_eq!(numbers, Some(posed("2+2", None, &["3", "4"])), "as in training");
        for (given, asked, text, says) in [
            (&[][..], false, "the wind", "0 choice(s)"),
            (&[], false, "the wind\tsea", "1 choice(s)"),
            (&[], false, "the wind\tsea\tsea", "choices A and B are the same"),
            (&[], true, "the wind", "no question"),
            (&["a", "b"], false, "the wind\tsea\tship", "--choice too"),
            (&["a", "b"], false, r#"{"text": "a", "choices": ["x", "y"]}"#, "there are `choices`, and --choice too"),
            (&[], false, r#"{"text": "a"}"#, "there is no `choices`, only: text"),
            (&[], false, r#"{"choices": ["x", "y"]}"#, "there is no `text`, only: choices"),
            (&[], false, r#"{"text": "a", "choices": "x"}"#, "`choices` is \"x\", and must be a list of texts"),
            (&[], true, r#"{"text": "a", "choices": ["x", "y"]}"#, "no question"),
            (&[], false, r#"{"text": "a", "choices": {"text": ["x", "y"], "label": ["A"]}}"#, "2 texts and 1 labels"),
            (&[], false, "{", "no JSON object"),
        ] {
            let (message, help) = parse(given, asked, text).err().unwrap().into_text_and_help();
            assert!(message.contains("text 3") && message.contains(says) && help.is_some(), "{text}: {message}");
        }
    }

    #[test]
    fn each_choice_gets_what_it_gets_alone() {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path(), Head::MultipleChoice { pooling: Pooling::Cls });
        let predictor = Predictor::open(folder.path(), None, None, Device::Cpu).ok().unwrap();
        let all = [
            posed("the wind", Some("the sea"), &["ships", "wind the sea"]),
            posed("the ship", None, &["sea", "wind", "the the"]),
        ];
        // [CLS] the wind [SEP] the sea ship ##s [SEP]
        let alone = |first: &[i64], second: &[i64]| {
            let ids = [&[2], first, &[3], second, &[3]].concat();
            let segments: Vec<i64> = (0..ids.len()).map(|at| i64::from(at > first.len() + 1)).collect();
            let row = |values: &[i64]| Tensor::from_slice(values).unsqueeze(0);
            let input = Input { ids: row(&ids), segments: Some(row(&segments)), mask: None };
            model.choice_logits(&model.encode(&input, false), None, false).double_value(&[0])
        };
        let expected = [
            vec![alone(&[5, 7], &[5, 6, 8, 9]), alone(&[5, 7], &[5, 6, 7, 5, 6])],
            vec![alone(&[5, 8], &[6]), alone(&[5, 8], &[7]), alone(&[5, 8], &[5, 5])],
        ];
        for rows in [1, 5, 32] {
            let chosen = choose(&predictor, &all, rows).ok().unwrap();
            for (chosen, expected) in chosen.iter().zip(&expected) {
                let off =
                    chosen.scores.iter().zip(expected).map(|(got, right)| (got - right).abs()).fold(0.0, f64::max);
                assert!(off < 1e-5 && chosen.scores.len() == expected.len() && !chosen.cut, "{rows}: {off}");
                let softmax = Tensor::from_slice(expected).softmax(-1, Kind::Double);
                let off = (Tensor::from_slice(&chosen.probabilities) - softmax).abs().max().double_value(&[]);
                assert!(off < 1e-5, "{off}");
            }
            let line = all[1].json(&chosen[1]);
            let number = line["number"].as_u64().unwrap() as usize;
            assert_eq!(line["choice"], json!(["sea", "wind", "the the"][number]));
            assert!(expected[1].iter().all(|other| *other <= expected[1][number] + 1e-9));
            assert_eq!((line["choices"][0]["text"].as_str(), line.get("cut")), (Some("sea"), Some(&json!(false))));
            assert!(all[1].plain(&chosen[1]).ends_with("\tthe ship") && line.get("question").is_none());
            assert!(all[0].plain(&chosen[0]).ends_with("\tthe wind\tthe sea"));
        }
        let labels = Some(vec![json!("A"), json!("B")]);
        let whole = Posed { id: Some(json!(7)), labels, ..all[0].clone() };
        let line = whole.json(&choose(&predictor, &all[..1], 9).ok().unwrap()[0]);
        assert_eq!(line.as_object().map(Map::len), Some(9));
        stands_in_the_contract("worker predict --json", "Of a model of multiple choice:", &line);
        let long = [posed("the wind the sea the ship the wind the sea the ship the sea", None, &["sea", "ship"])];
        assert_eq!(long[0].json(&choose(&predictor, &long, 9).ok().unwrap()[0])["cut"], json!(true));
    }
}
