//! `worker fill-mask`: which words a pretrained model puts in the place of `[MASK]`.

use crate::cli::Problem;
use crate::loaded::{Cuts, Loaded, Tokens, Wanted};
use crate::source::{self, Line, ModelArguments, TextArguments};
use clap::Args;
use config::PROMPT_MASK;
use corpus::Tokenizer;
use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use tch::{Kind, Tensor};

/// `worker fill-mask`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  worker fill-mask --checkpoint latest --text \"Paris is the [MASK] of France.\"
  worker fill-mask --model exported/ --top-k 10 --json < sentences.txt
  worker fill-mask --checkpoint quickstart@1200 --file sentences.txt

One text a line, with one [MASK] or several; each is predicted on its own. A tokenizer's own word for it, such as <mask>, will
do as well. For each: probability, token, and with a single [MASK] the text with the token in its place. As JSON: {text, masks:
[[{token, id, score, text}]], cut}; `cut` is true where the end of the text was not read.")]
pub struct FillMaskArguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    texts: TextArguments,
    /// Tokens shown for each [MASK].
    #[arg(long, default_value_t = 5, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &FillMaskArguments) -> Result<ExitCode, Problem> {
    let lines = arguments.texts.plain_lines()?;
    let source = arguments.model.find()?;
    let loaded = Loaded::open(source.folder(), Wanted::Vocabulary, source.length, source.device)?;
    let mut out = std::io::stdout().lock();
    let mut cuts = Cuts::default();
    source::batches(lines, arguments.texts.batch(), |batch| {
        for filled in fill(&loaded, batch, arguments.top_k as usize)? {
            cuts.count([filled.cut]);
            let written = if arguments.json {
                writeln!(out, "{}", filled.json())
            } else {
                out.write_all(filled.plain().as_bytes())
            };
            written.map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))?;
        }
        let _ = out.flush();
        Ok(())
    })?;
    cuts.tell(loaded.length());
    Ok(ExitCode::SUCCESS)
}

/// What was predicted for one text.
struct Filled {
    text: String,
    /// For each `[MASK]` the best tokens, best first.
    masks: Vec<Vec<Candidate>>,
    /// Some of the text did not fit.
    cut: bool,
}

struct Candidate {
    token: String,
    id: u32,
    score: f64,
    /// The text with the token in the place of its only `[MASK]`.
    text: Option<String>,
}

/// A token as it reads: byte-level vocabularies write bytes as letters of their own, and the space before a word as one.
fn word(tokenizer: &Tokenizer, id: u32) -> String {
    let read = tokenizer.decode(&[id]).unwrap_or_default();
    let read = read.trim();
    let written = tokenizer.token(id).unwrap_or_default();
    // White space, as byte-level and SentencePiece vocabularies write it, is nothing; special tokens are not read.
    let is_space = written.chars().all(|letter| "ĠĊĉč▁".contains(letter));
    if read.is_empty() && !is_space { written } else { read.to_owned() }
}

