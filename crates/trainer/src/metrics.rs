//! Numbers about predictions, from counts that add up over workers: those of scikit-learn, seqeval, SQuAD and
//! scipy.

pub mod correlation;
pub mod squad;

use std::collections::BTreeSet;

/// How often each class was predicted for each true class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[true class, predicted class]`.
    counts: Vec<i64>,
}

impl Confusion {
    /// All zero.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// One prediction.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        assert!(truth < self.classes && predicted < self.classes, "classes are below {}", self.classes);
        self.counts[truth * self.classes + predicted] += 1;
    }

    /// The counts, row after row (row: true class). Sums of these are the counts of the union.
    pub fn counts(&self) -> &[i64] {
        &self.counts
    }

    /// From [`Confusion::counts`] or their sums.
    pub fn from_counts(classes: usize, counts: Vec<i64>) -> Self {
        assert_eq!(counts.len(), classes * classes, "a count for each pair of classes");
        Self { classes, counts }
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Predictions in all.
    pub fn total(&self) -> i64 {
        self.counts.iter().sum()
    }

    fn right(&self, class: usize) -> i64 {
        self.counts[class * self.classes + class]
    }

    fn truths(&self, class: usize) -> i64 {
        self.counts[class * self.classes..][..self.classes].iter().sum()
    }

    fn predictions(&self, class: usize) -> i64 {
        self.counts.iter().skip(class).step_by(self.classes.max(1)).sum()
    }

    /// The share of right predictions. Where each sample has one class, that is the micro average of precision, recall and
    /// F1, too.
    pub fn accuracy(&self) -> f64 {
        ratio((0..self.classes).map(|class| self.right(class)).sum(), self.total())
    }

    /// The unweighted mean of the classes' F1, over the classes that occur in truth or prediction, as
    /// `sklearn.metrics.f1_score(average="macro")`.
    pub fn macro_f1(&self) -> f64 {
        let mut sum = 0.0;
        let mut present = 0;
        for class in 0..self.classes {
            let seen = self.truths(class) + self.predictions(class);
            if seen > 0 {
                sum += ratio(2 * self.right(class), seen);
                present += 1;
            }
        }
        if present == 0 { 0.0 } else { sum / f64::from(present) }
    }

    /// Matthews' correlation for any number of classes (Gorodkin 2004), as `sklearn.metrics.matthews_corrcoef`; 0 where
    /// it is undefined.
    pub fn matthews(&self) -> f64 {
        let total = self.total() as f64;
        let right: f64 = (0..self.classes).map(|class| self.right(class) as f64).sum();
        let (mut both, mut truth_squares, mut predicted_squares) = (0.0, 0.0, 0.0);
        for class in 0..self.classes {
            let (truths, predictions) = (self.truths(class) as f64, self.predictions(class) as f64);
            both += truths * predictions;
            truth_squares += truths * truths;
            predicted_squares += predictions * predictions;
        }
        let spread = (total * total - truth_squares) * (total * total - predicted_squares);
        if spread > 0.0 { (right * total - both) / spread.sqrt() } else { 0.0 }
    }
}

/// Entities found, to be found, and right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntityCounts {
    /// In the truth.
    pub truth: i64,
    /// In the predictions.
    pub predicted: i64,
    /// In both: same type, same first and last word.
    pub correct: i64,
}

impl EntityCounts {
    /// Counts one sentence.
    pub fn add(&mut self, truth: &[&str], predicted: &[&str]) {
        let truth: BTreeSet<_> = entities(truth).into_iter().collect();
        let predicted: BTreeSet<_> = entities(predicted).into_iter().collect();
        self.truth += truth.len() as i64;
        self.predicted += predicted.len() as i64;
        self.correct += truth.intersection(&predicted).count() as i64;
    }

    /// The share of predicted entities that are right; 0 if there are none.
    pub fn precision(&self) -> f64 {
        ratio(self.correct, self.predicted)
    }

    /// The share of true entities that were found; 0 if there are none.
    pub fn recall(&self) -> f64 {
        ratio(self.correct, self.truth)
    }

    /// Their harmonic mean (seqeval's `f1_score`, micro average).
    pub fn f1(&self) -> f64 {
        ratio(2 * self.correct, self.predicted + self.truth)
    }
}

fn ratio(part: i64, whole: i64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The entities of one sentence as (type, first word, last word), by the definition of seqeval's `get_entities`
/// (conlleval's): an `I-X` after `O` or after another type opens an entity too; `E` and `S` are understood.
pub fn entities<'a>(tags: &[&'a str]) -> Vec<(&'a str, usize, usize)> {
    let mut found = Vec::new();
    let (mut previous, mut previous_type) = ('O', "");
    let mut begin = 0;
    for (index, tag) in tags.iter().copied().chain(["O"]).enumerate() {
        let (letter, kind) = split(tag);
        let other_type = |letter: char| letter != 'O' && letter != '.' && previous_type != kind;
        let ends = matches!((previous, letter), ('E' | 'S', _) | ('B' | 'I', 'B' | 'S' | 'O')) || other_type(previous);
        if ends {
            found.push((previous_type, begin, index - 1));
        }
        let starts = matches!((previous, letter), (_, 'B' | 'S') | ('E' | 'S' | 'O', 'E' | 'I')) || other_type(letter);
        if starts {
            begin = index;
        }
        (previous, previous_type) = (letter, kind);
    }
    found
}

/// `B-PER` → (`B`, `PER`); a tag without a type has the type `_`.
fn split(tag: &str) -> (char, &str) {
    let mut letters = tag.chars();
    let letter = letters.next().unwrap_or('O');
    let rest = letters.as_str();
    let kind = rest.split_once('-').map_or(rest, |(_, kind)| kind);
    (letter, if kind.is_empty() { "_" } else { kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_as_seqeval_reads_them() {
        assert_eq!(entities(&["B-PER", "I-PER", "O", "B-LOC"]), [("PER", 0, 1), ("LOC", 3, 3)]);
        assert_eq!(entities(&["I-PER", "I-LOC", "B-LOC"]), [("PER", 0, 0), ("LOC", 1, 1), ("LOC", 2, 2)]);
        assert_eq!(entities(&["O", "O"]), []);
        assert_eq!(entities(&["S-A", "B-A", "E-A"]), [("A", 0, 0), ("A", 1, 2)]);
    }

    #[test]
    fn nothing_counted_is_zero_not_nan() {
        let empty = Confusion::new(3);
        assert_eq!((empty.accuracy(), empty.macro_f1(), empty.matthews()), (0.0, 0.0, 0.0));
        assert_eq!(EntityCounts::default().f1(), 0.0);
    }
}
