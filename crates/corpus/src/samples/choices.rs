//! Multiple choice: a text with each of its choices, as sequences of two parts.

use super::labelled::{LabelledBuilder, longest_first};
use super::{Assembler, Samples, Targets};
use crate::batch::{Batch, Labels};
use crate::{CorpusError, SpecialIds};
use std::collections::HashSet;

/// The choices of one sample. Their sequences follow each other in the sample's tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChoiceSample {
    /// Of each sequence: its tokens, and how many of these are of segment 0.
    lengths: Vec<[usize; 2]>,
    /// The number of the right one.
    right: i64,
}

impl LabelledBuilder<'_, '_> {
    /// For each choice `[CLS] text [SEP] question choice [SEP]`, with as many separators in the middle as the tokenizer puts
    /// there. What is too much is cut from the end of the longer part; of the second one from the question first, so that
    /// something of the choice always stays: an unknown token, where the tokenizer keeps nothing of it.
    pub(crate) fn add_choices(
        &mut self,
        text: &str,
        question: Option<&str>,
        choices: &[&str],
        right: i64,
    ) -> Result<(), CorpusError> {
        let SpecialIds { classify, separator, unknown, .. } = self.encoder.tokenizer().special();
        let separators = self.encoder.tokenizer().separators_between();
        let room = self.sequence_length - 2 - separators;
        let question = question.map(str::trim).filter(|question| !question.is_empty());
        let mut first = Vec::new();
        self.encoder.encode(text, &mut first)?;
        let start = self.samples.tokens.len();
        let (mut lengths, mut cut) = (Vec::with_capacity(choices.len()), false);
        for choice in choices {
            let mut second = Vec::new();
            let asked = match question {
                Some(question) => self.encoder.encode_joined(question, choice.trim(), &mut second)?,
                None => {
                    self.encoder.encode(choice, &mut second)?;
                    0
                }
            };
            if second.len() == asked {
                second.push(unknown);
            }
            let mut first_keeps = first.len();
            if first.len() + second.len() > room {
                cut = true;
                let second_keeps;
                (first_keeps, second_keeps) = longest_first(first.len(), second.len(), room);
                let of_question = (second.len() - second_keeps).min(asked);
                second.drain(asked - of_question..asked);
                second.truncate(second_keeps);
            }
            let tokens = &mut self.samples.tokens;
            let begin = tokens.len();
            tokens.push(classify);
            tokens.extend_from_slice(&first[..first_keeps]);
            tokens.resize(tokens.len() + separators, separator);
            let in_first_segment = tokens.len() - begin;
            tokens.extend_from_slice(&second);
            tokens.push(separator);
            lengths.push([tokens.len() - begin, in_first_segment]);
        }
        self.truncated += u64::from(cut);
        let mut rest = &self.samples.tokens[start..];
        let mut known = HashSet::new();
        let alike = lengths.iter().any(|[length, _]| {
            let (row, after) = rest.split_at(*length);
            rest = after;
            !known.insert(row)
        });
        self.alike += u64::from(alike);
        let Targets::Choice(all) = &mut self.samples.targets else { unreachable!("made for choices") };
        all.push(ChoiceSample { lengths, right });
        self.samples.ends.push(self.samples.tokens.len());
        Ok(())
    }
}

impl Assembler {
    /// Each choice of each sample as a row of its own.
    pub(super) fn choices(&self, chosen: &[(&Samples, usize)], row_length: usize) -> Batch {
        let (mut rows, mut firsts): (Vec<&[u32]>, Vec<usize>) = (Vec::new(), Vec::new());
        let (mut counts, mut right) = (Vec::with_capacity(chosen.len()), Vec::with_capacity(chosen.len()));
        for (samples, sample) in chosen {
            let Targets::Choice(all) = &samples.targets else { unreachable!("a batch mixes objectives") };
            let own = &all[*sample];
            let mut rest = &samples.tokens[samples.range(*sample)];
            for [length, first] in &own.lengths {
                let (row, after) = rest.split_at(*length);
                rows.push(row);
                firsts.push(*first);
                rest = after;
            }
            counts.push(own.lengths.len() as i64);
            right.push(own.right);
        }
        let mut batch = self.padded(&rows, row_length, Labels::Choice { counts, right });
        let length = batch.sequence_length;
        let mut segments = vec![0; batch.ids.len()];
        for ((row, first), segments) in rows.iter().zip(&firsts).zip(segments.chunks_mut(length)) {
            segments[*first..row.len()].fill(1);
        }
        batch.segment_ids = Some(segments);
        batch
    }
}
