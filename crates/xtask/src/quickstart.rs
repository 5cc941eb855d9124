//! `cargo xtask quickstart`: the main job on real data, driven through the same commands that a user types.
//!
//! Each finished stage leaves its result in `out/quickstart/results.json`, so a second run only shows what is there;
//! `--fresh` starts over.

mod report;
mod stages;

use crate::{building, cache};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
pub struct Arguments {
    /// The same in under two minutes: a smaller corpus and fewer steps, nothing learned worth quoting.
    #[arg(long)]
    smoke: bool,
    /// Throw away the results of an earlier run and start over.
    #[arg(long)]
    fresh: bool,
    /// Where everything goes. Default: out/quickstart (out/smoke with --smoke).
    #[arg(long)]
    out: Option<PathBuf>,
}

/// How long each part is.
pub(crate) struct Scale {
    /// configs/NAME.toml
    config: &'static str,
    /// Books and addresses used.
    texts: usize,
    vocabulary: usize,
    /// Brown sentences for the tagger's curve.
    tagged: &'static [usize],
    tagger_steps: u64,
    reviews: usize,
    review_steps: u64,
    /// Entropy of the corpus's tokens by their frequencies alone, in nats: what a model that knows nothing else reaches.
    /// None for a scale that has no goals to be compared with.
    unigram: Option<f64>,
}

const FULL: Scale = Scale {
    config: "quickstart",
    texts: usize::MAX,
    vocabulary: 8192,
    tagged: &[50, 200, 1000],
    tagger_steps: 150,
    reviews: 2000,
    review_steps: 60,
    unigram: Some(6.58),
};

const SMOKE: Scale = Scale {
    config: "smoke",
    texts: 6,
    vocabulary: 2048,
    tagged: &[50],
    tagger_steps: 20,
    reviews: 64,
    review_steps: 4,
    unigram: None,
};

pub fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let binaries = building::binaries()?;
    let scale = if arguments.smoke { &SMOKE } else { &FULL };
    let default = cache::root().join("out").join(if arguments.smoke { "smoke" } else { "quickstart" });
    let out = std::path::absolute(arguments.out.as_deref().unwrap_or(&default))?;
    if arguments.fresh && out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let set_up = started.elapsed();
    let results = stages::all(&binaries, scale, &out)?;
    report::write(&results, scale, &out)?;
    println!("\nset-up {} s, the job {} s", set_up.as_secs(), started.elapsed().saturating_sub(set_up).as_secs());
    Ok(())
}
