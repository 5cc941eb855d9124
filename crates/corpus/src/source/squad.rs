//! Questions and answers: SQuAD's own JSON, and the same as one JSON object a line.

use super::text_file::{Parsed, Spots, broken, finish, objects, utf8, wrong_json};
use super::{Columns, no_column};
use crate::corpus::faults::Faults;
use crate::{CorpusError, ErrorKind, Place, Spot};
use arrow::array::{ArrayRef, Int64Builder, LargeListBuilder, LargeStringArray, LargeStringBuilder, StructArray};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// SQuAD's file. Keys that nothing here needs are not looked at.
#[derive(Deserialize)]
struct File {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    #[serde(default)]
    title: String,
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default, deserialize_with = "id")]
    id: Option<Value>,
    question: String,
    #[serde(default)]
    answers: Vec<Answer>,
    /// SQuAD v2: the answers, if any, are only plausible ones.
    #[serde(default)]
    is_impossible: bool,
}

/// Text in SQuAD's own files, a whole number in some that have their form (COVID-QA).
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    struct Id;

    impl Visitor<'_> for Id {
        type Value = Option<Value>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text in quotes or a whole number")
        }

        fn visit_str<E>(self, id: &str) -> Result<Self::Value, E> {
            Ok(Some(Value::from(id)))
        }

        fn visit_u64<E>(self, id: u64) -> Result<Self::Value, E> {
            Ok(Some(Value::from(id)))
        }

        fn visit_i64<E>(self, id: i64) -> Result<Self::Value, E> {
            Ok(Some(Value::from(id)))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    deserializer.deserialize_any(Id)
}

fn shown(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}

#[derive(Deserialize)]
struct Answer {
    text: String,
    answer_start: i64,
}

/// Answers as a column: for each row `text` and `answer_start`, two lists.
#[derive(Default)]
struct Answers {
    texts: LargeListBuilder<LargeStringBuilder>,
    starts: LargeListBuilder<Int64Builder>,
}

impl Answers {
    fn push<'a>(&mut self, answers: impl Iterator<Item = (&'a str, i64)>) {
        for (text, start) in answers {
            self.texts.values().append_value(text);
            self.starts.values().append_value(start);
        }
        self.texts.append(true);
        self.starts.append(true);
    }

    fn finish(mut self) -> ArrayRef {
        let columns: [(&str, ArrayRef); 2] =
            [("text", Arc::new(self.texts.finish())), ("answer_start", Arc::new(self.starts.finish()))];
        Arc::new(StructArray::try_from(columns.to_vec()).expect("two lists of one length"))
    }
}

/// A question of SQuAD's file, to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SquadQuestion {
    /// Unique in the file, where it has ids: a text or a whole number.
    pub id: Option<Value>,
    /// What is asked.
    pub question: String,
    /// Shared by the questions about it.
    pub passage: Arc<str>,
}

/// All questions of a file of SQuAD's, whatever it says of their answers.
pub fn squad_questions(name: &str, bytes: &[u8]) -> Result<Vec<SquadQuestion>, CorpusError> {
    let mut questions = Vec::new();
    for paragraph in parse(name, bytes)?.data.into_iter().flat_map(|article| article.paragraphs) {
        let passage: Arc<str> = paragraph.context.into();
        questions.extend(paragraph.qas.into_iter().map(|asked| SquadQuestion {
            id: asked.id,
            question: asked.question,
            passage: passage.clone(),
        }));
    }
    Ok(questions)
}

fn parse(name: &str, bytes: &[u8]) -> Result<File, CorpusError> {
    const HELP: &str = "give SQuAD's JSON: {\"data\": [{\"title\", \"paragraphs\": [{\"context\", \"qas\": [{\"question\", \
                        \"answers\": [{\"text\", \"answer_start\"}]}]}]}]}";
    let text = utf8(name, bytes)?;
    if text.trim_start().starts_with('[') {
        let message = "the file is a list; SQuAD's JSON has it under {\"data\": [...]}";
        return Err(CorpusError::new(ErrorKind::Corrupt, name, message, HELP));
    }
    let file: File = serde_json::from_str(text).map_err(|error| {
        let (line, what) = wrong_json("file", text, &error);
        if error.is_eof() {
            return broken(name, line, what, "fetch or write it once more, and compare its size");
        }
        broken(name, line, format!("not SQuAD: {what}"), HELP)
    })?;
    refuse_same_ids(name, &file)?;
    Ok(file)
}

/// Refuses ids that two questions of a file have: answers and errors are told by it. Files that are read together may
/// share ids, since each error names its file and each answer is of one file.
fn refuse_same_ids(name: &str, file: &File) -> Result<(), CorpusError> {
    let mut known: HashMap<String, (&Asked, [usize; 3])> = HashMap::new();
    let mut faults = Faults::default();
    for (article, paragraphs) in file.data.iter().map(|it| &it.paragraphs).enumerate() {
        for (paragraph, questions) in paragraphs.iter().map(|it| &it.qas).enumerate() {
            for (number, asked) in questions.iter().enumerate() {
                let Some(id) = asked.id.as_ref().map(shown) else { continue };
                let here = (asked, [article, paragraph, number]);
                let Some(before) = known.insert(id.clone(), here) else { continue };
                let [before, here] = [before, here].map(|(asked, [article, paragraph, number])| {
                    format!("data[{article}].paragraphs[{paragraph}].qas[{number}] (`{}`)", asked.question)
                });
                let place = || Place { file: name.to_owned(), spot: Spot::Question(id.clone()) };
                let message = format!("two questions have this id, {before} and {here}");
                let help = "give each question an id of its own, or leave one of the two out";
                faults.push(place, (message, help.to_owned()));
            }
        }
    }
    faults.into_result()
}

