//! ELECTRA (Clark et al. 2020; google-research/electra run_pretraining.py): a generator fills in masked words, and the
//! model is to tell which tokens of the outcome are not the original ones.

use crate::network::{Input, Model};
use tch::{Kind, Reduction, Tensor, no_grad};

/// What the generator made of one micro-batch.
pub struct Filled {
    /// The cross-entropy of the masked words in nats, summed: a float32 scalar that can be differentiated.
    pub loss: Tensor,
    /// Masked words that the generator ranks first (int64 scalar).
    pub correct: Tensor,
    /// Words drawn from its distribution, one for each masked word. `[predicted]`, int64
    pub drawn: Tensor,
}

impl Model {
    /// Scores of "replaced" for each token. `[batch, length]`
    pub fn replaced_logits(&self, hidden: &Tensor) -> Tensor {
        self.heads.replaced_logits(hidden)
    }

    /// Runs the generator. `input` has the masked ids; `positions` and `labels`, `[predicted]`, int64, are the flat places
    /// of the masked words and what stood there. Words are drawn with libtorch's random numbers, and no gradient goes
    /// through the draw.
    ///
    /// # Panics
    /// If the model has no generator.
    pub fn fill(&self, input: &Input, positions: &Tensor, labels: &Tensor, train: bool) -> Filled {
        let generator = self.generator.as_ref().expect("replaced tokens need a generator");
        let hidden = generator.encode(input, None, self.execution, train);
        let logits = self.heads.mlm_logits(&hidden, positions).to_kind(Kind::Float);
        let loss = logits.cross_entropy_loss::<&Tensor>(labels, None, Reduction::Sum, -100, 0.0);
        let logits = logits.detach();
        let correct = logits.argmax(-1, false).eq_tensor(labels).sum(Kind::Int64);
        Filled { loss, correct, drawn: drawn(&logits) }
    }

    /// Runs the discriminator on the same input, with `drawn` in the places of the masked words: the summed binary
    /// cross-entropy in nats over all real tokens, and how many of them it is right about (int64 scalar). Where the
    /// original word was drawn, nothing was replaced.
    pub fn replaced_loss_sum(
        &self,
        input: &Input,
        positions: &Tensor,
        (labels, drawn): (&Tensor, &Tensor),
        train: bool,
    ) -> (Tensor, Tensor) {
        let original = input.ids.reshape([-1]).index_copy(0, positions, labels);
        let corrupted = original.index_copy(0, positions, drawn);
        let replaced = corrupted.ne_tensor(&original).view_as(&input.ids);
        let copy = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        let seen =
            Input { ids: corrupted.view_as(&input.ids), segments: copy(&input.segments), mask: copy(&input.mask) };
        let scores = self.replaced_logits(&self.encode(&seen, train)).to_kind(Kind::Float);

        let weight = input.mask.as_ref().map(|mask| mask.to_kind(Kind::Float));
        let truth = replaced.to_kind(Kind::Float);
        let loss = scores.binary_cross_entropy_with_logits(&truth, weight.as_ref(), None::<&Tensor>, Reduction::Sum);
        let mut right = scores.detach().gt(0.0).eq_tensor(&replaced);
        if let Some(mask) = &input.mask {
            right = right.logical_and(mask);
        }
        (loss, right.sum(Kind::Int64))
    }
}

/// One id for each row of `logits`, as often as softmax says: the race of exponential clocks, which is the Gumbel trick
/// without its logarithms. Unlike `multinomial` it does not mind numbers that are not finite: the step is skipped later.
fn drawn(logits: &Tensor) -> Tensor {
    no_grad(|| {
        let clocks = logits.empty_like().exponential_(1.0);
        (logits.softmax(-1, Kind::Float) / clocks).argmax(-1, false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn words_are_drawn_as_often_as_softmax_says() {
        tch::manual_seed(5);
        let shares = [0.5, 0.25, 0.15, 0.1];
        let logits = Tensor::from_slice(&shares.map(|share: f32| share.ln() + 3.0)).repeat([20_000, 1]);
        let counts = drawn(&logits).bincount::<&Tensor>(None, 4);
        let chi_square: f64 = shares
            .iter()
            .enumerate()
            .map(|(id, share)| {
                let expected = f64::from(*share) * 20_000.0;
                (counts.int64_value(&[id as i64]) as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 16.3, "p < 0.001 with three degrees of freedom: {chi_square} {counts:?}");
        let broken = drawn(&Tensor::full([2, 4], f64::NAN, (Kind::Float, Device::Cpu)));
        assert!((0..2).all(|row| (0..4).contains(&broken.int64_value(&[row]))), "still an id");
    }
}
