//! The text format of `word2vec.c`: `words dimensions` in the first line, then a line for each word with its numbers.

use crate::Vectors;
use std::fmt::Write;

/// A text that is no table of vectors.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct FormatError {
    /// From 1.
    pub line: usize,
    /// What is wrong, and what is right.
    pub message: String,
}

impl Vectors {
    /// As text. Reading it gives the very same numbers.
    pub fn to_text(&self) -> String {
        let mut text = format!("{} {}\n", self.words().len(), self.dimensions());
        for word in self.words() {
            text.push_str(word);
            for value in self.get(word).unwrap_or_default() {
                let _ = write!(text, " {value}");
            }
            text.push('\n');
        }
        text
    }

    /// From text, whoever wrote it.
    pub fn from_text(text: &str) -> Result<Self, FormatError> {
        let fail = |line: usize, message: String| Err(FormatError { line: line + 1, message });
        let mut lines = text.lines().enumerate();
        let header = lines.next().map_or("", |(_, line)| line);
        let numbers: Vec<usize> = header.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [count, dimensions] = numbers[..] else {
            return fail(0, format!("`{header}` is not the number of words and the length of their vectors"));
        };
        let (mut words, mut values) = (Vec::new(), Vec::new());
        let mut seen = std::collections::HashSet::new();
        for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let mut parts = line.split_whitespace();
            let word = parts.next().unwrap_or_default();
            let before = values.len();
            for part in parts {
                match part.parse::<f32>() {
                    Ok(value) if value.is_finite() => values.push(value),
                    _ => return fail(at, format!("`{part}`, of the vector of `{word}`, is no number")),
                }
            }
            let found = values.len() - before;
            if found != dimensions {
                return fail(
                    at,
                    format!("the vector of `{word}` has {found} numbers, the first line says {dimensions}"),
                );
            }
            if !seen.insert(word) {
                return fail(at, format!("`{word}` has a vector already"));
            }
            words.push(word.to_owned());
        }
        if words.len() != count {
            let found = words.len();
            return fail(0, format!("it says {count} words, but {found} follow: the file is not whole"));
        }
        Ok(Self::new(words, values, dimensions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let words = ["the", "苹果"].map(str::to_owned).to_vec();
        let vectors = Vectors::new(words, vec![0.1, -1e-20, 1.0 / 3.0, 7.0], 2);
        let text = vectors.to_text();
        assert!(text.starts_with("2 2\nthe 0.1 -"), "{text}");
        assert_eq!(Vectors::from_text(&text), Ok(vectors));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, part) in [
            ("", 1, "is not the number"),
            ("the 0.1\n", 1, "is not the number"),
            ("1 2\nthe 0.1\n", 2, "has 1 numbers"),
            ("1 2\nthe 0.1 x\n", 2, "`x`"),
            ("1 1\nthe NaN\n", 2, "`NaN`"),
            ("2 1\na 1\na 1\n", 3, "already"),
            ("3 1\na 1\nb 1\n", 1, "but 2 follow"),
        ] {
            let error = Vectors::from_text(text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.message.contains(part), "{error}");
        }
    }
}
