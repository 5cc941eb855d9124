//! Training a vocabulary of WordPiece or byte-level BPE, as Hugging Face's trainer does it: the most frequent pair of neighbouring pieces
//! becomes a piece, until the vocabulary is full. Our own, because theirs numbers pieces and breaks ties in the order
//! of a randomly seeded hash map; here the same text gives the same bytes on every machine.

mod byte_level;

pub use byte_level::{ByteLevelOptions, train_byte_level};

use super::{SPECIAL, Tokenizer, word_piece};
use crate::rows::TextRows;
use crate::source::{FileSource, UnitSource};
use crate::{CorpusError, ErrorKind, plan};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Longer words become `[UNK]` when text is encoded, so nothing is to be learned from them.
const WORD_CHARS: usize = 100;

/// White-space chunks up to this long are counted before they are normalised: most come back.
const COUNTED_BYTES: usize = 64;

/// Rows read at once.
const READ_ROWS: u64 = 4096;

/// What a vocabulary should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordPieceOptions {
    /// Tokens, special ones included.
    pub size: usize,
    /// Lower-case and strip accents.
    pub lowercase: bool,
    /// Characters and pairs that are rarer get no piece of their own.
    pub min_frequency: u64,
}

/// Trains a vocabulary on the text column of `files`. `progress` hears rows done and rows in all.
///
/// Characters come first, the most frequent ones up to three quarters of the vocabulary, so that a script of many
/// characters leaves room for words.
pub fn train_word_piece(
    files: &FileSource,
    options: WordPieceOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Tokenizer, CorpusError> {
    let mut counter = WordCounter::new(options.lowercase);
    each_text(files, progress, |text| counter.add(text))?;
    let words = counter.finish();
    if words.is_empty() {
        return Err(no_word(files));
    }
    let vocabulary = merge(words, options)?;
    let text: String = vocabulary.into_iter().flat_map(|token| [token, "\n".to_owned()]).collect();
    let inner = word_piece("the trained vocabulary", &text, options.lowercase)?;
    let json = inner.to_string(false).expect("a tokenizer made here can be written").into_bytes();
    Tokenizer::new("the trained vocabulary", inner, json)
}

/// Reads the text column from end to end.
fn each_text(
    files: &FileSource,
    progress: &mut dyn FnMut(u64, u64),
    mut found: impl FnMut(&str),
) -> Result<(), CorpusError> {
    let row_groups = files.files().iter().enumerate().flat_map(|(file, it)| {
        it.row_group_rows.iter().enumerate().map(move |(group, rows)| (file as u32, group as u32, *rows))
    });
    let units = plan::cut(row_groups, READ_ROWS);
    let total = units.iter().map(|unit| unit.rows).sum();
    let mut done = 0;
    for unit in units {
        let rows = TextRows::of(files.read(&unit)?.column(0)).map_err(|message| {
            CorpusError::new(
                ErrorKind::Type,
                files.place(&unit, None),
                message,
                "a vocabulary is trained on a column of text",
            )
        })?;
        let TextRows::Text(texts) = rows else {
            return Err(CorpusError::new(
                ErrorKind::Type,
                files.place(&unit, None),
                "the column holds lists, not text",
                "a vocabulary is trained on a column of text; name one",
            ));
        };
        for text in texts.iter().flatten() {
            found(text);
        }
        done += unit.rows;
        progress(done, total);
    }
    Ok(())
}

fn no_word(files: &FileSource) -> CorpusError {
    CorpusError::new(
        ErrorKind::Empty,
        files.files()[0].path.as_str(),
        "there is not one word in the column",
        "name the column that holds the text",
    )
}

/// Counts words as BERT's normaliser and pre-tokenizer see them.
struct WordCounter {
    normalizer: BertNormalizer,
    chunks: HashMap<Box<str>, u64>,
    words: HashMap<String, u64>,
}

impl WordCounter {
    fn new(lowercase: bool) -> Self {
        let normalizer = BertNormalizer::new(true, true, None, lowercase);
        Self { normalizer, chunks: HashMap::new(), words: HashMap::new() }
    }

    fn add(&mut self, text: &str) {
        for chunk in text.split([' ', '\t', '\n', '\r']).filter(|chunk| !chunk.is_empty()) {
            if chunk.len() > COUNTED_BYTES {
                self.count(chunk, 1);
            } else if let Some(count) = self.chunks.get_mut(chunk) {
                *count += 1;
            } else {
                self.chunks.insert(chunk.into(), 1);
            }
        }
    }

    fn count(&mut self, chunk: &str, times: u64) {
        let mut text = PreTokenizedString::from(chunk);
        let split = text
            .normalize(|part| self.normalizer.normalize(part))
            .and_then(|()| BertPreTokenizer.pre_tokenize(&mut text));
        split.expect("BERT's normaliser and pre-tokenizer accept any text");
        for (word, _, _) in text.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if let Some(count) = self.words.get_mut(word) {
                *count += times;
            } else {
                self.words.insert(word.to_owned(), times);
            }
        }
    }

    /// Words in order of their text.
    fn finish(mut self) -> Vec<(String, u64)> {
        for (chunk, times) in std::mem::take(&mut self.chunks) {
            self.count(&chunk, times);
        }
        let mut words: Vec<(String, u64)> = self.words.into_iter().collect();
        words.retain(|(word, _)| word.chars().count() <= WORD_CHARS);
        words.sort_unstable();
        words
    }
}

