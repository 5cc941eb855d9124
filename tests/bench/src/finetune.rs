//! Fine-tuning steps of one worker beside those of Hugging Face's Trainer, on a classifier of the same shape.
//!
//! Ours is the trainer as a worker runs it, on `configs/finetune-sentiment.toml` (6 layers × 384, with BERT's pooler)
//! at a sequence length of 128. The peer is `peers/finetune.py`, the Trainer with its defaults, the same dropout, batch
//! and threads. Once all texts fill the sequence; twice their lengths lie evenly between 16 and 128 tokens: there the
//! Trainer pads to the longest of a batch, and ours does so by slot, or leaves the padding out (`batch.padding =
//! "unpadded"`). What is counted are texts, since padding is worth nothing.

use crate::ours::Ours;
use crate::peer::{Peer, Shape};
use crate::report::{Line, median};
use crate::{samples, stats};
use anyhow::Result;
use config::{CheckedConfig, Padding, Pooling};
use corpus::Tokenizer;
use serde::Serialize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Device;

const SEQUENCE_LENGTH: usize = 128;
pub(crate) const THREADS: u32 = 2;
const GOAL: f64 = 1.3;
pub(crate) const TEXTS: usize = 4_096;

struct Case {
    name: &'static str,
    /// Tokens, special ones included.
    lengths: RangeInclusive<usize>,
    /// Ours.
    padding: Padding,
}

const CASES: [Case; 3] = [
    Case { name: "texts of 128 tokens", lengths: SEQUENCE_LENGTH..=SEQUENCE_LENGTH, padding: Padding::Padded },
    Case { name: "texts of 16 to 128 tokens", lengths: 16..=SEQUENCE_LENGTH, padding: Padding::Padded },
    Case { name: "texts of 16 to 128 tokens, unpadded", lengths: 16..=SEQUENCE_LENGTH, padding: Padding::Unpadded },
];

/// For `peers/finetune.py`.
#[derive(Serialize)]
struct Spec {
    #[serde(flatten)]
    shape: Shape,
    tokenizer: PathBuf,
    lengths: [usize; 2],
    batch: u64,
    threads: u32,
}

pub fn measure(python: &Path, quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let (rounds, steps) = if quick { (2, 2) } else { (6, 4) };
    for case in &CASES {
        let folder = tempfile::tempdir()?;
        samples::write_labelled(folder.path(), TEXTS, case.lengths.clone())?;
        let config = config(folder.path(), case.padding)?;
        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
        let shape = config.model.shape(tokenizer.size() as i64, SEQUENCE_LENGTH as i64);
        let file = folder.path().join("tokenizer.json");
        std::fs::write(&file, tokenizer.bytes())?;
        let spec = Spec {
            shape: Shape::from(&shape),
            tokenizer: file,
            lengths: [*case.lengths.start(), *case.lengths.end()],
            batch: config.batch.global_samples(),
            threads: THREADS,
        };
        let batch = spec.batch as f64;
        let mut ours = Ours::new(config, tokenizer, THREADS, Device::Cpu)?;
        let mut peer = Peer::start(python, "finetune", &spec, THREADS)?;
        // Both grow their memory and threads on the first steps.
        ours.block(1)?;
        peer.block(1)?;
        let (mut our_seconds, mut peer_seconds) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            our_seconds.extend(ours.block(steps)?.seconds);
            peer_seconds.extend(peer.block(steps)?);
        }
        let spread = stats::widest(&[&our_seconds, &peer_seconds]);
        let name = format!("classifier of 6 × 384, {}, {THREADS} threads, beside the Trainer", case.name);
        let (ours, peer) = (batch / median(our_seconds), batch / median(peer_seconds));
        show(&Line::new("finetune", name, ours, peer, "texts/s", GOAL).spread(spread));
    }
    Ok(())
}

pub(crate) fn config(folder: &Path, padding: Padding) -> Result<CheckedConfig> {
    let name = "finetune-sentiment.toml";
    let mut config = config::load(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs")).join(name), &[])?;
    config.data.paths = vec![folder.join("labelled.jsonl").display().to_string()];
    config.data.eval_paths = Vec::new();
    config.tokenizer.path = folder.join("vocab.txt").display().to_string();
    config.init.from = String::new();
    // As BertForSequenceClassification does it.
    config.objective.pooling = Pooling::Cls;
    config.batch.sequence_length = SEQUENCE_LENGTH;
    config.batch.padding = padding;
    config.run.steps = 1_000_000;
    config.checkpoint.every_steps = 0;
    config.eval.every_steps = 0;
    Ok(config.check(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use corpus::{Corpus, Loader};
    use types::{Cursor, SlotId};

    #[test]
    fn texts_have_the_lengths_that_are_meant() {
        for case in &CASES {
            let folder = tempfile::tempdir().unwrap();
            samples::write_labelled(folder.path(), 200, case.lengths.clone()).unwrap();
            let config = config(folder.path(), case.padding).unwrap();
            assert_eq!(config.batch.global_samples(), 32);
            let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer).unwrap());
            let corpus = Arc::new(Corpus::open(&config).unwrap());
            let mut loader = Loader::new(corpus, tokenizer, &config);
            loader.assign(&[(SlotId(0), Cursor::default())]);
            let batch = loader.next(SlotId(0), types::Step(1)).unwrap().batches.remove(0);
            assert_eq!(batch.samples, 16);
            let mean = batch.tokens() / 16;
            let middle = (case.lengths.start() + case.lengths.end()) as u64 / 2;
            assert!(mean.abs_diff(middle) < 30, "{mean} tokens, not about {middle}");
            assert_eq!(batch.mask.is_none(), case.lengths.start() == case.lengths.end());
        }
    }
}
