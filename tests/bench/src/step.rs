//! Whole training steps of one worker beside a plain PyTorch loop on a BERT of the same size.
//!
//! Ours is the trainer as a worker runs it: exact reduction, gradient clipping, samples made in the background. The
//! peers are `peers/step.py`: `BertForPreTraining` with the fused AdamW on ready batches, as it is, compiled, or with
//! the masked head that a user can write by hand. They have our dropout, of hidden states and of attention, and predict
//! as many positions. For the published sizes it is the very same model; for the quickstart's modern encoder it is the
//! BERT of the same layers, widths and vocabulary, since that is the choice somebody has.
//!
//! Both sides count the positions of the batch; hardly one of ours is padding. All take turns, and in every round a
//! large matrix product is timed on the same threads: what the model needs by formula ([`config::flops`]) is a share of
//! that.

use crate::ours::Ours;
use crate::peer::{Peer, Shape};
use crate::report::{Line, median};
use crate::{roofline, samples, stats};
use anyhow::{Result, ensure};
use config::flops::{self, Objective};
use config::{CheckedConfig, ModelShape, ModelSize, ObjectiveKind, Precision};
use corpus::Tokenizer;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind};

struct Case {
    name: &'static str,
    config: &'static str,
    size: Option<ModelSize>,
    /// Set where the corpus's own vocabulary is not the one that is meant.
    vocabulary: Option<i64>,
    /// Set where the config's own batch is not the one that is meant: slots, and samples of each.
    batch: Option<(u32, usize)>,
    sequence_length: Option<usize>,
    threads: u32,
    place: Place,
    precision: Precision,
    /// Steps in one block: the slower, the fewer.
    steps: usize,
    rivals: &'static [Rival],
    /// The goal for the share of what a large matrix product reaches.
    share: Option<f64>,
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    Cpu,
    /// The first CUDA device; needs a build with CUDA's libtorch.
    Cuda,
}

impl Place {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    pub fn device(self) -> Device {
        match self {
            Self::Cpu => Device::Cpu,
            Self::Cuda => Device::Cuda(0),
        }
    }
}

struct Rival {
    mode: Mode,
    goal: f64,
    /// Not worth its time in a quick run.
    slow_to_start: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Eager,
    Compiled,
    Masked,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Compiled => "torch.compile",
            Self::Masked => "a masked head written by hand",
        }
    }
}

const fn rival(mode: Mode, goal: f64) -> Rival {
    Rival { mode, goal, slow_to_start: matches!(mode, Mode::Compiled) }
}

const OF_MINI: [Rival; 3] = [rival(Mode::Eager, 3.0), rival(Mode::Compiled, 3.0), rival(Mode::Masked, 1.15)];