type Pair = (u32, u32);

/// Pieces by id, and ids by piece.
#[derive(Default)]
struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    fn id(&mut self, token: String) -> u32 {
        let next = self.tokens.len() as u32;
        *self.ids.entry(token).or_insert_with_key(|token| {
            self.tokens.push(token.clone());
            next
        })
    }
}

fn merge(words: Vec<(String, u64)>, options: WordPieceOptions) -> Result<Vec<String>, CorpusError> {
    let WordPieceOptions { size, min_frequency, .. } = options;
    let mut vocabulary = Vocabulary::default();
    for token in SPECIAL {
        vocabulary.id(token.to_owned());
    }
    let room = (size.saturating_sub(SPECIAL.len())) * 3 / 4;
    if room < 8 {
        return Err(CorpusError::new(
            ErrorKind::Tokenizer,
            "the vocabulary's size",
            format!("{size} tokens leave no room for words"),
            "8192 suits a small corpus, 30522 is BERT's",
        ));
    }
    let alphabet = Alphabet::of(&words, min_frequency, room);
    for character in alphabet.0.keys() {
        vocabulary.id(character.to_string());
    }
    for (character, _) in alphabet.0.iter().filter(|(_, within)| **within) {
        vocabulary.id(format!("##{character}"));
    }
    let mut pieces: Vec<(Vec<u32>, i64)> = Vec::new();
    for (word, count) in &words {
        if word.chars().all(|character| alphabet.0.contains_key(&character)) {
            let ids = word.chars().enumerate().map(|(at, character)| {
                vocabulary.id(if at == 0 { character.to_string() } else { format!("##{character}") })
            });
            pieces.push((ids.collect(), *count as i64));
        }
    }
    merge_pairs(&mut vocabulary, &mut pieces, size, min_frequency, |left, right| {
        format!("{left}{}", right.strip_prefix("##").unwrap_or(right))
    });
    Ok(vocabulary.tokens)
}

/// Makes the most frequent pair of neighbours a piece, again and again, until there are `size` tokens or all pairs are
/// rarer than `min_frequency`; the pairs in that order. `join` writes the piece that two others make.
fn merge_pairs(
    vocabulary: &mut Vocabulary,
    pieces: &mut [(Vec<u32>, i64)],
    size: usize,
    min_frequency: u64,
    join: impl Fn(&str, &str) -> String,
) -> Vec<Pair> {
    let mut merges = Vec::new();
    let mut counts: HashMap<Pair, i64> = HashMap::new();
    let mut places: HashMap<Pair, Vec<u32>> = HashMap::new();
    for (index, (ids, count)) in pieces.iter().enumerate() {
        for pair in ids.windows(2).map(|pair| (pair[0], pair[1])) {
            *counts.entry(pair).or_default() += count;
            places.entry(pair).or_default().push(index as u32);
        }
    }
    // Ordered by count, then by the smaller ids: a total order, so nothing depends on a hash map's.
    let mut heap: BinaryHeap<(i64, Reverse<Pair>)> =
        counts.iter().map(|(pair, count)| (*count, Reverse(*pair))).collect();
    while vocabulary.tokens.len() < size {
        let Some((count, Reverse(pair))) = heap.pop() else { break };
        let current = counts.get(&pair).copied().unwrap_or(0);
        if current != count {
            // An outdated entry; whenever a count rises a new entry is pushed, so here it fell.
            if current > 0 && current < count {
                heap.push((current, Reverse(pair)));
            }
            continue;
        }
        if count < min_frequency.max(1) as i64 {
            break;
        }
        let (left, right) = (&vocabulary.tokens[pair.0 as usize], &vocabulary.tokens[pair.1 as usize]);
        let id = vocabulary.id(join(left, right));
        merges.push(pair);
        counts.remove(&pair);
        let mut at = places.remove(&pair).unwrap_or_default();
        at.sort_unstable();
        at.dedup();
        let mut risen: BTreeMap<Pair, ()> = BTreeMap::new();
        for index in at {
            let (ids, count) = &mut pieces[index as usize];
            replace(ids, pair, id, |old, new| {
                for gone in old {
                    if let Some(total) = counts.get_mut(&gone) {
                        *total -= *count;
                    }
                }
                for made in new {
                    *counts.entry(made).or_default() += *count;
                    places.entry(made).or_default().push(index);
                    risen.insert(made, ());
                }
            });
        }
        heap.extend(risen.into_keys().filter_map(|pair| counts.get(&pair).map(|count| (*count, Reverse(pair)))));
    }
    merges
}