fn fill(loaded: &Loaded, lines: &[Line], top_k: usize) -> Result<Vec<Filled>, Problem> {
    let special = loaded.tokenizer.special();
    let mask = loaded.tokenizer.token(special.mask).unwrap_or_default();
    let texts: Vec<String> = lines.iter().map(|line| with_own_mask(&line.text, &mask)).collect();
    let tokens = texts.iter().map(|text| loaded.tokens(text)).collect::<Result<Vec<_>, _>>()?;
    for ((line, text), tokens) in lines.iter().zip(&texts).zip(&tokens) {
        let (written, found) =
            (text.matches(&mask).count(), tokens.ids.iter().filter(|id| **id == special.mask).count());
        if written == 0 {
            let text = format!("text {}: there is no {mask} in `{}`", line.number, line.text);
            return Err(Problem::input(text).with_help(format!("write {mask} where a word is to be predicted")));
        }
        if found < written {
            let text = format!("text {}: {mask} stands behind the tokens that are read", line.number);
            return Err(
                Problem::input(text).with_help("shorten the text, or raise --max-length as far as the model goes")
            );
        }
    }
    let ids: Vec<&[u32]> = tokens.iter().map(|tokens| tokens.ids.as_slice()).collect();
    let (hidden, _) = loaded.encode(&ids);
    let length = hidden.size()[1];
    let places = ids.iter().zip(0..).flat_map(|(ids, row)| {
        let found = ids.iter().zip(0..).filter(|(id, _)| **id == special.mask);
        found.map(move |(_, place)| row * length + place)
    });
    let positions = Tensor::from_slice(&places.collect::<Vec<i64>>()).to_device(hidden.device());
    // Rows that only pad the vocabulary are no words.
    let words = loaded.tokenizer.size() as i64;
    let probabilities = tch::no_grad(|| {
        let logits = loaded.model.mlm_logits(&hidden, &positions).narrow(1, 0, words);
        logits.softmax(-1, Kind::Double)
    });
    let (scores, best) = probabilities.topk((top_k as i64).min(words), 1, true, true);
    let mut rows = (0..).map(|row| {
        let scores = Vec::<f64>::try_from(scores.get(row)).unwrap_or_default();
        scores.into_iter().zip(Vec::<i64>::try_from(best.get(row)).unwrap_or_default())
    });
    let filled = lines.iter().zip(&texts).zip(&tokens).map(|((line, text), Tokens { ids, cut, .. })| {
        let count = ids.iter().filter(|id| **id == special.mask).count();
        let masks = rows.by_ref().take(count).map(|row| {
            let candidates = row.map(|(score, id)| {
                let id = u32::try_from(id).unwrap_or(special.unknown);
                let token = word(&loaded.tokenizer, id);
                let text = (count == 1).then(|| put(text, &mask, &token, loaded.tokenizer.is_continuation(id)));
                Candidate { token, id, score, text }
            });
            candidates.collect()
        });
        Filled { text: line.text.clone(), masks: masks.collect(), cut: *cut }
    });
    Ok(filled.collect())
}

/// `[MASK]` stands for every tokenizer's own word, as in prompts.
fn with_own_mask(text: &str, mask: &str) -> String {
    text.replace(PROMPT_MASK, mask)
}

/// The text with the token in the place of `mask`. A piece that goes on with a word is put to the word before it.
fn put(text: &str, mask: &str, token: &str, continues: bool) -> String {
    let (before, after) = text.split_once(mask).unwrap_or((text, ""));
    if continues {
        format!("{}{}{after}", before.trim_end(), token.trim_start_matches("##"))
    } else {
        format!("{before}{token}{after}")
    }
}

impl Filled {
    fn plain(&self) -> String {
        let mut lines = format!("{}\n", self.text);
        for (mask, candidates) in self.masks.iter().enumerate() {
            if self.masks.len() > 1 {
                lines.push_str(&format!("  {}.\n", mask + 1));
            }
            for Candidate { token, score, text, .. } in candidates {
                let text = text.as_ref().map(|text| format!("  {text}")).unwrap_or_default();
                lines.push_str(format!("  {score:.4}  {token:<14}{text}").trim_end());
                lines.push('\n');
            }
        }
        lines
    }

