//! Cloze prompts as a tokenizer reads them: a text in a sentence with one word left out, and the words that stand for the
//! labels (Schick and Schütze 2021, PET).

use crate::{CorpusError, ErrorKind, Tokenizer};
use config::{Prompt, PromptPart};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A prompt, and for each label the ids of its words.
#[derive(Clone, Debug)]
pub struct Cloze {
    prompt: Prompt,
    labels: Vec<String>,
    words: Arc<Vec<Vec<i64>>>,
}

/// A text in its prompt, with special tokens around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) ids: Vec<u32>,
    /// Where in `ids` the word is left out.
    pub(crate) mask: usize,
    /// Some of the text did not fit.
    pub(crate) cut: bool,
}

impl Cloze {
    /// Labels are in the order of the map. `place` says where the words stand, for errors.
    ///
    /// # Errors
    /// A word that is not one token of the tokenizer, or that stands for two labels.
    pub fn new(
        tokenizer: &Tokenizer,
        prompt: Prompt,
        verbalizers: &BTreeMap<String, Vec<String>>,
        place: &str,
    ) -> Result<Self, CorpusError> {
        let wrong = |message: String, help: &str| CorpusError::new(ErrorKind::Tokenizer, place, message, help);
        let mut owners: BTreeMap<u32, (&str, &str)> = BTreeMap::new();
        let mut words = Vec::with_capacity(verbalizers.len());
        for (label, of_label) in verbalizers {
            let mut ids = Vec::with_capacity(of_label.len());
            for word in of_label {
                let id = word_id(tokenizer, &prompt, word).map_err(|message| {
                    wrong(format!("label `{label}`: {message}"), "choose a word that is one token of this tokenizer")
                })?;
                if let Some((other, their)) = owners.insert(id, (label, word)) {
                    let message =
                        format!("`{word}` of label `{label}` and `{their}` of label `{other}` are the same token");
                    return Err(wrong(message, "give each label words of its own, each once"));
                }
                ids.push(i64::from(id));
            }
            words.push(ids);
        }
        Ok(Self { prompt, labels: verbalizers.keys().cloned().collect(), words: Arc::new(words) })
    }

    /// The labels in the order of [`Cloze::words`].
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// For each label the ids of its words.
    pub fn words(&self) -> &Arc<Vec<Vec<i64>>> {
        &self.words
    }

    /// A text, or two, in the prompt: of `length` tokens at most. What is too much is cut from the end of the text, of the
    /// longer one first; never of the prompt. It is encoded as a whole, so that each word is what it is in a sentence.
    pub(crate) fn fill(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        pair: Option<&str>,
        length: usize,
    ) -> Result<Filled, CorpusError> {
        let special = tokenizer.special();
        let mask_token = tokenizer.token(special.mask).unwrap_or_default();
        let mut sentence = String::new();
        let (mut texts, mut mask): (Vec<Range<usize>>, _) = (Vec::new(), 0..0);
        for part in self.prompt.parts() {
            let start = sentence.len();
            sentence.push_str(match part {
                PromptPart::Literal(literal) => literal,
                PromptPart::Text => text.trim(),
                PromptPart::Pair => pair.unwrap_or_default().trim(),
                PromptPart::Mask => &mask_token,
            });
            match part {
                PromptPart::Literal(_) => {}
                PromptPart::Text | PromptPart::Pair => texts.push(start..sentence.len()),
                PromptPart::Mask => mask = start..sentence.len(),
            }
        }
        let tokens = tokenizer.encode_with_ranges(&sentence)?;
        // A byte-level token begins with the space before its word, so that its end says where it belongs.
        let owner =
            |range: &Range<usize>| texts.iter().position(|text| text.start < range.end && range.end <= text.end);
        let mut lengths = vec![0; texts.len()];
        tokens.iter().filter_map(|(_, range)| owner(range)).for_each(|owner| lengths[owner] += 1);
        let room = length.saturating_sub(2);
        let own = tokens.len() - lengths.iter().sum::<usize>();
        if own > room {
            return Err(CorpusError::new(
                ErrorKind::Value,
                "objective.prompt",
                format!("without a text it has {own} tokens, and only {room} are read"),
                "shorten it, or raise batch.sequence_length",
            ));
        }
        let mut kept = lengths.clone();
        while own + kept.iter().sum::<usize>() > room {
            let longest = (0..kept.len()).max_by_key(|text| kept[*text]).expect("a prompt has a text");
            kept[longest] -= 1;
        }
        let cut = kept != lengths;
        let mut ids = vec![special.classify];
        let mut place = None;
        let mut seen = vec![0; texts.len()];
        for (id, range) in tokens {
            if let Some(owner) = owner(&range) {
                seen[owner] += 1;
                if seen[owner] > kept[owner] {
                    continue;
                }
            } else if id == special.mask && range.start < mask.end && mask.start < range.end {
                place = Some(ids.len());
            }
            ids.push(id);
        }
        ids.push(special.separator);
        let mask = place.ok_or_else(|| {
            let message = format!("the tokenizer does not read {mask_token} as one token");
            CorpusError::new(
                ErrorKind::Tokenizer,
                "tokenizer.path",
                message,
                "use the tokenizer of a model of masked words",
            )
        })?;
        Ok(Filled { ids, mask, cut })
    }
}