/// BERT-base's batch is what four minutes a round allow; the products are large enough for it not to matter.
const CASES: [Case; 10] = [
    Case {
        name: "quickstart",
        config: "quickstart.toml",
        size: None,
        vocabulary: None,
        batch: None,
        sequence_length: None,
        threads: 1,
        place: Place::Cpu,
        precision: Precision::Float32,
        steps: 12,
        rivals: &[rival(Mode::Eager, 2.5)],
        share: None,
    },
    Case {
        name: "BERT-mini, 128",
        config: "bert-mini.toml",
        size: Some(ModelSize::Mini),
        vocabulary: Some(30_522),
        batch: None,
        sequence_length: Some(128),
        threads: 1,
        place: Place::Cpu,
        precision: Precision::Float32,
        steps: 4,
        rivals: &OF_MINI,
        share: Some(0.75),
    },
    Case {
        name: "BERT-mini, 128",
        config: "bert-mini.toml",
        size: Some(ModelSize::Mini),
        vocabulary: Some(30_522),
        batch: None,
        sequence_length: Some(128),
        threads: 2,
        place: Place::Cpu,
        precision: Precision::Float32,
        steps: 4,
        rivals: &OF_MINI,
        share: Some(0.75),
    },
    // What twice as many workers at most cost.
    Case {
        name: "BERT-mini in eight slots, 128",
        config: "bert-mini.toml",
        size: Some(ModelSize::Mini),
        vocabulary: Some(30_522),
        batch: Some((8, 4)),
        sequence_length: Some(128),
        threads: 2,
        place: Place::Cpu,
        precision: Precision::Float32,
        steps: 4,
        rivals: &[rival(Mode::Masked, 1.0)],
        share: None,
    },
    Case {
        name: "BERT-base, 128",
        config: "bert-mini.toml",
        size: Some(ModelSize::Base),
        vocabulary: Some(30_522),
        batch: Some((2, 8)),
        sequence_length: Some(128),
        threads: 2,
        place: Place::Cpu,
        precision: Precision::Float32,
        steps: 1,
        rivals: &[rival(Mode::Eager, 1.6), rival(Mode::Masked, 1.1)],
        share: Some(0.8),
    },
    Case {
        name: "BERT-base, 512",
        config: "bert-mini.toml",
        size: Some(ModelSize::Base),
        vocabulary: Some(30_522),
        batch: Some((2, 2)),
        sequence_length: Some(512),
        threads: 2,
        place: Place::Cpu,
        precision: Precision::Float32,
        steps: 1,
        rivals: &[rival(Mode::Eager, 1.5), rival(Mode::Masked, 1.1)],
        share: Some(0.8),
    },
    on_a_gpu(
        "BERT-base, 128",
        ModelSize::Base,
        64,
        128,
        Precision::Bfloat16,
        &[rival(Mode::Eager, 1.0), rival(Mode::Compiled, 1.0), rival(Mode::Masked, 1.0)],
    ),
    on_a_gpu(
        "BERT-base, 512",
        ModelSize::Base,
        16,
        512,
        Precision::Bfloat16,
        &[rival(Mode::Eager, 1.0), rival(Mode::Compiled, 1.0)],
    ),
    on_a_gpu("BERT-base, 128", ModelSize::Base, 64, 128, Precision::Float32, &[rival(Mode::Eager, 1.0)]),
    on_a_gpu(
        "BERT-mini, 128",
        ModelSize::Mini,
        256,
        128,
        Precision::Bfloat16,
        &[rival(Mode::Eager, 1.0), rival(Mode::Compiled, 1.0)],
    ),
];

/// Four slots of so many samples each: one at a time fills a GPU.
const fn on_a_gpu(
    name: &'static str,
    size: ModelSize,
    samples: usize,
    sequence_length: usize,
    precision: Precision,
    rivals: &'static [Rival],
) -> Case {
    Case {
        name,
        config: "bert-mini.toml",
        size: Some(size),
        vocabulary: Some(30_522),
        batch: Some((4, samples)),
        sequence_length: Some(sequence_length),
        threads: 4,
        place: Place::Cuda,
        precision,
        steps: 12,
        rivals,
        share: None,
    }
}

/// At least this share of our positions are no padding.
const FULL: f64 = 0.95;

/// The model and the batch, for `peers/step.py`.
#[derive(Serialize)]
pub struct Spec {
    mode: Mode,
    #[serde(flatten)]
    shape: Shape,
    batch: u64,
    sequence_length: usize,
    predicted: usize,
    threads: u32,
    device: Place,
    precision: Precision,
}

impl Spec {
    /// The BERT of this shape, so many sequences a step.
    pub fn new(
        shape: &ModelShape,
        mode: Mode,
        batch: u64,
        sequence_length: usize,
        mask_rate: f64,
        threads: u32,
    ) -> Self {
        Self {
            mode,
            shape: Shape::from(shape),
            batch,
            sequence_length,
            predicted: flops::predicted(mask_rate, sequence_length),
            threads,
            device: Place::Cpu,
            precision: Precision::Float32,
        }
    }
}

