//! Batches of unlabelled input, for prediction with a trained model.

use crate::answers::Question;
use crate::batch::Batch;
use crate::cloze::Cloze;
use crate::samples::labelled::{LabelledBuilder, Target};
use crate::samples::masking::Amount;
use crate::samples::{Assembler, Form, MaskKey, Samples, Targets};
use crate::{CorpusError, Encoder, Tokenizer};
use config::AnswerWindows;
use std::sync::Arc;

/// A batch of texts, or of pairs with as many `second` texts, built as in training; its classes are all 0 and mean
/// nothing. And which texts were cut.
pub fn text_batch(
    tokenizer: &Tokenizer,
    texts: &[&str],
    second: Option<&[&str]>,
    sequence_length: usize,
) -> Result<(Batch, Vec<bool>), CorpusError> {
    let mut encoder = tokenizer.encoder();
    let mut builder = builder(Targets::Class(Vec::new()), &mut encoder, sequence_length);
    assert!(second.is_none_or(|second| second.len() == texts.len()), "each text needs its second one");
    let cut = add_each(&mut builder, texts.iter().enumerate(), |builder, (index, text)| match second {
        Some(second) => builder.add_pair(text, second[index], Target::Class(0)),
        None => builder.add_text(text, Target::Class(0)),
    })?;
    Ok((assemble(tokenizer, &builder.samples, sequence_length), cut))
}

/// A batch of texts, each with its second one where the prompt has a place for it, in a prompt, built as in training; its
/// labels are all 0 and mean nothing. And which texts were cut.
pub fn cloze_batch(
    tokenizer: &Tokenizer,
    cloze: &Cloze,
    texts: &[(&str, Option<&str>)],
    sequence_length: usize,
) -> Result<(Batch, Vec<bool>), CorpusError> {
    let mut encoder = tokenizer.encoder();
    let targets = Targets::Cloze { words: Arc::clone(cloze.words()), places: Vec::new() };
    let mut builder = builder(targets, &mut encoder, sequence_length);
    let cut =
        add_each(&mut builder, texts, |builder, (text, pair)| builder.add_cloze(cloze, text, *pair, Target::Class(0)))?;
    Ok((assemble(tokenizer, &builder.samples, sequence_length), cut))
}

/// A batch of texts, each with the choices it has and perhaps a question that is read before them, built as in training:
/// a row for each choice; the right ones are all 0 and mean nothing. And which texts were cut.
pub fn choice_batch(
    tokenizer: &Tokenizer,
    texts: &[(&str, Option<&str>, Vec<&str>)],
    sequence_length: usize,
) -> Result<(Batch, Vec<bool>), CorpusError> {
    let mut encoder = tokenizer.encoder();
    let mut builder = builder(Targets::Choice(Vec::new()), &mut encoder, sequence_length);
    let cut = add_each(&mut builder, texts, |builder, (text, question, choices)| {
        builder.add_choices(text, *question, choices, 0)
    })?;
    Ok((assemble(tokenizer, &builder.samples, sequence_length), cut))
}

/// A batch of sentences of words, built as in training: its tags are the word's number in its sentence, from 0, on the
/// first piece of each word that fits. And which sentences were cut.
pub fn word_batch(
    tokenizer: &Tokenizer,
    sentences: &[Vec<&str>],
    sequence_length: usize,
) -> Result<(Batch, Vec<bool>), CorpusError> {
    let mut encoder = tokenizer.encoder();
    let mut builder = builder(Targets::Tags(Vec::new()), &mut encoder, sequence_length);
    let cut = add_each(&mut builder, sentences, |builder, words| {
        builder.add_tagged(words.iter().zip(0..).map(|(word, number)| (*word, number)))
    })?;
    Ok((assemble(tokenizer, &builder.samples, sequence_length), cut))
}

/// Batches of `rows` rows at most with all windows of these questions with their passages, in order.
pub fn question_batches(
    tokenizer: &Tokenizer,
    questions: &[(&str, &str)],
    windows: AnswerWindows,
    rows: usize,
) -> Result<Vec<Batch>, CorpusError> {
    let mut encoder = tokenizer.encoder();
    let mut builder = builder(Targets::Answer(Vec::new()), &mut encoder, windows.sequence_length);
    for question in questions {
        let question = Question::new(tokenizer, *question, &[], windows)?;
        builder.add_question(&question.expect("there is no answer that could be lost"), windows);
    }
    let samples = builder.samples;
    let all: Vec<(&Samples, usize)> = (0..samples.count()).map(|row| (&samples, row)).collect();
    let form = Form { row_length: windows.sequence_length, amount: Amount::default() };
    let assembler = Assembler { pad: tokenizer.special().pad, masker: None };
    Ok(all.chunks(rows.max(1)).map(|rows| assembler.batch(rows, form)).collect())
}

/// A batch of pairs whose texts stand in rows of their own, first and second in turn. And which pairs were cut.
pub fn separate_batch(
    tokenizer: &Tokenizer,
    pairs: &[(&str, &str)],
    sequence_length: usize,
) -> Result<(Batch, Vec<bool>), CorpusError> {
    let mut encoder = tokenizer.encoder();
    let mut builder = builder(Targets::Match(Vec::new()), &mut encoder, sequence_length);
    let cut = add_each(&mut builder, pairs, |builder, (first, second)| builder.add_separate(first, second))?;
    Ok((assemble(tokenizer, &builder.samples, sequence_length), cut))
}

/// Adds one sample after the other, and tells which of them were cut.
fn add_each<'a, 'b, T>(
    builder: &mut LabelledBuilder<'a, 'b>,
    samples: impl IntoIterator<Item = T>,
    mut add: impl FnMut(&mut LabelledBuilder<'a, 'b>, T) -> Result<(), CorpusError>,
) -> Result<Vec<bool>, CorpusError> {
    let mut cut = Vec::new();
    for sample in samples {
        let before = builder.truncated;
        add(builder, sample)?;
        cut.push(builder.truncated > before);
    }
    Ok(cut)
}

fn builder<'a, 'b>(targets: Targets, encoder: &'b mut Encoder<'a>, sequence_length: usize) -> LabelledBuilder<'a, 'b> {
    LabelledBuilder::new(targets, MaskKey::default(), encoder, sequence_length)
}

fn assemble(tokenizer: &Tokenizer, samples: &Samples, sequence_length: usize) -> Batch {
    let rows: Vec<(&Samples, usize)> = (0..samples.count()).map(|row| (samples, row)).collect();
    let form = Form { row_length: sequence_length, amount: Amount::default() };
    Assembler { pad: tokenizer.special().pad, masker: None }.batch(&rows, form)
}
