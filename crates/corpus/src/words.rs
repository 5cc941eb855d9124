//! Text to words, for what counts words and not pieces of them.

use std::collections::HashSet;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Cuts text into words as BERT's tokenizer does before it looks at pieces. Chinese characters are words of their own
/// there; those that a dictionary knows as one word are put together, the longest first. What has neither letters nor
/// digits is left out.
pub struct WordSplitter {
    normalizer: BertNormalizer,
    dictionary: HashSet<String>,
    /// Characters of the longest word in the dictionary.
    longest: usize,
}

impl WordSplitter {
    /// `dictionary`: words of several Chinese characters.
    pub fn new(lowercase: bool, dictionary: impl IntoIterator<Item = String>) -> Self {
        let dictionary: HashSet<String> = dictionary.into_iter().collect();
        let longest = dictionary.iter().map(|word| word.chars().count()).max().unwrap_or(0);
        Self { normalizer: BertNormalizer::new(true, true, None, lowercase), dictionary, longest }
    }

    /// Appends the words of `text` to `words`.
    pub fn split(&self, text: &str, words: &mut Vec<String>) {
        let mut parts = PreTokenizedString::from(text);
        let split = parts
            .normalize(|part| self.normalizer.normalize(part))
            .and_then(|()| BertPreTokenizer.pre_tokenize(&mut parts));
        split.expect("BERT's normaliser and pre-tokenizer accept any text");
        let parts = parts.get_splits(OffsetReferential::Normalized, OffsetType::None);
        let parts: Vec<&str> = parts.into_iter().map(|(part, ..)| part).collect();
        let mut at = 0;
        while at < parts.len() {
            let taken = self.longest_word(&parts[at..]);
            let word = parts[at..at + taken].concat();
            at += taken;
            if word.chars().any(char::is_alphanumeric) {
                words.push(word);
            }
        }
    }

    /// How many of the first parts are one word.
    fn longest_word(&self, parts: &[&str]) -> usize {
        let single = parts.iter().take(self.longest).take_while(|part| is_chinese(part)).count();
        (2..=single).rev().find(|&taken| self.dictionary.contains(&parts[..taken].concat())).unwrap_or(1)
    }
}

/// One character that BERT's normaliser puts spaces around.
pub(crate) fn is_chinese(part: &str) -> bool {
    let mut characters = part.chars();
    let first = characters.next().map_or(0, u32::from);
    let is_one = matches!(first, 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x2CEAF);
    is_one && characters.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bert_s_and_the_dictionary_s() {
        let splitter = WordSplitter::new(true, ["苹果", "苹果手机", "新"].map(str::to_owned));
        let mut words = Vec::new();
        splitter.split("The Café's 2 doors... 我吃苹果,新苹果手机", &mut words);
        assert_eq!(words, ["the", "cafe", "s", "2", "doors", "我", "吃", "苹果", "新", "苹果手机"]);
    }

    #[test]
    fn what_spaces_part_is_put_together_as_bert_would_read_it() {
        // A space between two Chinese characters says nothing to BERT either.
        let splitter = WordSplitter::new(false, ["苹果".to_owned()]);
        let mut words = Vec::new();
        splitter.split("A苹果B", &mut words);
        assert_eq!(words, ["A", "苹果", "B"]);
    }
}
