//! Labelled samples: texts or pairs with a class, sentences with a tag for each word.

use super::{Samples, Targets};
use crate::CorpusError;
use crate::SpecialIds;
use crate::batch::IGNORED;
use crate::tokenizer::Encoder;

/// Adds samples to a unit and counts what had to be cut.
pub(crate) struct LabelledBuilder<'a, 'b> {
    pub(crate) samples: Samples,
    pub(crate) encoder: &'b mut Encoder<'a>,
    pub(crate) sequence_length: usize,
    /// Samples that were longer than the sequence.
    pub(crate) truncated: u64,
}

impl LabelledBuilder<'_, '_> {
    fn special(&self) -> SpecialIds {
        self.encoder.tokenizer().special()
    }

    fn end_sample(&mut self) {
        self.samples.ends.push(self.samples.tokens.len());
    }

    /// `[CLS] text [SEP]`, cut at the end.
    pub(crate) fn add_text(&mut self, text: &str, class: i64) -> Result<(), CorpusError> {
        let SpecialIds { classify, separator, .. } = self.special();
        let tokens = &mut self.samples.tokens;
        let start = tokens.len();
        tokens.push(classify);
        self.encoder.encode(text, tokens)?;
        if tokens.len() - start > self.sequence_length - 1 {
            tokens.truncate(start + self.sequence_length - 1);
            self.truncated += 1;
        }
        tokens.push(separator);
        self.add_class(class);
        Ok(())
    }

    /// `[CLS] first [SEP] second [SEP]`; what is too much is cut from the end of the longer one.
    pub(crate) fn add_pair(&mut self, first: &str, second: &str, class: i64) -> Result<(), CorpusError> {
        let SpecialIds { classify, separator, .. } = self.special();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        self.encoder.encode(first, &mut a)?;
        self.encoder.encode(second, &mut b)?;
        let room = self.sequence_length - 3;
        if a.len() + b.len() > room {
            self.truncated += 1;
            // Longest first: the shorter one keeps all it has, up to half of the room.
            let b_keeps = b.len().min((room / 2).max(room.saturating_sub(a.len())));
            a.truncate(room - b_keeps);
            b.truncate(b_keeps);
        }
        let tokens = &mut self.samples.tokens;
        tokens.push(classify);
        tokens.extend_from_slice(&a);
        tokens.push(separator);
        self.samples.first_segment.push(a.len() + 2);
        tokens.extend_from_slice(&b);
        tokens.push(separator);
        self.add_class(class);
        Ok(())
    }

    fn add_class(&mut self, class: i64) {
        let Targets::Class(classes) = &mut self.samples.targets else { unreachable!("made for classes") };
        classes.push(class);
        self.end_sample();
    }

    /// `[CLS] words [SEP]`: the tag on the first piece of each word, nothing on the rest. Words that do not fit are
    /// left out whole or in part.
    pub(crate) fn add_tagged<'w>(&mut self, words: impl Iterator<Item = (&'w str, i64)>) -> Result<(), CorpusError> {
        let SpecialIds { classify, separator, unknown, .. } = self.special();
        let Samples { tokens, targets: Targets::Tags(tags), .. } = &mut self.samples else {
            unreachable!("made for tags")
        };
        let most = tokens.len() + self.sequence_length - 1;
        tokens.push(classify);
        tags.push(IGNORED);
        for (word, tag) in words {
            let start = tokens.len();
            if start >= most {
                self.truncated += 1;
                break;
            }
            self.encoder.encode(word, tokens)?;
            if tokens.len() == start {
                // A word of nothing that the tokenizer keeps still has its tag.
                tokens.push(unknown);
            }
            tokens.truncate(most);
            tags.push(tag);
            tags.resize(tokens.len(), IGNORED);
        }
        tokens.push(separator);
        tags.push(IGNORED);
        self.end_sample();
        Ok(())
    }
}
