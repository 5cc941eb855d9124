//! One word in several texts: a vector for each place, where a table of words has a single one.

use super::vector;
use crate::cli::Problem;
use crate::loaded::{Cuts, Loaded};
use crate::source::Line;
use serde_json::{Value, json};
use std::io::Write;
use std::ops::Range;
use tch::{Kind, Tensor};
use word2vec::Vectors;

/// Texts that are compared with each other: a table of so many rows and columns has 32 MB.
const TEXTS_MAX: usize = 2_000;

/// A word's vectors by context.
pub struct Explained {
    word: String,
    /// The texts that hold the word, in order.
    texts: Vec<String>,
    /// Which of them did not fit: the word was read, and the end was not.
    cut: Vec<bool>,
    /// Of each pair of texts, row by row: the cosine of the word's vectors.
    cosines: Vec<Vec<f64>>,
    /// Texts that hold the word behind what is read of them.
    unread: usize,
    /// Texts that do not hold the word.
    without: usize,
}

/// Reads the texts and compares the word's vectors: the mean of the last hidden states of its pieces, at its first place
/// in each text.
pub fn explain(loaded: &Loaded, word: &str, lines: &[Line], batch: usize) -> Result<Explained, Problem> {
    let (mut found, mut cut, mut unread) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let Some(place) = find(&line.text, word) else { continue };
        let tokens = loaded.tokens(&line.text)?;
        let end = tokens.ranges.iter().map(|range| range.end).max().unwrap_or(0);
        if tokens.cut && end < place.end {
            unread += 1;
            continue;
        }
        let overlaps = |range: &Range<usize>| range.start < place.end && place.start < range.end;
        let pieces: Vec<i64> =
            tokens.ranges.iter().zip(0..).filter(|(range, _)| overlaps(range)).map(|(_, at)| at).collect();
        if !pieces.is_empty() {
            found.push((line.text.clone(), tokens.ids, pieces));
            cut.push(tokens.cut);
        }
    }
    if found.len() < 2 {
        let (behind, help) = match unread {
            0 => (String::new(), "give texts, one a line, with the word in different senses"),
            _ => (
                format!(" (in {unread} more it stands behind the tokens that are read)"),
                "shorten the texts, or raise --max-length as far as the model goes",
            ),
        };
        let (held, all) = (found.len(), lines.len());
        let text = format!("`{word}` stands in {held} of {all} texts{behind}: there is nothing to compare");
        return Err(Problem::input(text).with_help(help));
    }
    if found.len() > TEXTS_MAX {
        let text = format!("`{word}` stands in {} texts, and each is compared with each", found.len());
        return Err(Problem::input(text).with_help(format!("give {TEXTS_MAX} texts at most")));
    }
    let mut vectors = Vec::new();
    for chosen in found.chunks(batch) {
        let ids: Vec<&[u32]> = chosen.iter().map(|(_, ids, _)| ids.as_slice()).collect();
        let (hidden, _) = loaded.encode(&ids);
        for ((.., pieces), row) in chosen.iter().zip(0..) {
            let places = Tensor::from_slice(pieces).to_device(hidden.device());
            let mean = hidden.get(row).index_select(0, &places).mean_dim(0, false, Kind::Float);
            vectors.push(vector(&mean));
        }
    }
    let cosines = vectors.iter().map(|a| vectors.iter().map(|b| cosine(a, b)).collect()).collect();
    let without = lines.len() - found.len() - unread;
    let texts = found.into_iter().map(|(text, ..)| text).collect();
    Ok(Explained { word: word.to_owned(), texts, cut, cosines, unread, without })
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Where the word stands first, whatever its case; not within another word, unless it is of Chinese or similar script,
/// which has no spaces.
fn find(text: &str, word: &str) -> Option<Range<usize>> {
    let wanted = word.to_lowercase();
    let spaced = |character: char| character.is_alphanumeric() && u32::from(character) < 0x2E80;
    let fits_before = |start: usize| {
        let (before, first) = (text[..start].chars().next_back(), word.chars().next());
        !(before.is_some_and(spaced) && first.is_some_and(spaced))
    };
    let fits_after = |end: usize| {
        let (after, last) = (text[end..].chars().next(), word.chars().next_back());
        !(after.is_some_and(spaced) && last.is_some_and(spaced))
    };
    let characters = word.chars().count();
    text.char_indices().find_map(|(start, _)| {
        let end = text[start..].char_indices().nth(characters).map_or(text.len(), |(length, _)| start + length);
        let same = text[start..end].to_lowercase() == wanted;
        (same && fits_before(start) && fits_after(end)).then_some(start..end)
    })
}

