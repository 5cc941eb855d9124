//! Chinese words. BERT's tokenizer makes a word of each Chinese character, so that no `##` says which belong together: a
//! segmenter has to (Cui et al. 2019, whole word masking for Chinese BERT).

use crate::words::is_chinese;
use crate::{CorpusError, ErrorKind, Tokenizer};
use config::ObjectiveConfig;
use jieba_rs::Jieba;
use std::sync::{Arc, LazyLock};

/// Read once in a process: half a second, and some tens of megabytes.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Finds words among characters that are tokens.
#[derive(Clone, Debug)]
pub(super) struct Segmenter {
    /// By id, of tokens that are one Chinese character.
    characters: Arc<[Option<char>]>,
}

impl Segmenter {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let character = |id| {
            let token: String = tokenizer.token(id)?;
            if is_chinese(&token) { token.chars().next() } else { None }
        };
        Self { characters: (0..tokenizer.size() as u32).map(character).collect() }
    }

    /// Puts the characters of a word together in `words`, which are the (start, end) of each word of `tokens` so far. The
    /// text is what the tokens say: words are cut where a row, an unknown character or other text cuts them. So the
    /// outcome depends on the tokens alone.
    pub fn join(&self, tokens: &[u32], words: &mut Vec<(u32, u32)>) {
        let character = |(start, end): (u32, u32)| {
            let id = tokens[start as usize] as usize;
            self.characters.get(id).copied().flatten().filter(|_| end == start + 1)
        };
        let mut joined = Vec::with_capacity(words.len());
        let mut text = String::new();
        let mut at = 0;
        while at < words.len() {
            text.clear();
            let first = at;
            while let Some(found) = words.get(at).filter(|word| at == first || word.0 == words[at - 1].1) {
                let Some(character) = character(*found) else { break };
                text.push(character);
                at += 1;
            }
            if at == first {
                joined.push(words[at]);
                at += 1;
                continue;
            }
            let mut start = words[first].0;
            for word in JIEBA.cut(&text, true) {
                let end = start + word.chars().count() as u32;
                joined.push((start, end));
                start = end;
            }
            assert_eq!(start, words[at - 1].1, "a segmenter cuts text and leaves nothing out: {text}");
        }
        *words = joined;
    }
}

