//! Training RoBERTa's byte-level BPE.

use super::super::byte_level;
use super::{Tokenizer, Vocabulary, each_text, merge_pairs, no_word};
use crate::source::FileSource;
use crate::{CorpusError, ErrorKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// In the order of RoBERTa's ids; `<mask>` is its last one.
const FIRST: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
const LAST: &str = "<mask>";

/// What a vocabulary should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteLevelOptions {
    /// Tokens, special ones included.
    pub size: usize,
    /// Pairs that are rarer get no piece of their own.
    pub min_frequency: u64,
}

/// Trains a byte-level BPE on the text column of `files`: case and accents stay, and no text is unknown. `progress` hears
/// rows done and rows in all.
///
/// Words begin with the space before them (`Ġ`), and one is put before each text, so that a word is the same pieces at
/// the beginning of a text, in its middle, and by itself.
pub fn train_byte_level(
    files: &FileSource,
    options: ByteLevelOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Tokenizer, CorpusError> {
    // A sorted set, which takes no order over from a hash map.
    let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
    let room = FIRST.len() + alphabet.len() + 1;
    if options.size <= room {
        return Err(CorpusError::new(
            ErrorKind::Tokenizer,
            "the vocabulary's size",
            format!("{} tokens leave no room for words: 256 bytes and 5 special tokens are {room}", options.size),
            "8192 suits a small corpus, 50265 is RoBERTa's",
        ));
    }
    let before_text = ByteLevel::new(true, true, true);
    let mut words: HashMap<String, i64> = HashMap::new();
    each_text(files, progress, |text| {
        let mut parts = PreTokenizedString::from(text);
        before_text.pre_tokenize(&mut parts).expect("every text is bytes");
        for (word, ..) in parts.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match words.get_mut(word) {
                Some(count) => *count += 1,
                None => _ = words.insert(word.to_owned(), 1),
            }
        }
    })?;
    if words.is_empty() {
        return Err(no_word(files));
    }
    let words: BTreeMap<String, i64> = words.into_iter().collect();
    let (vocabulary, merges) = merge(&words, &alphabet, options);
    let ids: BTreeMap<String, u32> = vocabulary.tokens.into_iter().zip(0..).collect();
    let json = byte_level::json(&ids, &merges, true).expect("all special tokens are there");
    Tokenizer::from_bytes("the trained vocabulary", json.as_bytes(), false)
}

/// The vocabulary, and the pairs that were merged.
fn merge(
    words: &BTreeMap<String, i64>,
    alphabet: &BTreeSet<char>,
    options: ByteLevelOptions,
) -> (Vocabulary, Vec<(String, String)>) {
    let mut vocabulary = Vocabulary::default();
    for token in FIRST {
        vocabulary.id(token.to_owned());
    }
    for character in alphabet {
        vocabulary.id(character.to_string());
    }
    let mut pieces: Vec<(Vec<u32>, i64)> = Vec::with_capacity(words.len());
    for (word, count) in words {
        pieces.push((word.chars().map(|character| vocabulary.id(character.to_string())).collect(), *count));
    }
    let size = options.size - 1;
    let pairs =
        merge_pairs(&mut vocabulary, &mut pieces, size, options.min_frequency, |left, right| format!("{left}{right}"));
    let token = |id: u32| vocabulary.tokens[id as usize].clone();
    let merges = pairs.into_iter().map(|(left, right)| (token(left), token(right))).collect();
    vocabulary.id(LAST.to_owned());
    (vocabulary, merges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::{AddedToken, Model, Trainer};

    /// Hugging Face's own trainer comes to the same tokens.
    #[test]
    fn merges_are_those_of_hugging_face() {
        let text =
            "the runner number 17 is running, and the walker's walking; aaaa aaa banana bandana. 跑步的人在跑步 café";
        let mut words: BTreeMap<String, i64> = BTreeMap::new();
        let mut parts = PreTokenizedString::from(text);
        ByteLevel::new(true, true, true).pre_tokenize(&mut parts).unwrap();
        let parts = parts.get_splits(OffsetReferential::Normalized, OffsetType::None);
        let parts: Vec<String> = parts.into_iter().map(|(word, ..)| word.to_owned()).collect();
        for (number, word) in (1..).zip(&parts) {
            *words.entry(word.clone()).or_default() += number % 5 + 1;
        }
        let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        for size in [270, 300, 1000] {
            let options = ByteLevelOptions { size, min_frequency: 2 };
            let (ours, merges) = merge(&words, &alphabet, options);
            let special = FIRST.map(|token| AddedToken::from(token, true)).to_vec();
            let mut trainer = BpeTrainer::builder()
                .vocab_size(size - 1)
                .min_frequency(2)
                .show_progress(false)
                .special_tokens(special)
                .initial_alphabet(alphabet.iter().copied().collect())
                .build();
            let all = words.iter().flat_map(|(word, count)| std::iter::repeat_n(word.clone(), *count as usize));
            trainer.feed(all, |word| Ok(vec![word.to_owned()])).unwrap();
            let mut theirs = BPE::default();
            trainer.train(&mut theirs).unwrap();
            assert!(merges.len() > 5 && ours.tokens.len() == merges.len() + FIRST.len() + 257 || size == 1000);
            assert_eq!(ours.tokens.len(), theirs.get_vocab_size() + 1);
            for (id, token) in (0..).zip(&ours.tokens[..ours.tokens.len() - 1]) {
                assert_eq!(theirs.token_to_id(token), Some(id), "{token} of {size}");
            }
        }
    }
}