impl Explained {
    /// Of the texts that hold the word, wherever it stands.
    pub fn cuts(&self) -> Cuts {
        let mut cuts = Cuts::default();
        cuts.count(self.cut.iter().copied().chain(std::iter::repeat_n(true, self.unread)));
        cuts
    }

    /// The texts in which the word's vector is most like that in text `index`, best first.
    fn nearest(&self, index: usize, count: usize) -> Vec<(usize, f64)> {
        let others = self.cosines[index].iter().copied().enumerate().filter(|(other, _)| *other != index);
        let mut others: Vec<(usize, f64)> = others.collect();
        others.sort_by(|a, b| b.1.total_cmp(&a.1));
        others.truncate(count);
        others
    }

    /// Least, mean and greatest cosine of two different texts.
    fn spread(&self) -> (f64, f64, f64) {
        let pairs = self.cosines.iter().enumerate().flat_map(|(row, cosines)| &cosines[..row]);
        let (mut least, mut sum, mut greatest, mut count) = (f64::INFINITY, 0.0, f64::NEG_INFINITY, 0_u32);
        for &cosine in pairs {
            (least, greatest) = (least.min(cosine), greatest.max(cosine));
            (sum, count) = (sum + cosine, count + 1);
        }
        (least, sum / f64::from(count.max(1)), greatest)
    }

    fn json(&self, vectors: Option<&Vectors>, top_k: usize) -> Value {
        let (least, mean, greatest) = self.spread();
        let texts = (0..self.texts.len()).map(|index| {
            let nearest = self.nearest(index, top_k).into_iter();
            let nearest: Vec<Value> =
                nearest.map(|(other, cosine)| json!({ "text": self.texts[other], "cosine": cosine })).collect();
            json!({ "text": self.texts[index], "nearest": nearest, "cut": self.cut[index] })
        });
        let mut value = json!({
            "word": self.word,
            "texts": texts.collect::<Vec<_>>(),
            "texts_without_the_word": self.without,
            "texts_cut_before_the_word": self.unread,
            "cosine": { "min": least, "mean": mean, "max": greatest },
        });
        if let Some(vectors) = vectors {
            let nearest = static_neighbours(vectors, &self.word, top_k);
            value["word2vec"] = json!({
                "cosine_between_texts": nearest.as_ref().map(|_| 1.0),
                "nearest_words": nearest.unwrap_or_default().into_iter()
                    .map(|(word, cosine)| json!({ "word": word, "cosine": cosine })).collect::<Vec<_>>(),
            });
        }
        value
    }

    fn plain(&self, vectors: Option<&Vectors>, top_k: usize) -> String {
        let (least, mean, greatest) = self.spread();
        let mut out = format!(
            "`{}` in {} texts: a vector for each. Cosine of two of them: {least:.3} to {greatest:.3}, mean {mean:.3}\n",
            self.word,
            self.texts.len()
        );
        if self.unread > 0 {
            out.push_str(&format!("In {} more it stands behind the tokens that are read.\n", self.unread));
        }
        for (index, text) in self.texts.iter().enumerate() {
            out.push_str(&format!("\n{text}\n"));
            for (other, cosine) in self.nearest(index, top_k) {
                out.push_str(&format!("  {cosine:.3}  {}\n", self.texts[other]));
            }
        }
        let Some(vectors) = vectors else { return out };
        match static_neighbours(vectors, &self.word, top_k.max(5)) {
            None => out.push_str(&format!("\nThe table of Word2Vec has no `{}`.\n", self.word)),
            Some(nearest) => {
                out.push_str(
                    "\nWord2Vec: one vector in all of them (cosine 1.000), so it cannot tell the texts apart.\n",
                );
                let nearest = nearest.into_iter().map(|(word, cosine)| format!("{word} {cosine:.3}"));
                out.push_str(&format!("  nearest words: {}\n", nearest.collect::<Vec<_>>().join(", ")));
            }
        }
        out
    }
}

/// Of the word as it is written, else in small letters.
fn static_neighbours<'a>(vectors: &'a Vectors, word: &str, count: usize) -> Option<Vec<(&'a str, f32)>> {
    vectors.nearest(word, count).or_else(|| vectors.nearest(&word.to_lowercase(), count))
}