/// Replaces each `pair` in `ids` by `id`, left to right; `changed` hears the neighbouring pairs that went and came.
fn replace(ids: &mut Vec<u32>, pair: Pair, id: u32, mut changed: impl FnMut(Vec<Pair>, Vec<Pair>)) {
    let before: Vec<Pair> = ids.windows(2).map(|two| (two[0], two[1])).collect();
    let mut write = 0;
    let mut read = 0;
    while read < ids.len() {
        if read + 1 < ids.len() && (ids[read], ids[read + 1]) == pair {
            ids[write] = id;
            read += 2;
        } else {
            ids[write] = ids[read];
            read += 1;
        }
        write += 1;
    }
    ids.truncate(write);
    changed(before, ids.windows(2).map(|two| (two[0], two[1])).collect());
}

/// The characters that get a piece, and whether each is seen within words (and so needs a `##` piece too).
struct Alphabet(BTreeMap<char, bool>);

impl Alphabet {
    fn of(words: &[(String, u64)], min_frequency: u64, room: usize) -> Self {
        let mut seen: BTreeMap<char, (u64, bool)> = BTreeMap::new();
        for (word, count) in words {
            for (at, character) in word.chars().enumerate() {
                let entry = seen.entry(character).or_default();
                entry.0 += count;
                entry.1 |= at > 0;
            }
        }
        let mut by_frequency: Vec<(char, u64, bool)> =
            seen.into_iter().map(|(character, (count, within))| (character, count, within)).collect();
        by_frequency.retain(|(_, count, _)| *count >= min_frequency);
        by_frequency.sort_by_key(|(character, count, _)| (Reverse(*count), *character));
        let mut used = 0;
        let kept = by_frequency.into_iter().take_while(|(_, _, within)| {
            used += 1 + usize::from(*within);
            used <= room
        });
        Self(kept.map(|(character, _, within)| (character, within)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same definition without any bookkeeping: all pairs are counted anew for every merge.
    fn merge_slowly(words: &[(String, u64)], size: usize, min_frequency: u64) -> Vec<String> {
        let room = (size - SPECIAL.len()) * 3 / 4;
        let alphabet = Alphabet::of(words, min_frequency, room).0;
        let mut vocabulary = Vocabulary::default();
        for token in SPECIAL {
            vocabulary.id(token.to_owned());
        }
        for character in alphabet.keys() {
            vocabulary.id(character.to_string());
        }
        for (character, _) in alphabet.iter().filter(|(_, within)| **within) {
            vocabulary.id(format!("##{character}"));
        }
        let known = words.iter().filter(|(word, _)| word.chars().all(|c| alphabet.contains_key(&c)));
        let mut pieces: Vec<(Vec<u32>, u64)> = known
            .map(|(word, count)| {
                let token = |(at, c): (usize, char)| if at == 0 { c.to_string() } else { format!("##{c}") };
                (word.chars().enumerate().map(token).map(|token| vocabulary.id(token)).collect(), *count)
            })
            .collect();
        while vocabulary.tokens.len() < size {
            let mut counts: BTreeMap<Pair, u64> = BTreeMap::new();
            for (ids, count) in &pieces {
                ids.windows(2).for_each(|two| *counts.entry((two[0], two[1])).or_default() += count);
            }
            let Some((pair, count)) = counts.into_iter().max_by_key(|(pair, count)| (*count, Reverse(*pair))) else {
                break;
            };
            if count < min_frequency.max(1) {
                break;
            }
            let (left, right) = (&vocabulary.tokens[pair.0 as usize], &vocabulary.tokens[pair.1 as usize]);
            let merged = format!("{left}{}", right.strip_prefix("##").unwrap_or(right));
            let id = vocabulary.id(merged);
            pieces.iter_mut().for_each(|(ids, _)| replace(ids, pair, id, |_, _| ()));
        }
        vocabulary.tokens
    }

    proptest! {
        #[test]
        fn bookkeeping_changes_nothing(
            words in proptest::collection::btree_map("[abc]{1,9}", 1u64..20, 1..30),
            size in 20usize..70,
            min_frequency in 0u64..4,
        ) {
            let words: Vec<(String, u64)> = words.into_iter().collect();
            let options = WordPieceOptions { size, lowercase: true, min_frequency };
            prop_assert_eq!(merge(words.clone(), options).unwrap(), merge_slowly(&words, size, min_frequency));
        }
    }

    #[test]
    fn rare_characters_leave_room_for_words() {
        let mut words: Vec<(String, u64)> =
            (0..500u32).map(|n| (char::from_u32(0x4e00 + n).unwrap().to_string(), 1)).collect();
        words.push(("hello".to_owned(), 100));
        words.sort();
        let tokens = merge(words, WordPieceOptions { size: 60, lowercase: true, min_frequency: 1 }).unwrap();
        assert_eq!(tokens.len(), 5 + 41 + 4, "special ones, characters at most, and the four merges of one word");
        assert!(tokens.contains(&"hello".to_owned()));
    }
}
