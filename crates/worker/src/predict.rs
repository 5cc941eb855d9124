//! `worker predict`: what a fine-tuned model says of texts, from a run's checkpoint or a Hugging Face folder.

mod answers;
mod choices;
mod model;
mod output;

use crate::cli::Problem;
use crate::source::{self, Line, ModelArguments, TextArguments};
use answers::AnswerArguments;
use choices::ChoiceArguments;
use clap::Args;
use model::{Predictor, Task};
use output::Printer;
use std::process::ExitCode;

/// `worker predict`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker predict --checkpoint sentiment --text \"a fine film\"
  worker predict --checkpoint tagger@500 --file sentences.txt --json
  worker predict --model exported/ < sentences.txt
  worker predict --model exported/ --pairs --file questions-and-answers.tsv
  worker predict --checkpoint answers --question \"Who sailed?\" --passage-file story.txt --top 3
  worker predict --checkpoint answers --file dev-v2.0.json --json
  worker predict --checkpoint chooser --text \"The kettle boils.\" --choice \"She makes tea.\" --choice \"It snows.\"
  worker predict --checkpoint chooser --file questions.jsonl --json

One text a line. A classifier answers `label <tab> probability <tab> text`, a tagger `word/tag word/tag …`, a model that
gives numbers `number <tab> text`. A model that was trained on pairs (data.pair_column) reads two texts a line, with a tab
between them; one that was trained to match them gives their cosine, `similarity <tab> first <tab> second`. Of a text
longer than --max-length the end is not read: as JSON its `cut` is true, and a warning at the end counts such texts.

A model that answers questions reads `question <tab> passage`, or JSON lines {\"question\", \"context\"}, or a file of SQuAD's
JSON (--file NAME.json), and answers `answer <tab> probability <tab> question`. As JSON: {question, answer, start, end, score,
probability, cut}; start and end count characters of the passage, and are null where there is no answer. With an `id` in
the input there is one in the output. Passages are read whole; `cut` is true of a question with more tokens than the
run's objective.max_question_length.

A model of multiple choice reads `text <tab> choice <tab> choice …` (trained with questions: `text <tab> question <tab> choice
…`), or JSON lines {\"text\", \"question\", \"choices\": [\"…\", \"…\"]}, or texts for which the --choice are the same. It answers
`choice <tab> probability <tab> text`, and a tab and the question where there is one. As JSON: {text, question, choice,
number, probability, choices: [{text, score, probability}], cut}; numbers count from 0.")]
pub struct PredictArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    texts: TextArguments,
    /// Each text is a pair: the first one, a tab, the second one. Runs with data.pair_column say so themselves.
    #[arg(long)]
    pairs: bool,
    #[command(flatten)]
    answers: AnswerArguments,
    #[command(flatten)]
    choices: ChoiceArguments,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &PredictArguments) -> Result<ExitCode, Problem> {
    let source = arguments.model.find()?;
    let predictor = Predictor::open(source.folder(), source.length, source.reading(), source.device)?;
    let batch = arguments.texts.batch();
    let mut printer = Printer::new(arguments.json);
    if predictor.task() != Task::Choices && arguments.choices.are_given() {
        return Err(Problem::usage("--choice is for models of multiple choice, and this one is none")
            .with_help("leave it out, or name a run with objective.kind = \"choose\""));
    }
    if predictor.task() == Task::Answers {
        if arguments.pairs {
            return Err(Problem::usage("the model answers questions about passages: leave out --pairs"));
        }
        let asked = arguments.answers.questions(&arguments.texts)?;
        let answerer = arguments.answers.answerer(&predictor, batch)?;
        source::batches(asked, batch, |asked| printer.answers(&answerer, asked))?;
        printer.finish_questions(answerer.question_length());
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(option) = arguments.answers.given() {
        return Err(Problem::usage(format!("{option} is for models that answer questions, and this one does not"))
            .with_help("leave it out, or name a run with objective.kind = \"answer\""));
    }
    let pairs = predictor.reads_pairs() || arguments.pairs;
    if predictor.task() == Task::Choices {
        let posed = arguments.texts.lines()?.map(|line| arguments.choices.posed(&line?, pairs));
        source::batches(posed, batch, |posed| printer.choices(&predictor, posed, batch))?;
        printer.finish(predictor.length());
        return Ok(ExitCode::SUCCESS);
    }
    if pairs && predictor.task() == Task::Tags {
        return Err(Problem::usage("the model labels the words of single texts, not pairs: leave out --pairs"));
    }
    let texts = arguments.texts.plain_lines()?.map(|line| Text::parse(line?, pairs));
    source::batches(texts, batch, |texts| printer.print(&predictor, texts))?;
    printer.finish(predictor.length());
    Ok(ExitCode::SUCCESS)
}

/// What something is said of, as a whole or of its words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Text {
    first: String,
    /// Of a pair.
    second: Option<String>,
}

impl Text {
    fn parse(Line { text, number }: Line, pairs: bool) -> Result<Self, Problem> {
        if !pairs {
            return Ok(Self { first: text, second: None });
        }
        let (first, second) = text.split_once('\t').ok_or_else(|| {
            let text = format!("text {number}: `{text}` is one text, and the model reads pairs");
            Problem::input(text).with_help("write a tab and the second text behind it")
        })?;
        Ok(Self { first: first.to_owned(), second: Some(second.to_owned()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_a_tab() {
        let line = |text: &str| Line { text: text.to_owned(), number: 7 };
        let parsed = Text::parse(line("is it?\tit is, it is"), true).ok();
        assert_eq!(parsed, Some(Text { first: "is it?".into(), second: Some("it is, it is".into()) }));
        let (message, help) = Text::parse(line("is it?"), true).err().unwrap().into_text_and_help();
        assert!(message.contains("text 7: `is it?`") && help.unwrap().contains("a tab"), "{message}");
        let single = Text::parse(line("a\tb"), false).ok();
        assert_eq!(single, Some(Text { first: "a\tb".into(), second: None }));
    }
}