/// The cases that have `wanted` in their name.
pub fn measure(python: &Path, place: Place, wanted: &str, quick: bool, mut show: impl FnMut(&Line)) -> Result<()> {
    let cases: Vec<&Case> = CASES.iter().filter(|case| case.place == place && case.name.contains(wanted)).collect();
    ensure!(!cases.is_empty(), "no case has `{wanted}` in its name");
    for case in cases {
        let folder = tempfile::tempdir()?;
        case.write_samples(folder.path())?;
        case.measure(python, folder.path(), quick, &mut show)?;
    }
    Ok(())
}

/// A Chrome trace of one warm step of each case.
pub fn trace(place: Place, traces: &Path) -> Result<()> {
    std::fs::create_dir_all(traces)?;
    for (index, case) in CASES.iter().enumerate().filter(|(_, case)| case.place == place) {
        let folder = tempfile::tempdir()?;
        case.write_samples(folder.path())?;
        let config = case.config(folder.path())?;
        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
        let mut ours = Ours::new(config, tokenizer, case.threads, place.device())?;
        ours.block(1)?;
        // A block has a step before those that count.
        kernels::traced(&traces.join(format!("step-{index}.json")), place.device(), || ours.block(1))??;
    }
    Ok(())
}

/// One of those that take turns with us.
struct Turn<'a> {
    rival: &'a Rival,
    peer: Peer,
    seconds: Vec<f64>,
}

