//! `worker prompt`: labels for text by cloze prompts, from a model of masked words as it is (zero-shot), or from one that
//! was tuned by a few labelled texts (`objective.kind = "cloze"`).

mod output;

use crate::cli::Problem;
use crate::loaded::{Cuts, Loaded, Wanted};
use crate::source::{self, Line, ModelArguments, TextArguments};
use clap::Args;
use config::{Prompt, Reading};
use corpus::{Cloze, Labels};
use output::Printer;
use std::collections::BTreeMap;
use std::process::ExitCode;
use tch::Kind;

/// `worker prompt`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker prompt --model bert/ --template \"{text} It was [MASK].\" \\
      --label positive=great,good --label negative=terrible --text \"a fine film\"
  worker prompt --model bert/ --template \"{text}? [MASK], {pair}\" --label yes=yes --label no=no < pairs.tsv
  worker prompt --checkpoint few-shot --labelled --file test.tsv --json

One text a line; where the template has {pair}, a tab and the second text; with --labelled, a tab and the right label.
For each `label <tab> probability <tab> text`; as JSON {text, pair, label, score, scores, cut, truth}. With --labelled a
last line has accuracy, macro F1 and MCC of all. A run of objective.kind = \"cloze\", and its export, bring template and
words along.")]
pub struct PromptArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// A sentence with {text}, {pair} for a second text, and one [MASK]. Default: the run's objective.prompt.
    #[arg(long, value_name = "SENTENCE", requires = "label")]
    template: Option<String>,
    /// A label and the words that stand for it, each one token; once for each label. Default: the run's.
    #[arg(long, value_name = "LABEL=WORD,WORD", value_parser = label, requires = "template")]
    label: Vec<(String, Vec<String>)>,
    /// Divide the probabilities by those that an empty text gets, so that what a model says of any text is taken out
    /// (Zhao et al. 2021, contextual calibration).
    #[arg(long)]
    calibrate: bool,
    #[command(flatten)]
    texts: TextArguments,
    /// Each line ends with a tab and the right label.
    #[arg(long)]
    labelled: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// `LABEL=WORD,WORD`
fn label(text: &str) -> Result<(String, Vec<String>), String> {
    let (label, words) = text.split_once('=').ok_or_else(|| format!("`{text}`: write `label=word,word`"))?;
    let words: Vec<String> = words.split(',').map(|word| word.trim().to_owned()).collect();
    if label.is_empty() || words.iter().any(String::is_empty) {
        return Err(format!("`{text}`: write `label=word,word`, with nothing empty"));
    }
    Ok((label.to_owned(), words))
}

/// Runs it.
pub(crate) fn run(arguments: &PromptArguments) -> Result<ExitCode, Problem> {
    let lines = arguments.texts.plain_lines()?;
    let source = arguments.model.find()?;
    let loaded = Loaded::open(source.folder(), Wanted::Vocabulary, source.length, source.device)?;
    let (prompt, verbalizers) = asked(arguments, source.reading().or(loaded.reading.as_ref()))?;
    let pairs = prompt.has_pair();
    let mut labeller = Labeller::new(loaded, prompt, &verbalizers)?;
    if arguments.calibrate {
        labeller.calibrate()?;
    }
    let mut printer = Printer::new(labeller.labels(), arguments.json, arguments.labelled);
    let items = lines.map(|line| line.and_then(|line| Item::parse(&line, pairs, arguments.labelled)));
    let mut cuts = Cuts::default();
    source::batches(items, arguments.texts.batch(), |batch| {
        let labelled = labeller.label(batch)?;
        cuts.count(labelled.iter().map(|it| it.cut));
        printer.print(batch, &labelled)
    })?;
    printer.finish()?;
    cuts.tell(labeller.loaded.length());
    Ok(ExitCode::SUCCESS)
}

type Verbalizers = BTreeMap<String, Vec<String>>;