/// Refuses a tokenizer whose tokens a segmenter can make nothing of.
pub fn check_segmenter(objective: &ObjectiveConfig, tokenizer: &Tokenizer) -> Result<(), CorpusError> {
    let is_of_use =
        || Segmenter::new(tokenizer).characters.iter().filter(|character| character.is_some()).nth(1).is_some();
    if objective.word_segmenter.is_none() || is_of_use() {
        return Ok(());
    }
    Err(CorpusError::new(
        ErrorKind::Tokenizer,
        "objective.word_segmenter",
        "the tokenizer has no Chinese characters as tokens, so there is nothing to put together to words",
        "use a WordPiece vocabulary of Chinese text, or leave it out",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::{Amount, Masker, Scratch};
    use super::*;
    use crate::random::Stream;
    use config::Masking;

    const TEXT: &str =
        "我们在北京大学学习自然语言处理技术，人工智能的发展非常迅速。他在图书馆看书，他的朋友去电影院看电影。";

    /// The characters of the text and a few pieces more.
    fn tokenizer() -> Tokenizer {
        let mut lines: Vec<String> =
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bert", "##s"].map(str::to_owned).to_vec();
        for character in TEXT.chars().map(String::from) {
            if !lines.contains(&character) {
                lines.push(character);
            }
        }
        Tokenizer::from_bytes("vocab.txt", lines.join("\n").as_bytes(), true).unwrap()
    }

    fn objective() -> ObjectiveConfig {
        let word_segmenter = Some(config::WordSegmenter::Jieba);
        ObjectiveConfig { whole_word: true, word_segmenter, ..ObjectiveConfig::default() }
    }

    fn row(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let special = tokenizer.special();
        [vec![special.classify], tokenizer.encode(text).unwrap(), vec![special.separator]].concat()
    }

    /// Where the words of a row are.
    fn words(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<(u32, u32)> {
        let mut words: Vec<(u32, u32)> = (1..tokens.len() as u32 - 1).map(|at| (at, at + 1)).collect();
        Segmenter::new(tokenizer).join(tokens, &mut words);
        words
    }

    #[test]
    fn characters_of_a_word_are_put_together_and_nothing_else_is() {
        let tokenizer = tokenizer();
        let text = |tokens: &[u32], (start, end): (u32, u32)| -> String {
            tokens[start as usize..end as usize].iter().map(|id| tokenizer.token(*id).unwrap()).collect()
        };
        let cut = |said: &str| {
            let tokens = row(&tokenizer, said);
            words(&tokenizer, &tokens).into_iter().map(|word| text(&tokens, word)).collect::<Vec<_>>()
        };
        assert_eq!(cut("他在图书馆看书，"), ["他", "在", "图书馆", "看书", "，"]);
        assert_eq!(cut("我们在北京大学学习"), ["我们", "在", "北京大学", "学习"]);
        // An unknown character, or a word of another script, ends what is read together.
        assert_eq!(cut("北京龘大学"), ["北京", "[UNK]", "大学"]);
        assert_eq!(cut("图书berts馆"), ["图书", "bert", "##s", "馆"]);
    }

    #[test]
    fn words_are_masked_whole_as_often_as_they_should() {
        let tokenizer = tokenizer();
        let masker = Masker::new(&objective(), &tokenizer);
        let before = row(&tokenizer, TEXT);
        let words = words(&tokenizer, &before);
        assert!(words.iter().filter(|(start, end)| end - start > 1).count() > 10);
        let (wanted, mut scratch) = (((before.len() as f64) * 0.15).round_ties_even() as usize, Scratch::default());
        let (mut chosen, mut fates) = (vec![0_u32; before.len()], [0_u32; 3]);
        let rounds = 6000;
        for sample in 0..rounds {
            let masked = |scratch: &mut Scratch| {
                let mut after = before.clone();
                let amount = Amount { rate: 0.15, most: usize::MAX };
                masker.apply(&mut after, amount, &mut Stream::new("mask", &[sample]), scratch);
                after
            };
            let after = masked(&mut scratch);
            assert_eq!(after, masked(&mut Scratch::default()), "the same sample is masked the same");
            let places: Vec<usize> = scratch.masked().map(|(at, _)| at).collect();
            assert_eq!(places.len(), wanted, "single characters fill what words leave");
            for (start, end) in words.iter().map(|(start, end)| (*start as usize, *end as usize)) {
                let hit = (start..end).filter(|at| places.contains(at)).count();
                assert!(hit == 0 || hit == end - start, "sample {sample}: a word is split");
            }
            for at in places {
                chosen[at] += 1;
                fates[if after[at] == tokenizer.special().mask {
                    0
                } else if after[at] == before[at] {
                    2
                } else {
                    1
                }] += 1;
            }
        }
        // An id drawn may be the old one, or [MASK].
        let size = tokenizer.size() as f64;
        let total = f64::from(fates.iter().sum::<u32>());
        let shares = [0.8 + 0.1 / size, 0.1 - 0.2 / size, 0.1 + 0.1 / size].map(|share| share * total);
        let chi_square: f64 = fates.iter().zip(shares).map(|(seen, all)| (f64::from(*seen) - all).powi(2) / all).sum();
        assert!(chi_square < 13.8, "p < 0.001 with two degrees of freedom: {chi_square} {fates:?}");
        // Words for which no room is left are passed over, and single characters take it.
        let expected = wanted as f64 * rounds as f64 / (before.len() - 2) as f64;
        for (start, end) in words {
            let share = f64::from(chosen[start as usize]) / expected;
            assert!((0.6..1.5).contains(&share), "the word at {start}..{end} is chosen {share} times as often");
        }
    }

    #[test]
    fn spans_are_of_words_too() {
        let tokenizer = tokenizer();
        let objective = ObjectiveConfig { masking: Masking::Span, whole_word: false, ..objective() };
        let masker = Masker::new(&objective, &tokenizer);
        let before = row(&tokenizer, TEXT);
        let starts: Vec<u32> = words(&tokenizer, &before).into_iter().map(|(start, _)| start).collect();
        let mut scratch = Scratch::default();
        for sample in 0..500 {
            let mut after = before.clone();
            let amount = Amount { rate: 0.15, most: usize::MAX };
            masker.apply(&mut after, amount, &mut Stream::new("mask", &[sample]), &mut scratch);
            assert!(scratch.spans.iter().all(|(start, _)| starts.contains(start)), "sample {sample}");
        }
    }

    #[test]
    fn a_tokenizer_without_characters_is_refused() {
        let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\n";
        let english = Tokenizer::from_bytes("vocab.txt", words.as_bytes(), true).unwrap();
        let error = check_segmenter(&objective(), &english).unwrap_err().to_string();
        assert!(error.contains("objective.word_segmenter") && error.contains("no Chinese characters"), "{error}");
        assert!(check_segmenter(&ObjectiveConfig::default(), &english).is_ok());
        assert!(check_segmenter(&objective(), &tokenizer()).is_ok());
    }
}
