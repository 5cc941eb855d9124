//! Which bytes of a text each of its tokens stands for.

use super::Tokenizer;
use crate::{CorpusError, ErrorKind};
use std::ops::Range;

impl Tokenizer {
    /// The ids of `text`, without special tokens around it, each with the bytes of `text` that it stands for. The ranges
    /// begin and end between characters.
    pub fn encode_with_ranges(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, CorpusError> {
        let encoding = self.inner.encode(text, false).map_err(|error| {
            CorpusError::new(
                ErrorKind::Tokenizer,
                "tokenizer",
                format!("cannot encode: {error}"),
                "check that the tokenizer's model has an unknown token",
            )
        })?;
        let ids = encoding.get_ids().iter().copied();
        Ok(ids.zip(encoding.get_offsets().iter().map(|(start, end)| *start..*end)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_bytes_of_the_text_as_it_was_given() {
        let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncafe\n##s\n苹\n果\n";
        let tokenizer = Tokenizer::from_bytes("vocab.txt", words.as_bytes(), true).unwrap();
        let text = "Two Cafés: 苹果[MASK]";
        let tokens = tokenizer.encode_with_ranges(text).unwrap();
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, tokenizer.encode(text).unwrap());
        let pieces: Vec<&str> = tokens.iter().map(|(_, range)| &text[range.clone()]).collect();
        assert_eq!(pieces, ["Two", "Café", "s", ":", "苹", "果", "[MASK]"]);
    }
}