impl Case {
    fn measure(&self, python: &Path, folder: &Path, quick: bool, show: &mut impl FnMut(&Line)) -> Result<()> {
        let (rounds, steps) = if quick { (2, self.steps.div_ceil(2)) } else { (5, self.steps) };
        let config = self.config(folder)?;
        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer)?);
        let shape = config.model.shape(tokenizer.size() as i64, config.batch.sequence_length as i64);
        let objective = Objective {
            sequence_length: config.batch.sequence_length,
            predicted: flops::predicted(config.objective.mask_rate, config.batch.sequence_length),
            next_sentence: config.objective.kind == ObjectiveKind::MlmNsp,
        };
        let positions = (config.batch.global_samples() * config.batch.sequence_length as u64) as f64;
        let (samples, length) = (config.batch.global_samples(), config.batch.sequence_length);
        let spec = |mode| Spec {
            device: self.place,
            precision: self.precision,
            ..Spec::new(&shape, mode, samples, length, config.objective.mask_rate, self.threads)
        };
        let (device, kind) = (self.place.device(), self.kind());
        let mut turns = Vec::new();
        for rival in self.rivals.iter().filter(|rival| !(quick && rival.slow_to_start)) {
            // Both sides grow their memory and threads on the first steps.
            let started = Peer::start(python, "step", &spec(rival.mode), self.threads)
                .and_then(|mut peer| peer.block(1).map(|_| peer));
            match started {
                Ok(peer) => turns.push(Turn { rival, peer, seconds: Vec::new() }),
                Err(error) => show(&Line::missing("step", self.case(rival.mode.name()), format!("{error:#}"))),
            }
        }
        let mut ours = Ours::new(config, tokenizer, self.threads, device)?;
        ours.block(1)?;
        let (mut seconds, mut tokens, mut waited, mut peaks) = (Vec::new(), 0, 0.0, Vec::new());
        for _ in 0..rounds {
            let block = ours.block(steps)?;
            seconds.extend(block.seconds);
            tokens += block.tokens;
            waited += block.waited;
            peaks.push(roofline::products_on(device, kind));
            for turn in &mut turns {
                turn.seconds.extend(turn.peer.block(steps)?);
            }
        }
        let in_a_step = tokens as f64 / seconds.len() as f64;
        ensure!(in_a_step > FULL * positions, "{in_a_step} tokens in a step of {positions}: sequences are not full");
        let speed = positions / median(seconds.clone());
        for turn in turns {
            let spread = stats::widest(&[&seconds, &turn.seconds]);
            let peer = positions / median(turn.seconds);
            let case = self.case(turn.rival.mode.name());
            show(&Line::new("step", case, speed, peer, "tokens/s", turn.rival.goal).spread(spread));
        }
        let needs = speed * flops::of_token(&shape, objective);
        let spread = stats::widest(&[&seconds, &peaks]);
        let line = Line::figure("step", self.case("a large matrix product"), needs / 1e9, "GFLOP/s");
        let note = format!("{:.1} % of our time waits for samples", 100.0 * waited / seconds.iter().sum::<f64>());
        let line = line.beside(median(peaks) / 1e9).spread(spread).note(note);
        match self.share {
            Some(goal) => show(&line.at_least(goal)),
            None => show(&line),
        }
        Ok(())
    }

    /// Documents of some dozens of sequences: few enough tokens for a unit to be made in no time, and many enough for a
    /// document's last sequence, which is short, to be rare.
    fn write_samples(&self, folder: &Path) -> Result<()> {
        samples::write_documents(folder, 160, 2 * self.sequence_length.unwrap_or(128))
    }

    fn case(&self, beside: &str) -> String {
        let threads = if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        let place = match (self.place, self.precision) {
            (Place::Cpu, _) => threads,
            (Place::Cuda, Precision::Float32) => "one GPU, float32".to_owned(),
            (Place::Cuda, Precision::Bfloat16) => "one GPU, bfloat16".to_owned(),
        };
        format!("{}, {place}, beside {beside}", self.name)
    }

    fn kind(&self) -> Kind {
        match self.precision {
            Precision::Float32 => Kind::Float,
            Precision::Bfloat16 => Kind::BFloat16,
        }
    }

    fn config(&self, folder: &Path) -> Result<CheckedConfig> {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs")).join(self.config);
        let mut config = config::load(&file, &[])?;
        config.data.paths = vec![folder.join("corpus.jsonl").display().to_string()];
        // Every block makes the units of all slots anew, beside its steps.
        config.data.unit_rows = Some(8);
        config.data.prefetch_units = usize::from(self.place == Place::Cuda);
        config.objective.short_sequence_probability = 0.0;
        config.tokenizer.path = folder.join("vocab.txt").display().to_string();
        config.model.size = self.size.unwrap_or(config.model.size);
        config.model.vocabulary = self.vocabulary;
        config.run.precision = self.precision;
        if let Some((slots, samples)) = self.batch {
            (config.batch.slots, config.batch.micro_batch) = (slots, samples);
        }
        config.batch.sequence_length = self.sequence_length.unwrap_or(config.batch.sequence_length);
        // More than are ever done: no last step, no checkpoint, no evaluation in the middle of a measurement.
        config.run.steps = 1_000_000;
        config.checkpoint.every_steps = 0;
        config.eval.every_steps = 0;
        Ok(config.check(self.config)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_a_config_that_holds() {
        let folder = tempfile::tempdir().unwrap();
        for case in &CASES {
            let config = case.config(folder.path()).unwrap();
            assert_eq!(config.batch.global_samples() * config.batch.sequence_length as u64 % 2048, 0, "{}", case.name);
            assert!(case.sequence_length.is_none_or(|length| length == config.batch.sequence_length));
        }
    }

    #[test]
    fn hardly_a_sequence_is_not_full() {
        let folder = tempfile::tempdir().unwrap();
        let case = CASES.iter().find(|case| case.sequence_length == Some(512)).unwrap();
        case.write_samples(folder.path()).unwrap();
        let config = case.config(folder.path()).unwrap();
        let tokenizer = Arc::new(Tokenizer::open(&config.tokenizer).unwrap());
        let corpus = Arc::new(corpus::Corpus::open(&config).unwrap());
        let mut loader = corpus::Loader::new(corpus, tokenizer, &config);
        loader.assign(&[(types::SlotId(0), types::Cursor::default())]);
        let (mut tokens, mut positions) = (0, 0);
        for _ in 0..100 {
            for batch in loader.next(types::SlotId(0), types::Step(1)).unwrap().batches {
                tokens += batch.tokens();
                positions += batch.samples as u64 * 512;
            }
        }
        assert!(tokens as f64 > FULL * positions as f64, "{tokens} of {positions}");
    }
}
