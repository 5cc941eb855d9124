//! Skip-gram with negative sampling.

use crate::corpus::{Corpus, Counted};
use crate::vectors::Vectors;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What the vectors should be like. The defaults are those of `word2vec.c` for skip-gram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Numbers in a vector.
    pub dimensions: usize,
    /// Words to each side at most; how many is drawn anew for each word.
    pub window: usize,
    /// Drawn words for each true one.
    pub negative: usize,
    /// Passes over the corpus.
    pub epochs: usize,
    /// Rarer words get no vector.
    pub min_count: u64,
    /// Words that make up a larger share of the corpus are left out now and then; 0: never.
    pub subsample: f64,
    /// Of the first step; it falls to a ten-thousandth of that.
    pub learning_rate: f32,
    /// Everything that is drawn is drawn from it.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dimensions: 100,
            window: 5,
            negative: 5,
            epochs: 5,
            min_count: 5,
            subsample: 1e-3,
            learning_rate: 0.025,
            seed: 0,
        }
    }
}

/// Trains vectors on a corpus; `progress` hears the share that is done. Equal for equal corpus and options.
pub fn train(corpus: Corpus, options: &Options, progress: &mut dyn FnMut(f64)) -> Vectors {
    let Counted { words, counts, sentences } = corpus.counted(options.min_count);
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(options.seed));
    let dimensions = options.dimensions;
    let scale = 1.0 / dimensions as f32;
    let drawn = (0..words.len() * dimensions).map(|_| (chance.unit() as f32 - 0.5) * scale);
    let mut network = Network {
        inputs: drawn.collect(),
        outputs: vec![0.0; words.len() * dimensions],
        gradient: vec![0.0; dimensions],
        dimensions,
    };
    let keep = keep_probabilities(&counts, options.subsample);
    let noise = Noise::new(&counts);
    let total = (sentences.iter().map(Vec::len).sum::<usize>() * options.epochs).max(1) as f64;
    let mut done = 0_usize;
    let mut kept: Vec<u32> = Vec::new();
    for _ in 0..options.epochs {
        for sentence in &sentences {
            let share = done as f64 / total;
            let rate = options.learning_rate * (1.0 - share as f32).max(1e-4);
            done += sentence.len();
            kept.clear();
            kept.extend(sentence.iter().filter(|word| chance.unit() < keep[**word as usize]));
            for (at, &centre) in kept.iter().enumerate() {
                let reach = 1 + chance.below(options.window as u64) as usize;
                let (first, last) = (at.saturating_sub(reach), (at + reach).min(kept.len() - 1));
                for &context in kept[first..at].iter().chain(&kept[at + 1..=last]) {
                    network.step(context, centre, rate, options.negative, || noise.draw(&mut chance));
                }
            }
            progress(share);
        }
    }
    progress(1.0);
    Vectors::new(words, network.inputs, dimensions)
}

/// Two vectors for each word: one as context, which is the result, and one as what is predicted.
struct Network {
    inputs: Vec<f32>,
    outputs: Vec<f32>,
    /// Of the context's vector, while its words are gone through.
    gradient: Vec<f32>,
    dimensions: usize,
}

impl Network {
    /// One true pair and `negative` drawn ones: gradient descent on −ln σ(v·u) − Σ ln σ(−v·u′).
    fn step(&mut self, context: u32, centre: u32, rate: f32, negative: usize, mut draw: impl FnMut() -> u32) {
        let Self { inputs, outputs, gradient, dimensions } = self;
        let row = |word: u32| word as usize * *dimensions..(word as usize + 1) * *dimensions;
        let input = &mut inputs[row(context)];
        gradient.fill(0.0);
        for drawn in 0..=negative {
            let (target, label) = if drawn == 0 { (centre, 1.0) } else { (draw(), 0.0) };
            if drawn > 0 && target == centre {
                continue;
            }
            let output = &mut outputs[row(target)];
            let score: f32 = input.iter().zip(&*output).map(|(a, b)| a * b).sum();
            let step = (label - 1.0 / (1.0 + (-score).exp())) * rate;
            for ((gradient, input), output) in gradient.iter_mut().zip(&*input).zip(output) {
                *gradient += step * *output;
                *output += step * input;
            }
        }
        for (input, gradient) in input.iter_mut().zip(&*gradient) {
            *input += gradient;
        }
    }
}

/// How likely each word is kept: (√(f / t) + 1) · t / f for a share f above the threshold t, as in `word2vec.c`.
fn keep_probabilities(counts: &[u64], threshold: f64) -> Vec<f64> {
    let total = counts.iter().sum::<u64>() as f64;
    let keep = |count: &u64| {
        let share = *count as f64 / total;
        if threshold > 0.0 { ((share / threshold).sqrt() + 1.0) * threshold / share } else { 1.0 }
    };
    counts.iter().map(keep).collect()
}

