//! A unit's rows as documents of sentences of tokens.

use crate::rows::append_ids;
use crate::tokenizer::Encoder;
use crate::{CorpusError, SpecialIds};
use arrow::array::{Array, LargeListArray};

/// Documents of sentences, flat: no allocation for each.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Documents {
    tokens: Vec<u32>,
    /// For each sentence, where it ends in `tokens`.
    sentence_ends: Vec<usize>,
    /// For each document, where it ends in `sentence_ends`.
    document_ends: Vec<usize>,
}

impl Documents {
    pub(crate) fn count(&self) -> usize {
        self.document_ends.len()
    }

    /// All tokens of a document.
    pub(crate) fn document(&self, document: usize) -> &[u32] {
        let sentences = self.sentences(document);
        let start = if sentences.start == 0 { 0 } else { self.sentence_ends[sentences.start - 1] };
        &self.tokens[start..self.sentence_ends[sentences.end - 1]]
    }

    /// How many sentences a document has; never 0.
    pub(crate) fn sentence_count(&self, document: usize) -> usize {
        self.sentences(document).len()
    }

    /// The tokens of a document's sentence; never empty.
    pub(crate) fn sentence(&self, document: usize, sentence: usize) -> &[u32] {
        let index = self.sentences(document).start + sentence;
        let start = if index == 0 { 0 } else { self.sentence_ends[index - 1] };
        &self.tokens[start..self.sentence_ends[index]]
    }

    fn sentences(&self, document: usize) -> std::ops::Range<usize> {
        let start = if document == 0 { 0 } else { self.document_ends[document - 1] };
        start..self.document_ends[document]
    }

    /// Adds a document of one text, cut into sentences if `by_sentence`.
    pub(crate) fn add_text(
        &mut self,
        text: &str,
        by_sentence: bool,
        encoder: &mut Encoder<'_>,
    ) -> Result<(), CorpusError> {
        if by_sentence {
            let mut outcome = Ok(());
            for_each_sentence(text, |sentence| {
                if outcome.is_ok() {
                    outcome = encoder.encode(sentence, &mut self.tokens);
                    self.end_sentence();
                }
            });
            outcome?;
        } else {
            encoder.encode(text, &mut self.tokens)?;
            self.end_sentence();
        }
        self.end_document();
        Ok(())
    }

    /// Adds a document of ready-made ids. `[SEP]` ends a sentence; it, `[CLS]` and `[PAD]` are dropped, since samples
    /// get their own. The error is the first value that is no id.
    pub(crate) fn add_ids(
        &mut self,
        lists: &LargeListArray,
        row: usize,
        special: SpecialIds,
        size: usize,
    ) -> Result<(), String> {
        let start = self.tokens.len();
        append_ids(lists, row, size, &mut self.tokens)?;
        let mut write = start;
        for read in start..self.tokens.len() {
            let id = self.tokens[read];
            if id == special.separator {
                if write > self.sentence_ends.last().copied().unwrap_or(0) {
                    self.sentence_ends.push(write);
                }
            } else if id != special.classify && id != special.pad {
                self.tokens[write] = id;
                write += 1;
            }
        }
        self.tokens.truncate(write);
        self.end_sentence();
        self.end_document();
        Ok(())
    }

    /// A document of sentences that are ids already, for tests.
    #[cfg(test)]
    pub(crate) fn add_sentences(&mut self, sentences: &[Vec<u32>]) {
        for sentence in sentences {
            self.tokens.extend_from_slice(sentence);
            self.end_sentence();
        }
        self.end_document();
    }

    fn end_sentence(&mut self) {
        if self.tokens.len() > self.sentence_ends.last().copied().unwrap_or(0) {
            self.sentence_ends.push(self.tokens.len());
        }
    }

    fn end_document(&mut self) {
        if self.sentence_ends.len() > self.document_ends.last().copied().unwrap_or(0) {
            self.document_ends.push(self.sentence_ends.len());
        }
    }
}

/// A document's sentences: its lines, or, where it has but one, what ends in `.`, `!` or `?` before white space or the
/// end. The full-width `。！？` end a sentence wherever they stand, since Chinese puts no space after them; closing
/// quotes and brackets stay with the sentence.
pub(crate) fn for_each_sentence<'a>(text: &'a str, mut found: impl FnMut(&'a str)) {
    let text = text.trim();
    if text.contains('\n') {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            found(line);
        }
        return;
    }
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((_, character)) = characters.next() {
        let full_width = matches!(character, '。' | '！' | '？');
        if !full_width && !matches!(character, '.' | '!' | '?') {
            continue;
        }
        let is_tail = |c: char| matches!(c, '"' | '\'' | ')' | ']' | '”' | '’' | '」' | '』' | '）' | '》');
        while characters.next_if(|(_, c)| is_tail(*c) || (full_width && matches!(c, '。' | '！' | '？'))).is_some() {
        }
        let (end, ends) = match characters.peek() {
            None => (text.len(), true),
            Some((at, next)) => (*at, full_width || next.is_whitespace()),
        };
        if ends {
            let sentence = text[start..end].trim();
            if !sentence.is_empty() {
                found(sentence);
            }
            start = end;
        }
    }
    let rest = text[start..].trim();
    if !rest.is_empty() {
        found(rest);
    }
}

/// Whether a row of a list holds something.
pub(crate) fn is_filled(lists: &LargeListArray, row: usize) -> bool {
    !lists.is_null(row) && lists.value_length(row) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for_each_sentence(text, |sentence| found.push(sentence));
        found
    }

    #[test]
    fn lines_come_before_full_stops() {
        assert_eq!(sentences("One. Two.\nThree.\n\n  Four \n"), ["One. Two.", "Three.", "Four"]);
    }

    #[test]
    fn one_line_is_cut_at_full_stops() {
        assert_eq!(
            sentences("It cost 3.50 now. \"Why?\" he said! Really... yes"),
            ["It cost 3.50 now.", "\"Why?\"", "he said!", "Really...", "yes"]
        );
        assert_eq!(sentences("你好。“走吧！”他说？！好"), ["你好。", "“走吧！”", "他说？！", "好"]);
        assert!(sentences(" \n ").is_empty());
    }

    #[test]
    fn documents_are_flat_and_never_empty() {
        let mut documents = Documents::default();
        documents.add_sentences(&[vec![1, 2], vec![], vec![3]]);
        documents.add_sentences(&[vec![]]);
        documents.add_sentences(&[vec![4]]);
        assert_eq!(documents.count(), 2);
        assert_eq!(documents.document(0), [1, 2, 3]);
        assert_eq!(documents.sentence_count(0), 2);
        assert_eq!(documents.sentence(0, 1), [3]);
        assert_eq!(documents.sentence(1, 0), [4]);
    }
}
