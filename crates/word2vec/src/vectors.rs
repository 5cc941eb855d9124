//! Words with their vectors.

use std::collections::HashMap;

/// A table of word vectors.
#[derive(Debug, PartialEq)]
pub struct Vectors {
    words: Vec<String>,
    /// `[words, dimensions]`.
    values: Vec<f32>,
    dimensions: usize,
    rows: HashMap<String, usize>,
}

impl Vectors {
    /// `values`: `dimensions` numbers for each word.
    pub(crate) fn new(words: Vec<String>, values: Vec<f32>, dimensions: usize) -> Self {
        assert_eq!(words.len() * dimensions, values.len(), "each word has a vector");
        let rows = words.iter().enumerate().map(|(row, word)| (word.clone(), row)).collect();
        Self { words, values, dimensions, rows }
    }

    /// The words, most frequent first.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Numbers in a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// A word's vector.
    pub fn get(&self, word: &str) -> Option<&[f32]> {
        self.rows.get(word).map(|row| self.row(*row))
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dimensions..(row + 1) * self.dimensions]
    }

    /// The `count` words whose vectors have the greatest cosine with that of `word`, best first, without the word itself.
    /// None if there is no such word.
    pub fn nearest(&self, word: &str, count: usize) -> Option<Vec<(&str, f32)>> {
        let own = *self.rows.get(word)?;
        let vector = self.row(own);
        let others = (0..self.words.len()).filter(|row| *row != own);
        let mut found: Vec<(usize, f32)> = others.map(|row| (row, cosine(vector, self.row(row)))).collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Some(found.into_iter().take(count).map(|(row, cosine)| (self.words[row].as_str(), cosine)).collect())
    }
}

/// The cosine of the angle between two vectors; 0 where one of them is 0.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let length = (dot(a, a) * dot(b, b)).sqrt();
    if length > 0.0 { (dot(a, b) / length) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_have_the_greatest_cosine() {
        let words = ["x", "far", "same", "near", "none"].map(str::to_owned).to_vec();
        let vectors = Vectors::new(words, vec![1.0, 0.0, -2.0, 0.0, 9.0, 0.0, 1.0, 1.0, 0.0, 0.0], 2);
        let nearest = vectors.nearest("x", 3).unwrap();
        assert_eq!(nearest.iter().map(|(word, _)| *word).collect::<Vec<_>>(), ["same", "near", "none"]);
        assert!((nearest[0].1 - 1.0).abs() < 1e-6 && (nearest[1].1 - 0.5f32.sqrt()).abs() < 1e-6);
        assert_eq!(vectors.nearest("absent", 3), None);
        assert_eq!(vectors.get("near"), Some(&[1.0f32, 1.0][..]));
    }
}
