//! Sentences as numbers of words.

use std::cmp::Reverse;
use std::collections::HashMap;

/// Sentences, in memory as four bytes a word.
#[derive(Debug, Default)]
pub struct Corpus {
    numbers: HashMap<String, u32>,
    counts: Vec<u64>,
    tokens: Vec<u32>,
    /// For each sentence, where it ends in `tokens`.
    ends: Vec<usize>,
}

/// What training works on: only the words that are frequent enough, the most frequent one first.
pub(crate) struct Counted {
    pub words: Vec<String>,
    pub counts: Vec<u64>,
    pub sentences: Vec<Vec<u32>>,
}

impl Corpus {
    /// Adds a sentence: contexts do not reach beyond it.
    pub fn add<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        for word in words {
            let number = match self.numbers.get(word) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(self.counts.len()).expect("fewer than 2^32 distinct words");
                    self.numbers.insert(word.to_owned(), number);
                    self.counts.push(0);
                    number
                }
            };
            self.counts[number as usize] += 1;
            self.tokens.push(number);
        }
        self.ends.push(self.tokens.len());
    }

    /// Words in all.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Distinct words that stand at least `min_count` times.
    pub fn frequent(&self, min_count: u64) -> usize {
        self.counts.iter().filter(|count| **count >= min_count).count()
    }

    pub(crate) fn counted(self, min_count: u64) -> Counted {
        let Self { numbers, counts, tokens, ends } = self;
        let mut kept: Vec<(String, u32)> =
            numbers.into_iter().filter(|(_, number)| counts[*number as usize] >= min_count).collect();
        kept.sort_unstable_by(|(a, first), (b, second)| {
            let key = |number: u32| Reverse(counts[number as usize]);
            key(*first).cmp(&key(*second)).then_with(|| a.cmp(b))
        });
        let mut renumbered = vec![None; counts.len()];
        for (number, (_, before)) in (0..).zip(&kept) {
            renumbered[*before as usize] = Some(number);
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let sentences = starts.zip(&ends).map(|(start, end)| {
            tokens[start..*end].iter().filter_map(|token| renumbered[*token as usize]).collect::<Vec<u32>>()
        });
        Counted {
            // One word has no context.
            sentences: sentences.filter(|sentence| sentence.len() > 1).collect(),
            counts: kept.iter().map(|(_, number)| counts[*number as usize]).collect(),
            words: kept.into_iter().map(|(word, _)| word).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_are_left_out_and_frequent_ones_come_first() {
        let mut corpus = Corpus::default();
        corpus.add(["b", "a", "once", "c"]);
        corpus.add(["c", "b", "c"]);
        corpus.add(["a"]);
        assert_eq!((corpus.tokens(), corpus.frequent(2)), (8, 3));
        let counted = corpus.counted(2);
        assert_eq!(counted.words, ["c", "a", "b"], "of equals, in the order of the alphabet");
        assert_eq!(counted.counts, [3, 2, 2]);
        assert_eq!(counted.sentences, [vec![2, 1, 0], vec![0, 2, 0]]);
    }
}
