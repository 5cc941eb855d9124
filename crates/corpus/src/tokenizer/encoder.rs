//! Encoding much text in one thread.

use super::Tokenizer;
use crate::CorpusError;
use std::collections::HashMap;
use std::ops::Range;

/// Longer chunks (a line of Chinese, a URL) hardly ever come back; they are not remembered.
const REMEMBERED_BYTES: usize = 32;

/// Distinct chunks remembered: about 30 MB at worst.
const REMEMBERED_CHUNKS: usize = 1 << 18;

/// Encodes text and remembers the words it has seen: most words of a text have been seen before, and looking one up
/// is many times cheaper than normalising it. Used where the result is provably the same: BERT's pre-tokenizer cuts at
/// white space first, and its normaliser turns no other character into white space or back.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    remembered: HashMap<Box<str>, Range<u32>>,
    ids: Vec<u32>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, remembered: HashMap::new(), ids: Vec::new() }
    }

    /// The tokenizer behind it.
    pub fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    /// Appends the ids of a word that stands by itself: as in the middle of a text, where a space is before it.
    pub fn encode_word(&mut self, word: &str, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        if self.tokenizer.spaces_words && !word.is_empty() {
            return self.encode(&format!(" {word}"), out);
        }
        self.encode(word, out)
    }

    /// Appends the ids of two texts with a space between them, as of one; how many of these are of the first.
    pub(crate) fn encode_joined(
        &mut self,
        first: &str,
        second: &str,
        out: &mut Vec<u32>,
    ) -> Result<usize, CorpusError> {
        let start = out.len();
        if self.tokenizer.splits_at_space {
            self.encode(first, out)?;
            let of_first = out.len() - start;
            self.encode(second, out)?;
            return Ok(of_first);
        }
        let tokens = self.tokenizer.encode_with_ranges(&format!("{first} {second}"))?;
        out.extend(tokens.iter().map(|(id, _)| *id));
        // A token of the second may begin with the space, so that its end says where it belongs.
        Ok(tokens.iter().take_while(|(_, range)| range.end <= first.len()).count())
    }

    /// Appends the ids of `text` to `out`.
    pub fn encode(&mut self, text: &str, out: &mut Vec<u32>) -> Result<(), CorpusError> {
        if !self.tokenizer.splits_at_space {
            return self.tokenizer.encode_into(text, out);
        }
        for chunk in text.split([' ', '\t', '\n', '\r']).filter(|chunk| !chunk.is_empty()) {
            if chunk.len() > REMEMBERED_BYTES {
                self.tokenizer.encode_into(chunk, out)?;
                continue;
            }
            if let Some(range) = self.remembered.get(chunk) {
                out.extend_from_slice(&self.ids[range.start as usize..range.end as usize]);
                continue;
            }
            if self.remembered.len() == REMEMBERED_CHUNKS {
                self.remembered.clear();
                self.ids.clear();
            }
            let start = self.ids.len();
            self.tokenizer.encode_into(chunk, &mut self.ids)?;
            self.remembered.insert(chunk.into(), start as u32..self.ids.len() as u32);
            out.extend_from_slice(&self.ids[start..]);
        }
        Ok(())
    }
}
