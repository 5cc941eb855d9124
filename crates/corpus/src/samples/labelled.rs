//! Labelled samples: texts or pairs with a class, sentences with a tag for each word.

use super::{MaskKey, Samples, Targets};
use crate::CorpusError;
use crate::SpecialIds;
use crate::answers::Question;
use crate::batch::IGNORED;
use crate::cloze::Cloze;
use crate::tokenizer::Encoder;
use config::AnswerWindows;

/// Adds samples to a unit and counts what had to be cut.
pub(crate) struct LabelledBuilder<'a, 'b> {
    pub(crate) samples: Samples,
    pub(crate) encoder: &'b mut Encoder<'a>,
    pub(crate) sequence_length: usize,
    /// Samples that were longer than the sequence.
    pub(crate) truncated: u64,
    /// Samples with choices of which two are the same tokens.
    pub(crate) alike: u64,
}

/// What a text or a pair has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// The index of its label.
    Class(i64),
    /// A number.
    Score(f64),
}

impl<'a, 'b> LabelledBuilder<'a, 'b> {
    /// No samples yet.
    pub(crate) fn new(targets: Targets, key: MaskKey, encoder: &'b mut Encoder<'a>, sequence_length: usize) -> Self {
        Self { samples: Samples::new(targets, key), encoder, sequence_length, truncated: 0, alike: 0 }
    }
}

impl LabelledBuilder<'_, '_> {
    fn special(&self) -> SpecialIds {
        self.encoder.tokenizer().special()
    }

    fn end_sample(&mut self) {
        self.samples.ends.push(self.samples.tokens.len());
    }

    /// `[CLS] text [SEP]`, cut at the end.
    pub(crate) fn add_text(&mut self, text: &str, target: Target) -> Result<(), CorpusError> {
        self.push_text(text)?;
        self.add_target(target);
        Ok(())
    }

    /// A text, or two, in a prompt.
    pub(crate) fn add_cloze(
        &mut self,
        cloze: &Cloze,
        text: &str,
        pair: Option<&str>,
        target: Target,
    ) -> Result<(), CorpusError> {
        let filled = cloze.fill(self.encoder.tokenizer(), text, pair, self.sequence_length)?;
        let (Targets::Cloze { places, .. }, Target::Class(label)) = (&mut self.samples.targets, target) else {
            unreachable!("made for another kind of target")
        };
        places.push((filled.mask, label));
        self.truncated += u64::from(filled.cut);
        self.samples.tokens.extend(filled.ids);
        self.end_sample();
        Ok(())
    }

    /// The two texts of a pair by themselves, each as in [`LabelledBuilder::add_text`].
    pub(crate) fn add_separate(&mut self, first: &str, second: &str) -> Result<(), CorpusError> {
        let lengths = [self.push_text(first)?, self.push_text(second)?];
        let Targets::Match(all) = &mut self.samples.targets else { unreachable!("made for pairs that match") };
        all.push(lengths);
        self.end_sample();
        Ok(())
    }

    /// `[CLS] question [SEP] passage [SEP]` for each window of the passage, with as many separators in the middle as the
    /// tokenizer puts there.
    pub(crate) fn add_question(&mut self, question: &Question, rule: AnswerWindows) {
        let SpecialIds { classify, separator, .. } = self.special();
        for (window, span) in question.windows(rule) {
            let Samples { tokens, first_segment, targets: Targets::Answer(targets), .. } = &mut self.samples else {
                unreachable!("made for questions")
            };
            tokens.push(classify);
            tokens.extend_from_slice(&question.question);
            tokens.resize(tokens.len() + question.separators, separator);
            first_segment.push(window.first);
            tokens.extend_from_slice(&question.passage[window.tokens.clone()]);
            tokens.push(separator);
            targets.push((window, span));
            self.end_sample();
        }
    }

    /// How many tokens there are of it.
    fn push_text(&mut self, text: &str) -> Result<usize, CorpusError> {
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
        Ok(tokens.len() - start)
    }

    /// `[CLS] first [SEP] second [SEP]`, with as many separators in the middle as the tokenizer puts there; what is too much
    /// is cut from the end of the longer one.
    pub(crate) fn add_pair(&mut self, first: &str, second: &str, target: Target) -> Result<(), CorpusError> {
        let SpecialIds { classify, separator, .. } = self.special();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        self.encoder.encode(first, &mut a)?;
        self.encoder.encode(second, &mut b)?;
        let separators = self.encoder.tokenizer().separators_between();
        let room = self.sequence_length - 2 - separators;
        if a.len() + b.len() > room {
            self.truncated += 1;
            let (a_keeps, b_keeps) = longest_first(a.len(), b.len(), room);
            a.truncate(a_keeps);
            b.truncate(b_keeps);
        }
        let tokens = &mut self.samples.tokens;
        tokens.push(classify);
        tokens.extend_from_slice(&a);
        tokens.resize(tokens.len() + separators, separator);
        self.samples.first_segment.push(a.len() + 1 + separators);
        tokens.extend_from_slice(&b);
        tokens.push(separator);
        self.add_target(target);
        Ok(())
    }

    fn add_target(&mut self, target: Target) {
        match (&mut self.samples.targets, target) {
            (Targets::Class(classes), Target::Class(class)) => classes.push(class),
            (Targets::Score(scores), Target::Score(score)) => scores.push(score),
            _ => unreachable!("made for another kind of target"),
        }
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
        let mut cut = false;
        tokens.push(classify);
        tags.push(IGNORED);
        for (word, tag) in words {
            let start = tokens.len();
            if start >= most {
                cut = true;
                break;
            }
            self.encoder.encode_word(word, tokens)?;
            if tokens.len() == start {
                // A word of nothing that the tokenizer keeps still has its tag.
                tokens.push(unknown);
            }
            cut |= tokens.len() > most;
            tokens.truncate(most);
            tags.push(tag);
            tags.resize(tokens.len(), IGNORED);
        }
        self.truncated += u64::from(cut);
        tokens.push(separator);
        tags.push(IGNORED);
        self.end_sample();
        Ok(())
    }
}

/// How much of two parts is kept that have no room together. Longest first: the shorter one keeps all it has, up to half of the
/// room.
pub(super) fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    let second_keeps = second.min((room / 2).max(room.saturating_sub(first)));
    (room - second_keeps, second_keeps)
}