    fn json(&self) -> Value {
        let candidate = |it: &Candidate| {
            let mut value = json!({ "token": it.token, "id": it.id, "score": it.score });
            if let Some(text) = &it.text {
                value["text"] = json!(text);
            }
            value
        };
        let masks: Vec<Vec<Value>> = self.masks.iter().map(|mask| mask.iter().map(candidate).collect()).collect();
        json!({ "text": self.text, "masks": masks, "cut": self.cut })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reference::stands_in_the_contract;
    use crate::loaded::tests::write_model;
    use model::{Head, Input};
    use tch::Device;

    fn line(text: &str, number: usize) -> Line {
        Line { text: text.to_owned(), number }
    }

    #[test]
    fn the_scores_are_the_head_s_and_each_mask_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path(), Head::PreTraining);
        let loaded = Loaded::open(folder.path(), Wanted::Vocabulary, None, Device::Cpu).ok().unwrap();
        let lines = [line("the [MASK]", 1), line("[MASK] wind the [MASK]s.", 2)];
        let filled = fill(&loaded, &lines, 20).ok().unwrap();
        // By hand: [CLS] [MASK] wind the [MASK] s . [SEP]; `s` and `.` are no words of this vocabulary.
        let ids = Tensor::from_slice(&[2i64, 4, 7, 5, 4, 1, 1, 3]).unsqueeze(0);
        let hidden = model.encode(&Input { ids, segments: None, mask: None }, false);
        let logits = model.mlm_logits(&hidden, &Tensor::from_slice(&[1i64, 4])).narrow(1, 0, 10);
        let expected = logits.detach().softmax(-1, Kind::Double);
        assert_eq!((filled[0].masks.len(), filled[1].masks.len(), filled[0].cut), (1, 2, false));
        for (row, mask) in filled[1].masks.iter().enumerate() {
            assert_eq!(mask.len(), 10, "the rows that pad the vocabulary are left out");
            assert!(mask.windows(2).all(|pair| pair[0].score >= pair[1].score));
            for Candidate { id, score, token, text } in mask {
                let right = expected.double_value(&[row as i64, i64::from(*id)]);
                assert!((score - right).abs() < 1e-6, "{token}: {score} and not {right}");
                assert_eq!(text, &None);
            }
        }
        let ship = filled[0].masks[0].iter().find(|candidate| candidate.token == "ship").unwrap();
        assert_eq!(ship.text.as_deref(), Some("the ship"));
        let value = filled[0].json();
        stands_in_the_contract("worker fill-mask --json", "", &value);
        assert_eq!(value["masks"][0][0]["score"], json!(filled[0].masks[0][0].score));
        let long = [line(&format!("the [MASK]{}", " sea".repeat(20)), 1)];
        assert_eq!(fill(&loaded, &long, 1).ok().unwrap()[0].json()["cut"], json!(true));
        assert!(filled[1].plain().starts_with("[MASK] wind the [MASK]s.\n  1.\n  0."), "{}", filled[1].plain());
    }

    #[test]
    fn the_mask_of_prompts_is_every_tokenizers() {
        assert_eq!(with_own_mask("the [MASK] and <mask>", "<mask>"), "the <mask> and <mask>");
        assert_eq!(with_own_mask("the [MASK]", "[MASK]"), "the [MASK]");
    }

    #[test]
    fn a_piece_is_put_to_its_word() {
        assert_eq!(put("a ship [MASK] sails", "[MASK]", "##s", true), "a ships sails");
        assert_eq!(put("a [MASK].", "[MASK]", "sea", false), "a sea.");
    }

    #[test]
    fn bytes_are_shown_as_the_letters_that_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.csv");
        std::fs::write(&path, "text\n\"das Öl, das Öl\"\n").unwrap();
        let paths = [path.display().to_string()];
        let source = corpus::FileSource::open(&paths, &[], None, &corpus::Columns::text("text")).unwrap();
        let options = corpus::ByteLevelOptions { size: 280, min_frequency: 2 };
        let tokenizer = corpus::train_byte_level(&source, options, &mut |_, _| ()).unwrap();
        let id = tokenizer.id("ĠÃĸl").unwrap();
        assert_eq!(word(&tokenizer, id), "Öl");
        assert_eq!(word(&tokenizer, tokenizer.special().mask), "<mask>");
        assert_eq!(word(&tokenizer, tokenizer.id("Ġ").unwrap()), "");
    }

    #[test]
    fn what_cannot_be_filled_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::MaskedLm);
        let loaded = Loaded::open(folder.path(), Wanted::Vocabulary, Some(8), Device::Cpu).ok().unwrap();
        let told = |text: &str| fill(&loaded, &[line(text, 3)], 1).err().unwrap().into_text_and_help();
        let (message, help) = told("the sea");
        assert!(message.contains("text 3") && message.contains("[MASK]"), "{message}");
        assert!(help.unwrap().contains("[MASK]"));
        let (message, help) = told("the sea the sea the sea the [MASK]");
        assert!(message.contains("text 3") && help.unwrap().contains("--max-length"), "{message}");
    }

    #[test]
    fn a_model_without_the_head_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::None);
        let problem = Loaded::open(folder.path(), Wanted::Vocabulary, None, Device::Cpu).err().unwrap();
        let (message, help) = problem.into_text_and_help();
        assert!(message.contains("no head over the vocabulary") && help.unwrap().contains("BertForMaskedLM"));
    }
}