/// The prompt and the words: as given, else as the run was trained with.
fn asked(arguments: &PromptArguments, trained: Option<&Reading>) -> Result<(Prompt, Verbalizers), Problem> {
    const HELP: &str =
        "for example --template \"{text} It was [MASK].\" --label positive=great --label negative=terrible";
    let trained = trained.and_then(|reading| Some((reading.prompt.as_ref()?, &reading.verbalizers)));
    let (template, verbalizers) = match (&arguments.template, trained) {
        (Some(template), _) => {
            let mut verbalizers = Verbalizers::new();
            for (label, words) in &arguments.label {
                verbalizers.entry(label.clone()).or_default().extend(words.iter().cloned());
            }
            (template.clone(), verbalizers)
        }
        (None, Some((prompt, verbalizers))) => (prompt.clone(), verbalizers.clone()),
        (None, None) => {
            return Err(Problem::usage("the model brings no prompt along: give --template and --label").with_help(HELP));
        }
    };
    if verbalizers.len() < 2 {
        return Err(
            Problem::usage("there is only one label to choose from: give --label twice or more").with_help(HELP)
        );
    }
    let prompt =
        template.parse().map_err(|message: String| Problem::usage(format!("--template: {message}")).with_help(HELP))?;
    Ok((prompt, verbalizers))
}

/// A text to label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    text: String,
    pair: Option<String>,
    /// The right label, and the line where it stands.
    truth: Option<(String, usize)>,
}

impl Item {
    fn parse(line: &Line, pairs: bool, labelled: bool) -> Result<Self, Problem> {
        let fields = |what: &str, help: &str| {
            Problem::input(format!("text {}: `{}` has no {what}", line.number, line.text)).with_help(help)
        };
        let (rest, truth) = match line.text.rsplit_once('\t') {
            Some((rest, truth)) if labelled => (rest, Some((truth.trim().to_owned(), line.number))),
            _ if labelled => {
                return Err(fields("label", "end each line with a tab and its label, or leave out --labelled"));
            }
            _ => (line.text.as_str(), None),
        };
        let (text, pair) = match rest.split_once('\t') {
            Some((text, pair)) if pairs => (text, Some(pair.to_owned())),
            _ if pairs => {
                return Err(fields("second text", "the template has {pair}: write a tab and the second text"));
            }
            _ => (rest, None),
        };
        Ok(Self { text: text.to_owned(), pair, truth })
    }
}

/// What was made of a text.
pub(crate) struct Labelled {
    /// The probability of each label, in order.
    pub(crate) scores: Vec<f64>,
    /// Some of the text did not fit.
    pub(crate) cut: bool,
}

/// A model of masked words with a prompt.
struct Labeller {
    loaded: Loaded,
    cloze: Cloze,
    /// What the labels get without any text.
    prior: Option<Vec<f64>>,
}

impl Labeller {
    fn new(loaded: Loaded, prompt: Prompt, verbalizers: &Verbalizers) -> Result<Self, Problem> {
        let cloze = Cloze::new(&loaded.tokenizer, prompt, verbalizers, "--label")
            .map_err(|error| Problem::usage(format!("{}: {}", error.place, error.message)).with_help(error.help))?;
        Ok(Self { loaded, cloze, prior: None })
    }

    fn labels(&self) -> Vec<String> {
        self.cloze.labels().to_vec()
    }

    /// From now on what an empty text gets is divided by.
    fn calibrate(&mut self) -> Result<(), Problem> {
        let pair = Some(String::new());
        let empty = Item { text: String::new(), pair, truth: None };
        self.prior = self.label(&[empty])?.pop().map(|labelled| labelled.scores);
        Ok(())
    }

    fn label(&self, items: &[Item]) -> Result<Vec<Labelled>, Problem> {
        let texts: Vec<(&str, Option<&str>)> =
            items.iter().map(|item| (item.text.as_str(), item.pair.as_deref())).collect();
        let (batch, cut) = corpus::cloze_batch(&self.loaded.tokenizer, &self.cloze, &texts, self.loaded.length())?;
        let Labels::Cloze { positions, words, .. } = &batch.labels else { unreachable!("made for a prompt") };
        let probabilities = tch::no_grad(|| {
            let hidden = self.loaded.encode_batch(&batch);
            let positions = tch::Tensor::from_slice(positions).to_device(hidden.device());
            trainer::label_scores(&self.loaded.model, &hidden, &positions, words).softmax(-1, Kind::Double)
        });
        let rows = (0..items.len() as i64).map(|row| Vec::<f64>::try_from(probabilities.get(row)).unwrap_or_default());
        Ok(rows.zip(cut).map(|(scores, cut)| Labelled { scores: self.calibrated(scores), cut }).collect())
    }