/// Draws words in proportion to count^0.75.
struct Noise {
    /// By word: the share of all words up to and with it.
    cumulative: Vec<f64>,
}

impl Noise {
    fn new(counts: &[u64]) -> Self {
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = counts
            .iter()
            .map(|count| {
                sum += (*count as f64).powf(0.75);
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|share| *share /= sum);
        Self { cumulative }
    }

    fn draw(&self, chance: &mut Chance) -> u32 {
        let place = chance.unit();
        let word = self.cumulative.partition_point(|share| *share <= place);
        word.min(self.cumulative.len() - 1) as u32
    }
}

struct Chance(ChaCha8Rng);

impl Chance {
    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (-53f64).exp2()
    }

    /// Uniform in `0..bound`; a bias of bound / 2^64 does not matter here.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two kinds of words that never stand together: what an animal does, and what a stone is.
    fn corpus() -> Corpus {
        let kinds =
            [["cat", "dog", "cow", "eats", "sleeps", "runs"], ["granite", "marble", "slate", "hard", "grey", "cold"]];
        let mut chance = Chance(ChaCha8Rng::seed_from_u64(3));
        let mut corpus = Corpus::default();
        for sentence in 0..2000 {
            let kind = kinds[sentence % 2];
            corpus.add((0..6).map(|_| kind[chance.below(6) as usize]));
        }
        corpus
    }

    fn options(seed: u64) -> Options {
        Options { dimensions: 16, window: 3, subsample: 0.0, seed, ..Options::default() }
    }

    #[test]
    fn words_of_one_kind_are_neighbours() {
        let vectors = train(corpus(), &options(1), &mut |_| ());
        for (word, kin) in [
            ("cat", ["dog", "cow", "eats", "sleeps", "runs"]),
            ("cold", ["granite", "marble", "slate", "hard", "grey"]),
        ] {
            let nearest = vectors.nearest(word, 5).unwrap();
            assert!(nearest.iter().all(|(other, _)| kin.contains(other)), "{word}: {nearest:?}");
            let last = nearest[4].1;
            let first_other = vectors.nearest(word, 6).unwrap()[5].1;
            assert!(last > first_other + 0.3, "{word}: {last} beside {first_other}");
        }
    }

    #[test]
    fn the_seed_decides_everything() {
        let of = |seed| train(corpus(), &options(seed), &mut |_| ());
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn frequent_words_are_left_out_more_often() {
        let keep = keep_probabilities(&[900, 99, 1], 1e-2);
        // (√90 + 1) / 90, by hand.
        assert!((keep[0] - 0.116_52).abs() < 1e-4, "{keep:?}");
        assert!(keep[0] < keep[1] && keep[2] > 1.0, "{keep:?}");
        assert_eq!(keep_probabilities(&[900, 1], 0.0), [1.0, 1.0]);
    }

    #[test]
    fn noise_follows_counts_to_the_power_of_three_quarters() {
        let noise = Noise::new(&[10_000, 16, 1]);
        let mut chance = Chance(ChaCha8Rng::seed_from_u64(5));
        let mut drawn = [0_f64; 3];
        (0..100_000).for_each(|_| drawn[noise.draw(&mut chance) as usize] += 1.0);
        // 1000 : 8 : 1.
        for (count, share) in drawn.iter().zip([1000.0, 8.0, 1.0]) {
            let expected = share / 1009.0 * 100_000.0;
            assert!((count - expected).abs() < 5.0 * f64::sqrt(expected), "{drawn:?}");
        }
    }

    #[test]
    fn a_step_follows_the_gradient() {
        let mut network = Network {
            inputs: vec![0.3, -0.2, 0.0, 0.0],
            outputs: vec![0.0, 0.0, 0.5, 0.1],
            gradient: vec![0.0; 2],
            dimensions: 2,
        };
        let loss = |network: &Network| {
            let score: f32 = network.inputs[..2].iter().zip(&network.outputs[2..]).map(|(a, b)| a * b).sum();
            (1.0 + (-score).exp()).ln()
        };
        let before = loss(&network);
        let was = network.inputs.clone();
        network.step(0, 1, 1e-3, 0, || unreachable!("nothing is to be drawn"));
        // d/dv −ln σ(v·u) = −(1 − σ(v·u)) u
        let score = 0.3f32 * 0.5 - 0.2 * 0.1;
        let expected = (1.0 - 1.0 / (1.0 + (-score).exp())) * 0.5 * 1e-3;
        assert!((network.inputs[0] - was[0] - expected).abs() < 1e-8);
        assert!(loss(&network) < before);
    }
}
