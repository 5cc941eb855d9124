//! From text to masked samples on one core: our loader beside `datasets.map` with the fast tokenizer and the collator
//! for masked words.
//!
//! Ours is what a worker does: `corpus`'s plan, source, tokenizer, packing (or sentence pairs) and masking, its
//! background thread included, all on one core. The peer is `peers/data.py`, on the same core, the same rows and the
//! same tokenizer. It packs blocks for both of our objectives, since it has no sentence pairs. It tokenises once and
//! masks again in each epoch; we do all again, so that a later epoch is compared too, without a goal.

use crate::peer::Peer;
use crate::report::{Line, median};
use crate::{corpora, stats};
use anyhow::{Context, Result};
use config::{CheckedConfig, ObjectiveKind};
use corpus::{Corpus, Loader, Tokenizer};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use types::{Cursor, SlotId};

const SEQUENCE_LENGTH: usize = 128;
const MICRO_BATCH: usize = 32;
const GOAL: f64 = 3.0;

const OBJECTIVES: [(ObjectiveKind, &str); 2] =
    [(ObjectiveKind::Mlm, "packed blocks, masked words"), (ObjectiveKind::MlmNsp, "sentence pairs, masked words")];

/// For `peers/data.py`.
#[derive(Serialize)]
struct Spec {
    corpus: PathBuf,
    tokenizer: PathBuf,
    sequence_length: usize,
    mask_rate: f64,
    batch: usize,
    core: usize,
}

#[derive(Deserialize)]
struct Answer {
    map_seconds: f64,
    load_seconds: f64,
    tokens: u64,
}

pub fn measure(python: &Path, corpus: &Path, quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let (rounds, rows) = if quick { (2, 300) } else { (6, 1_500) };
    let folder = tempfile::tempdir()?;
    let (text, tokenizer) = (folder.path().join("rows.parquet"), corpus.join("tokenizer.json"));
    let texts = corpora::texts(&corpus.join("corpus.parquet"), rows)?;
    corpora::write(&text, texts.iter());
    let rows = texts.len();
    let on_one_core = OnOneCore::enter()?;
    let core = on_one_core.core;
    let mut ours = Vec::new();
    for (objective, name) in OBJECTIVES {
        ours.push((Ours::open(&text, &tokenizer, objective)?, name, Vec::new()));
    }
    let mask_rate = ours[0].0.config.objective.mask_rate;
    let spec = Spec { corpus: text, tokenizer, sequence_length: SEQUENCE_LENGTH, mask_rate, batch: MICRO_BATCH, core };
    let mut peer = Peer::start(python, "data", &spec, 1)?;
    let (mut first, mut later) = (Vec::new(), Vec::new());
    // The first round fills the file system's cache.
    for round in 0..=rounds {
        let speeds = ours.iter().map(|(ours, ..)| ours.epoch()).collect::<Result<Vec<f64>>>()?;
        let Answer { map_seconds, load_seconds, tokens } = peer.ask("epoch")?;
        if round > 0 {
            ours.iter_mut().zip(speeds).for_each(|((.., found), speed)| found.push(speed));
            first.push(tokens as f64 / (map_seconds + load_seconds));
            later.push(tokens as f64 / load_seconds);
        }
    }
    drop(on_one_core);
    for (_, name, found) in ours {
        let line = |epoch: &str| {
            Line::figure("data", format!("{name}, {epoch}, {rows} rows, 1 core"), median(found.clone()), "tokens/s")
        };
        let spread = stats::widest(&[&found, &first]);
        show(&line("first epoch").beside(median(first.clone())).at_least(GOAL).spread(spread));
        let spread = stats::widest(&[&found, &later]);
        show(&line("later epochs, of which the peer only masks again").beside(median(later.clone())).spread(spread));
    }
    Ok(())
}

struct Ours {
    config: CheckedConfig,
    corpus: Arc<Corpus>,
    tokenizer: Arc<Tokenizer>,
}

impl Ours {
    fn open(text: &Path, tokenizer: &Path, objective: ObjectiveKind) -> Result<Self> {
        let name = "bert-mini.toml";
        let mut config =
            config::load(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs")).join(name), &[])?;
        config.data.paths = vec![text.display().to_string()];
        config.data.eval_fraction = 0.0;
        // What is prepared past the end of the epoch would count against us.
        config.data.prefetch_units = 0;
        config.tokenizer.path = tokenizer.display().to_string();
        config.objective.kind = objective;
        (config.batch.slots, config.batch.micro_batch) = (1, MICRO_BATCH);
        config.batch.sequence_length = SEQUENCE_LENGTH;
        let config = config.check(name)?;
        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
        Ok(Self { corpus: Arc::new(Corpus::open(&config)?), tokenizer, config })
    }

    /// Tokens a second, padding not counted, of all units once.
    fn epoch(&self) -> Result<f64> {
        let units = self.corpus.plan().units().len();
        let began = Instant::now();
        let mut loader = Loader::new(Arc::clone(&self.corpus), Arc::clone(&self.tokenizer), &self.config);
        loader.assign(&[(SlotId(0), Cursor::default())]);
        let (mut tokens, mut finished) = (0, 0);
        while finished < units {
            let step = loader.next(SlotId(0), types::Step(1))?;
            tokens += step.batches.iter().map(corpus::Batch::tokens).sum::<u64>();
            finished += step.segments.iter().filter(|segment| segment.end == segment.total).count();
        }
        Ok(tokens as f64 / began.elapsed().as_secs_f64())
    }
}

/// This thread and those that it starts run on one core until it is dropped.
struct OnOneCore {
    core: usize,
    before: CpuSet,
}

impl OnOneCore {
    fn enter() -> Result<Self> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let cores = (0..CpuSet::count()).rev();
        let core = cores.into_iter().find(|core| before.is_set(*core).unwrap_or(false)).context("no core at all")?;
        let mut one = CpuSet::new();
        one.set(core)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        Ok(Self { core, before })
    }
}

impl Drop for OnOneCore {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_stay_on_one_core_until_they_may_leave() {
        let cores = || {
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
            (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap()).collect::<Vec<_>>()
        };
        let before = cores();
        let one = OnOneCore::enter().unwrap();
        assert_eq!(cores(), [one.core]);
        assert_eq!(std::thread::spawn(cores).join().unwrap(), [one.core]);
        drop(one);
        assert_eq!(cores(), before);
    }

    #[test]
    fn an_epoch_of_a_few_rows() {
        let folder = tempfile::tempdir().unwrap();
        let made = e2e::Corpus::write(folder.path());
        for (objective, name) in OBJECTIVES {
            let ours = Ours::open(&made.text, &made.vocabulary, objective).unwrap();
            assert!(ours.epoch().unwrap() > 0.0, "{name}");
        }
    }
}