/// SQuAD v1.1 and v2.0.
pub(super) fn squad(name: &str, bytes: &[u8], columns: &Columns) -> Result<Parsed, CorpusError> {
    if !columns.answers {
        return Err(CorpusError::new(
            ErrorKind::Type,
            name,
            "the file holds questions and answers, and this run learns something else",
            "set objective.kind = \"answer\", or give other files",
        ));
    }
    let file = parse(name, bytes)?;
    let (mut contexts, mut questions, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    let mut answers = Answers::default();
    let mut ids = Vec::new();
    for article in &file.data {
        for paragraph in &article.paragraphs {
            for asked in &paragraph.qas {
                contexts.push(paragraph.context.as_str());
                questions.push(asked.question.as_str());
                ids.push(asked.id.as_ref().map_or_else(|| format!("`{}`", asked.question), shown));
                groups.push(match columns.group.as_deref() {
                    Some("title") => article.title.as_str(),
                    Some("context") => paragraph.context.as_str(),
                    Some(other) => return Err(no_column(name, other, &["title", "context"])),
                    None => "",
                });
                let known = asked.answers.iter().filter(|_| !asked.is_impossible);
                answers.push(known.map(|answer| (answer.text.as_str(), answer.answer_start)));
            }
        }
    }
    let text = |values: Vec<&str>| Arc::new(LargeStringArray::from(values)) as ArrayRef;
    let mut arrays = vec![text(contexts), text(questions)];
    if columns.group.is_some() {
        arrays.push(text(groups));
    }
    arrays.push(answers.finish());
    Ok(finish(columns, arrays, Spots::Questions(ids)))
}

/// One JSON object a line: passage, question, and the answers as `{"text": […], "answer_start": […]}` (Hugging Face's
/// `datasets`) or as `[{"text": …, "answer_start": …}]`. No answers, an empty list or null: the question has none.
pub(super) fn lines(name: &str, bytes: &[u8], columns: &Columns) -> Result<Parsed, CorpusError> {
    let names: Vec<&str> = columns.names().collect();
    let (answers_name, text_names) = names.split_last().expect("a passage and answers");
    let mut texts: Vec<LargeStringBuilder> = text_names.iter().map(|_| LargeStringBuilder::new()).collect();
    let mut answers = Answers::default();
    // A line may leave the answers out, but not every line: then the name is wrong.
    let (mut seen, mut last_known) = (false, Vec::new());
    let mut lines = Vec::new();
    for object in objects(name, utf8(name, bytes)?) {
        let (number, object) = object?;
        lines.push(number);
        let known = || object.keys().map(String::as_str).collect::<Vec<_>>();
        for (column, builder) in text_names.iter().zip(&mut texts) {
            match object.get(*column) {
                Some(Value::String(text)) => builder.append_value(text),
                Some(Value::Null) => builder.append_null(),
                Some(other) => {
                    let message = format!("`{column}` is {other}; needed is text");
                    return Err(broken(name, number, message, "name another column, or write this one as text"));
                }
                None => return Err(no_column(Place::line(name, number), column, &known())),
            }
        }
        seen |= object.contains_key(*answers_name);
        if !seen {
            last_known = object.keys().cloned().collect();
        }
        let value = object.get(*answers_name).unwrap_or(&Value::Null);
        let read = read(value).ok_or_else(|| {
            let message = format!("`{answers_name}` is {value}");
            let help =
                "write the answers as {\"text\": […], \"answer_start\": […]}, each text with its first character";
            broken(name, number, message, help)
        })?;
        answers.push(read.into_iter());
    }
    if !seen && !last_known.is_empty() {
        return Err(no_column(name, answers_name, &last_known.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let mut arrays: Vec<ArrayRef> = texts.iter_mut().map(|texts| Arc::new(texts.finish()) as ArrayRef).collect();
    arrays.push(answers.finish());
    Ok(finish(columns, arrays, Spots::Lines(lines)))
}

fn read(value: &Value) -> Option<Vec<(&str, i64)>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(answers) => {
            let mut read = Vec::with_capacity(answers.len());
            for answer in answers {
                read.push((answer.get("text")?.as_str()?, answer.get("answer_start")?.as_i64()?));
            }
            Some(read)
        }
        Value::Object(lists) => {
            let (texts, starts) = (lists.get("text")?.as_array()?, lists.get("answer_start")?.as_array()?);
            if texts.len() != starts.len() {
                return None;
            }
            texts.iter().zip(starts).map(|(text, start)| Some((text.as_str()?, start.as_i64()?))).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_with_their_passage_and_without_answers() {
        let text = r#"{"version": "v2.0", "data": [{"paragraphs": [
            {"context": "The ship sailed.", "qas": [{"id": "a", "question": "What?", "answers": []}, {"question": "Who?"}]}
        ]}]}"#;
        let read = squad_questions("dev.json", text.as_bytes()).unwrap();
        let told: Vec<_> = read
            .iter()
            .map(|it| (it.id.as_ref().and_then(Value::as_str), it.question.as_str(), &*it.passage))
            .collect();
        assert_eq!(told, [(Some("a"), "What?", "The ship sailed."), (None, "Who?", "The ship sailed.")]);
        let error = squad_questions("dev.json", b"{\n\"data\": 1}").unwrap_err().to_string();
        assert!(error.contains("dev.json") && error.contains("not SQuAD"), "{error}");
    }
}