/// To standard output.
pub fn print(found: &Explained, vectors: Option<&Vectors>, top_k: usize, as_json: bool) -> Result<(), Problem> {
    let text = if as_json { format!("{}\n", found.json(vectors, top_k)) } else { found.plain(vectors, top_k) };
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Problem::failure(format!("the output cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reference::stands_in_the_contract;
    use crate::loaded::Wanted;
    use crate::loaded::tests::write_model;
    use model::{Head, Input};
    use tch::Device;

    #[test]
    fn a_word_is_found_whole() {
        assert_eq!(find("Banks, a Bank.", "bank"), Some(9..13));
        assert_eq!(find("a riverbank", "bank"), None);
        assert_eq!(find("我吃苹果。", "苹果"), Some(6..12));
        assert_eq!(find("the İstanbul bank", "bank"), Some(14..18));
    }

    #[test]
    fn a_word_s_vector_is_the_mean_of_its_pieces_and_depends_on_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(folder.path(), Head::None);
        let loaded = Loaded::open(folder.path(), Wanted::Encoder, None, Device::Cpu).ok().unwrap();
        let texts = ["the Ships", "no such word", "wind sea wind ships", "the ships"];
        let lines: Vec<Line> =
            texts.iter().zip(1..).map(|(text, number)| Line { text: (*text).to_owned(), number }).collect();
        let found = explain(&loaded, "ships", &lines, 2).ok().unwrap();
        assert_eq!((found.texts.len(), found.without), (3, 1));
        let word = |ids: &[i64], first: i64| {
            let input = Input { ids: Tensor::from_slice(ids).unsqueeze(0), segments: None, mask: None };
            vector(&model.encode(&input, false).detach().get(0).narrow(0, first, 2).mean_dim(0, false, Kind::Float))
        };
        let expected = cosine(&word(&[2, 5, 8, 9, 3], 2), &word(&[2, 7, 6, 7, 8, 9, 3], 4));
        assert!((found.cosines[0][1] - expected).abs() < 1e-5 && expected < 0.999, "{expected}");
        assert!(found.cosines[0][2] > 0.9999, "the same text but for its case");
        assert_eq!(found.nearest(0, 1)[0].0, 2);
        let table = Vectors::from_text("3 2\nships 1 0\nsea 1 1\nwind 0 1\n").unwrap();
        let value = found.json(Some(&table), 1);
        assert_eq!(value["texts"][0]["nearest"][0]["text"], "the ships");
        assert_eq!(value["word2vec"]["nearest_words"][0]["word"], "sea");
        stands_in_the_contract("worker embed --explain WORD --json", "", &value);
        assert!(found.plain(Some(&table), 1).contains("nearest words: sea 0.707"));
    }

    #[test]
    fn a_word_behind_what_is_read_is_not_taken_to_be_absent() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::None);
        let loaded = Loaded::open(folder.path(), Wanted::Encoder, Some(8), Device::Cpu).ok().unwrap();
        // Six tokens are read of a text, `ships` has two, and of one text only the first of them is read.
        let texts = [
            "the ships",
            "the ships the sea the sea",
            "the sea the sea the sea ships",
            "the sea the sea the ships",
            "the sea",
        ];
        let lines: Vec<Line> =
            texts.iter().zip(1..).map(|(text, number)| Line { text: (*text).to_owned(), number }).collect();
        let found = explain(&loaded, "ships", &lines, 2).ok().unwrap();
        let mut cuts = Cuts::default();
        cuts.count([false, true, true, true]);
        assert_eq!((found.unread, found.without, found.cuts()), (2, 1, cuts));
        let value = found.json(None, 1);
        assert_eq!((&value["texts"][0]["cut"], &value["texts"][1]["cut"]), (&json!(false), &json!(true)));
        let counted = [&value["texts_cut_before_the_word"], &value["texts_without_the_word"]];
        assert_eq!(counted, [&json!(2), &json!(1)]);
        assert!(found.plain(None, 1).contains("\nIn 2 more it stands behind the tokens that are read.\n"));
        let (message, help) = explain(&loaded, "ships", &lines[2..], 2).err().unwrap().into_text_and_help();
        assert!(message.contains("in 0 of 3 texts (in 2 more") && help.unwrap().contains("--max-length"), "{message}");
    }

    #[test]
    fn one_text_is_too_few() {
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), Head::None);
        let loaded = Loaded::open(folder.path(), Wanted::Encoder, None, Device::Cpu).ok().unwrap();
        let lines = [Line { text: "the ship".to_owned(), number: 1 }];
        let (message, _) = explain(&loaded, "ship", &lines, 2).err().unwrap().into_text_and_help();
        assert!(message.contains("`ship` stands in 1 of 1 texts"), "{message}");
    }
}
