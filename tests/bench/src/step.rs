//! Whole training steps of one worker beside a plain PyTorch loop on a BERT of the same size.
//!
//! Ours is the shipped config as it is: exact reduction, gradient clipping, samples made in the background. The peer is
//! `BertForPreTraining` with the fused AdamW on ready batches. For `bert-mini` it is the very same model; for the
//! quickstart's modern encoder it is the BERT of the same layers, widths and vocabulary, since that is the choice
//! somebody has. Both sides count every position of the batch as a token.

use crate::ours::Ours;
use crate::peer::{Peer, Spec};
use crate::report::{Line, median};
use crate::samples;
use anyhow::Result;
use corpus::Tokenizer;
use std::path::Path;
use std::sync::Arc;

struct Case {
    name: &'static str,
    config: &'static str,
    /// Set where the corpus's own vocabulary is not the one that is meant.
    vocabulary: Option<i64>,
    threads: u32,
    /// Steps in one block of (ours, peer): the slower, the fewer.
    steps: usize,
}

const CASES: [Case; 3] = [
    Case { name: "quickstart", config: "quickstart.toml", vocabulary: None, threads: 1, steps: 12 },
    Case { name: "bert-mini", config: "bert-mini.toml", vocabulary: Some(30_522), threads: 1, steps: 4 },
    Case { name: "bert-mini", config: "bert-mini.toml", vocabulary: Some(30_522), threads: 2, steps: 4 },
];

/// The masked head alone gives about this much; see the page on results.
const GOAL: f64 = 2.5;

pub fn measure(python: &Path, quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let rounds = if quick { 2 } else { 5 };
    let folder = tempfile::tempdir()?;
    samples::write(folder.path())?;
    for case in &CASES {
        show(&case.measure(python, folder.path(), rounds, if quick { case.steps / 2 } else { case.steps })?);
    }
    Ok(())
}

impl Case {
    fn measure(&self, python: &Path, folder: &Path, rounds: usize, steps: usize) -> Result<Line> {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs")).join(self.config);
        let mut config = config::load(&file, &[])?;
        config.data.paths = vec![folder.join("corpus.jsonl").display().to_string()];
        config.tokenizer.path = folder.join("vocab.txt").display().to_string();
        config.model.vocabulary = self.vocabulary;
        // More than are ever done: no last step, no checkpoint, no evaluation in the middle of a measurement.
        config.run.steps = 1_000_000;
        config.checkpoint.every_steps = 0;
        config.eval.every_steps = 0;
        let config = config.check(self.config)?;

        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
        let shape = config.model.shape(tokenizer.size() as i64, config.batch.sequence_length as i64);
        let spec = Spec {
            vocabulary: shape.vocabulary,
            hidden: shape.hidden,
            layers: shape.layers,
            heads: shape.heads,
            intermediate: shape.intermediate,
            max_positions: shape.max_positions,
            batch: config.batch.global_samples(),
            sequence_length: config.batch.sequence_length,
            threads: self.threads,
        };
        let tokens = (spec.batch * spec.sequence_length as u64) as f64;
        let mut ours = Ours::new(config, tokenizer, self.threads)?;
        let mut peer = Peer::start(python, &spec)?;
        // Both grow their memory and threads on the first steps.
        ours.block(1)?;
        peer.block(1)?;
        let (mut our_seconds, mut peer_seconds) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            our_seconds.extend(ours.block(steps)?);
            peer_seconds.extend(peer.block(steps)?);
        }
        let threads = if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        let case = format!("{}, {threads}", self.name);
        Ok(Line::new("step", case, tokens / median(our_seconds), tokens / median(peer_seconds), "tokens/s", GOAL))
    }
}
