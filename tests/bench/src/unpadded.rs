//! What `batch.padding = "unpadded"` gains, by the share of padding: our fine-tuning steps with it beside without it.
//!
//! The classifier of the suite `finetune`, with texts of lengths that lie evenly between two bounds, which are padded to
//! the longest of sixteen. Where nothing is padded, what is left is our own attention beside libtorch's products.

use crate::finetune::{self, THREADS};
use crate::ours::Ours;
use crate::report::{Line, median};
use crate::{samples, stats};
use anyhow::Result;
use config::Padding;
use corpus::Tokenizer;
use std::ops::RangeInclusive;
use std::sync::Arc;
use tch::Device;

/// Tokens of a text, and the share of positions that are padding.
const CASES: [(RangeInclusive<usize>, u32); 3] = [(128..=128, 0), (64..=128, 25), (16..=128, 41)];

pub fn measure(quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let (rounds, steps) = if quick { (2, 2) } else { (6, 4) };
    for (lengths, share) in CASES {
        let folder = tempfile::tempdir()?;
        samples::write_labelled(folder.path(), finetune::TEXTS, lengths.clone())?;
        let started = [Padding::Unpadded, Padding::Padded].map(|padding| {
            let config = finetune::config(folder.path(), padding)?;
            let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
            let batch = config.batch.global_samples() as f64;
            let mut ours = Ours::new(config, tokenizer, THREADS, Device::Cpu)?;
            // Memory and threads grow on the first steps.
            ours.block(1)?;
            anyhow::Ok((ours, batch))
        });
        let [unpadded, padded] = started;
        let ((mut unpadded, batch), (mut padded, _)) = (unpadded?, padded?);
        let mut seconds = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            seconds[0].extend(unpadded.block(steps)?.seconds);
            seconds[1].extend(padded.block(steps)?.seconds);
        }
        let spread = stats::widest(&[&seconds[0], &seconds[1]]);
        let [unpadded, padded] = seconds.map(|seconds| batch / median(seconds));
        let (low, high) = (lengths.start(), lengths.end());
        let name = format!(
            "classifier of 6 × 384, texts of {low} to {high} tokens ({share} % padding), unpadded beside padded"
        );
        // A row costs what its tokens cost.
        let goal = 1.0 / (1.0 - f64::from(share) / 100.0);
        show(&Line::new("finetune", name, unpadded, padded, "texts/s", goal).spread(spread));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use corpus::{Corpus, Loader};
    use types::{Cursor, SlotId, Step};

    #[test]
    fn the_shares_of_padding_are_those_that_are_told() {
        for (lengths, share) in CASES {
            let folder = tempfile::tempdir().unwrap();
            samples::write_labelled(folder.path(), 1_000, lengths).unwrap();
            let config = finetune::config(folder.path(), Padding::Unpadded).unwrap();
            let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer).unwrap());
            let mut loader = Loader::new(Arc::new(Corpus::open(&config).unwrap()), tokenizer, &config);
            loader.assign(&[(SlotId(0), Cursor::default())]);
            let (mut real, mut all) = (0.0, 0.0);
            for step in 1..=20 {
                for batch in loader.next(SlotId(0), Step(step)).unwrap().batches {
                    real += batch.tokens() as f64;
                    all += (batch.samples * batch.sequence_length) as f64;
                }
            }
            let found = 100.0 * (1.0 - real / all);
            assert!((found - f64::from(share)).abs() < 4.0, "{found} % and not {share} %");
        }
    }
}