    fn calibrated(&self, scores: Vec<f64>) -> Vec<f64> {
        let Some(prior) = &self.prior else { return scores };
        let divided: Vec<f64> =
            scores.iter().zip(prior).map(|(score, prior)| score / prior.max(f64::MIN_POSITIVE)).collect();
        let sum: f64 = divided.iter().sum();
        divided.into_iter().map(|score| score / sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loaded::tests::write_model;
    use model::{Head, Input};
    use tch::{Device, Tensor};

    fn verbalizers(words: &[(&str, &[&str])]) -> Verbalizers {
        words
            .iter()
            .map(|(label, words)| ((*label).into(), words.iter().map(|word| (*word).into()).collect()))
            .collect()
    }

    fn item(text: &str) -> Item {
        Item { text: text.into(), pair: None, truth: None }
    }

    /// The model, and a labeller that asks it whether `{text} the [MASK]` is land or water.
    fn labeller(folder: &std::path::Path) -> (model::Model, Labeller) {
        let model = write_model(folder, Head::MaskedLm);
        let loaded = Loaded::open(folder, Wanted::Vocabulary, None, Device::Cpu).ok().unwrap();
        let words = verbalizers(&[("air", &["wind"]), ("water", &["sea", "ship"])]);
        (model, Labeller::new(loaded, "{text} the [MASK]".parse().unwrap(), &words).ok().unwrap())
    }

    #[test]
    fn the_scores_are_those_of_the_words_in_the_place_of_the_mask() {
        let folder = tempfile::tempdir().unwrap();
        let (model, mut labeller) = labeller(folder.path());
        let labelled = labeller.label(&[item("ships the"), item("the sea the wind the sea the ship")]).ok().unwrap();
        // By hand: [CLS] ship ##s the the [MASK] [SEP]
        let ids = Tensor::from_slice(&[2i64, 8, 9, 5, 5, 4, 3]).unsqueeze(0);
        let by_hand = |ids: Tensor, place: i64| -> Vec<f64> {
            let hidden = model.encode(&Input { ids, segments: None, mask: None }, false);
            let logits = model.mlm_logits(&hidden, &Tensor::from_slice(&[place])).detach().get(0);
            let logit = |id: i64| logits.double_value(&[id]);
            let scores = [logit(7), (logit(6) + logit(8)) / 2.0].map(f64::exp);
            scores.iter().map(|score| score / (scores[0] + scores[1])).collect()
        };
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6) && a.len() == b.len();
        let expected = by_hand(ids, 5);
        assert!(close(&labelled[0].scores, &expected), "{:?} {expected:?}", labelled[0].scores);
        assert!((expected[0] - 0.5).abs() > 1e-3, "a score of one half proves nothing");
        assert_eq!((labelled[0].cut, labelled[1].cut), (false, false));
        // What an empty text gets is divided by, and then gets the same for all.
        let prior = by_hand(Tensor::from_slice(&[2i64, 5, 4, 3]).unsqueeze(0), 2);
        labeller.calibrate().ok().unwrap();
        let calibrated = labeller.label(&[item("ships the"), item("")]).ok().unwrap();
        let divided: Vec<f64> = expected.iter().zip(&prior).map(|(score, prior)| score / prior).collect();
        let sum: f64 = divided.iter().sum();
        assert!(close(&calibrated[0].scores, &divided.iter().map(|score| score / sum).collect::<Vec<_>>()));
        assert!(close(&calibrated[1].scores, &[0.5, 0.5]));
    }

    #[test]
    fn a_long_text_is_cut_before_the_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let (_, labeller) = labeller(folder.path());
        let long = labeller.label(&[item(&"the sea ".repeat(40))]).ok().unwrap();
        assert!(long[0].cut && long[0].scores.iter().all(|score| score.is_finite()));
    }

    #[test]
    fn a_line_has_its_fields() {
        let parse = |text: &str, pairs, labelled| {
            let line = Line { text: text.to_owned(), number: 3 };
            Item::parse(&line, pairs, labelled).map_err(|problem| problem.into_text_and_help())
        };
        let all = parse("a\tb\tyes", true, true).unwrap();
        assert_eq!((all.text.as_str(), all.pair.as_deref(), all.truth), ("a", Some("b"), Some(("yes".into(), 3))));
        assert_eq!(parse("a\tb", false, false).unwrap().text, "a\tb");
        let (message, help) = parse("a", false, true).unwrap_err();
        assert!(message.contains("text 3: `a` has no label") && help.unwrap().contains("--labelled"));
        assert!(parse("a\tyes", true, true).unwrap_err().0.contains("has no second text"));
        assert_eq!(label("pos=great, good").unwrap(), ("pos".into(), vec!["great".into(), "good".into()]));
        assert!(label("pos").is_err() && label("pos=").is_err() && label("=a").is_err());
    }
}