/// The one token that `word` is in the place that the prompt leaves for it. An error is what it is instead.
fn word_id(tokenizer: &Tokenizer, prompt: &Prompt, word: &str) -> Result<u32, String> {
    let space = if prompt.has_space_before_mask() { " " } else { "" };
    let ids = tokenizer.encode(&format!("{space}{}", word.trim())).map_err(|error| error.to_string())?;
    match ids.as_slice() {
        [id] if *id == tokenizer.special().unknown => Err(format!("the tokenizer does not know `{word}`")),
        [id] => Ok(*id),
        ids => {
            let pieces: Vec<String> =
                ids.iter().map(|id| format!("`{}`", tokenizer.token(*id).unwrap_or_default())).collect();
            Err(format!("`{word}` is {} tokens: {}", ids.len(), pieces.join(" ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n.\nit\nwas\ngreat\nbad\na\nfilm\n##s\nis\n";
        Tokenizer::from_bytes("vocab.txt", words.as_bytes(), true).unwrap()
    }

    fn cloze(prompt: &str, words: &[(&str, &[&str])]) -> Result<Cloze, CorpusError> {
        let words = words
            .iter()
            .map(|(label, words)| ((*label).to_owned(), words.iter().map(|word| (*word).to_owned()).collect()));
        Cloze::new(&tokenizer(), prompt.parse().unwrap(), &words.collect(), "objective.verbalizers")
    }

    const LABELS: [(&str, &[&str]); 2] = [("no", &["bad"]), ("yes", &["great", "film"])];

    fn tokens(prompt: &str, text: &str, pair: Option<&str>, length: usize) -> (String, usize, bool) {
        let tokenizer = tokenizer();
        let filled = cloze(prompt, &LABELS).unwrap().fill(&tokenizer, text, pair, length).unwrap();
        let tokens: Vec<String> = filled.ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect();
        (tokens.join(" "), filled.mask, filled.cut)
    }

    #[test]
    fn the_text_is_cut_and_the_prompt_is_not() {
        let prompt = "{text} It was [MASK].";
        assert_eq!(tokens(prompt, "A films", None, 16), ("[CLS] a film ##s it was [MASK] . [SEP]".into(), 6, false));
        assert_eq!(tokens(prompt, "A films", None, 8), ("[CLS] a film it was [MASK] . [SEP]".into(), 5, true));
        assert_eq!(tokens(prompt, "", None, 8), ("[CLS] it was [MASK] . [SEP]".into(), 3, false));
        // What the text itself leaves out is not meant.
        let (text, mask, _) = tokens(prompt, "a [MASK]", None, 16);
        assert_eq!((text.as_str(), mask), ("[CLS] a [MASK] it was [MASK] . [SEP]", 5));
        let error = cloze(prompt, &LABELS).unwrap().fill(&tokenizer(), "a", None, 5).unwrap_err().to_string();
        assert!(error.contains("without a text it has 4 tokens, and only 3 are read"), "{error}");
    }

    #[test]
    fn of_two_texts_the_longer_one_is_cut() {
        let prompt = "[MASK] is {text}, {pair}";
        assert_eq!(
            tokens(prompt, "a film a film a film", Some("it was"), 10),
            ("[CLS] [MASK] is a film a [UNK] it was [SEP]".into(), 1, true)
        );
    }

    #[test]
    fn a_word_is_one_token_and_of_one_label() {
        let cloze_of = |words: &[&str]| cloze("{text} [MASK]", &[("no", &["bad"]), ("yes", words)]);
        let good = cloze_of(&["great", "film"]).unwrap();
        assert_eq!(
            (good.labels(), good.words().as_slice()),
            (&["no".to_owned(), "yes".to_owned()][..], &[vec![9], vec![8, 11]][..])
        );
        let told = |words: &[&str]| cloze_of(words).unwrap_err().to_string();
        let text = told(&["films"]);
        assert!(text.contains("label `yes`: `films` is 2 tokens: `film` `##s`"), "{text}");
        assert!(text.starts_with("objective.verbalizers") && text.contains("help: choose a word"), "{text}");
        assert!(told(&["terrible"]).contains("does not know `terrible`"));
        assert!(told(&["Bad"]).contains("`Bad` of label `yes` and `bad` of label `no` are the same token"));
    }
}
