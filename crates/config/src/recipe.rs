//! What we recommend for pretraining from nothing (`configs/recipes`), cut to a number of minutes and workers.
//!
//! Pure arithmetic over the recipes' texts: how fast the workers are is given, or estimated from the operations that a
//! token costs. docs/guide/recipes.md says what of the recipes was measured.

use crate::flops::{self, Objective};
use crate::{ConfigError, ModelShape, RunConfig, parse};
use toml_edit::{DocumentMut, Item, value};

/// The sizes that there are recipes for, smallest first, with the recipes.
const RECIPES: [(&str, &str); 4] = [
    ("tiny", include_str!("../../../configs/recipes/tiny.toml")),
    ("mini", include_str!("../../../configs/recipes/mini.toml")),
    ("small", include_str!("../../../configs/recipes/small.toml")),
    ("base", include_str!("../../../configs/recipes/base.toml")),
];

/// What is wished for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// `tiny`, `mini`, `small` or `base`. `None`: the largest that sees [`TOKENS_PER_PARAMETER`] for each of its parameters.
    pub size: Option<String>,
    /// How long it may train.
    pub minutes: f64,
    /// How many take part.
    pub workers: u32,
    /// How fast they are.
    pub speed: Speed,
    /// Entries of the tokenizer.
    pub vocabulary: usize,
    /// In place of the recipe's, which are of the quickstart.
    pub data: Vec<String>,
    /// The same.
    pub tokenizer: Option<String>,
}

/// How fast all workers together are.
#[derive(Clone, Copy, Debug)]
pub enum Speed {
    /// Measured, with a model of this size.
    TokensPerSecond(f64),
    /// So many threads a worker, each at [`THREAD_FLOPS`].
    Threads(u32),
}

/// What a training step gets out of a thread, floating-point operations a second: half of what a large matrix product gets
/// out of a core of a server with AVX2 (docs/benchmarks.md). An estimate, and said to be one.
pub const THREAD_FLOPS: f64 = 33e9;

/// A rule of thumb for how large a model is worth its time, half of what Hoffmann et al. (2022) found for decoders. Only
/// parameters of the layers count.
pub const TOKENS_PER_PARAMETER: f64 = 10.0;

/// Of the minutes, what is left for steps beside start, evaluations and checkpoints.
const SHARE_OF_STEPS: f64 = 0.95;
/// Of the steps' time, what held-out batches may take.
const SHARE_OF_EVALUATION: f64 = 0.02;
/// With fewer, warm-up and decay leave nothing in between.
const STEPS_MIN: u64 = 100;
/// A forward pass of fewer rows gives a core too little to do.
const MICRO_BATCH_MIN: usize = 4;
/// Below so many steps of a recipe's batch the run is a short one ([`shorten`]), where a batch can be halved. A guess between
/// half a minute, in which that was better, and four, in which the recipe was.
const STEPS_SHORT: u64 = 250;
/// What a user puts paths of their own in place of.
const DATA: &str = "corpus/*.parquet";
const TOKENIZER: &str = "tokenizer/tokenizer.json";

/// A recipe that fits.
#[derive(Clone, Debug)]
pub struct Suggestion {
    /// Of the recipe.
    pub size: &'static str,
    /// The run's file, with the recipe's comments.
    pub toml: String,
    /// What `toml` says.
    pub config: RunConfig,
    /// Of all workers together.
    pub tokens_per_second: f64,
    /// Positions of a global batch.
    pub tokens_per_step: u64,
    /// What the run sees.
    pub tokens: u64,
    /// Of the encoder's layers.
    pub parameters: u64,
}

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum NoRecipe {
    /// Not one of the four.
    #[error("there is no recipe for `{0}`: tiny, mini, small and base have one")]
    Size(String),
    /// Zero, less, no number, or beyond all reason.
    #[error("{what} must be above 0 and at most 1e9, not {value}")]
    OutOfRange {
        /// Of the wish.
        what: &'static str,
        /// What it is.
        value: f64,
    },
    /// Too few steps.
    #[error(
        "{minutes} minutes are {steps} steps of {tokens_per_step} tokens at {tokens_per_second:.0} tokens a second, and \
         fewer than {STEPS_MIN} are no schedule: take a smaller model, more workers or {enough:.1} minutes"
    )]
    TooShort {
        /// What was wished for.
        minutes: f64,
        /// What fits into them.
        steps: u64,
        /// Positions of a global batch.
        tokens_per_step: u64,
        /// Of all workers together.
        tokens_per_second: f64,
        /// The minutes of a hundred steps.
        enough: f64,
    },
    /// Of more workers than a run can have, for one.
    #[error("no config comes of it: {0}")]
    Config(#[from] ConfigError),
}

/// A recipe as it is shipped, its paths and all. `None`: there is none for this size.
pub fn shipped(size: &str) -> Option<RunConfig> {
    let (name, text) = RECIPES.iter().find(|(name, _)| *name == size)?;
    Some(parse(name, text).expect("a test parses all four"))
}

/// The recipe of the size that is asked for, or else of the largest that is worth its time.
///
/// # Errors
/// Numbers that are none, and minutes that are too few.
pub fn suggest(wish: &Wish) -> Result<Suggestion, NoRecipe> {
    let speed = match wish.speed {
        Speed::TokensPerSecond(rate) => ("tokens a second", rate),
        Speed::Threads(threads) => ("the number of threads", f64::from(threads)),
    };
    for (what, value) in [("the minutes", wish.minutes), ("the number of workers", f64::from(wish.workers)), speed] {
        if !(value > 0.0 && value <= 1e9) {
            return Err(NoRecipe::OutOfRange { what, value });
        }
    }
    if let Some(size) = &wish.size {
        let known = RECIPES.iter().find(|(name, _)| name == size);
        return fit(wish, known.ok_or_else(|| NoRecipe::Size(size.clone()))?);
    }
    let worth = |found: &Suggestion| found.tokens as f64 >= TOKENS_PER_PARAMETER * found.parameters as f64;
    let fits = RECIPES.iter().rev().filter_map(|recipe| fit(wish, recipe).ok()).find(worth);
    fits.map_or_else(|| fit(wish, &RECIPES[0]), Ok)
}

/// One recipe, cut to the wish.
fn fit(wish: &Wish, (size, text): &(&'static str, &'static str)) -> Result<Suggestion, NoRecipe> {
    let name = format!("configs/recipes/{size}.toml");
    let mut config = parse(&name, text)?;
    let recipe_rows = config.batch.global_samples();

    // Every worker has as many slots as the others, and the batch stays what it was as far as that goes.
    let workers = wish.workers;
    let slots = workers * config.batch.slots.div_ceil(workers);
    let rows = recipe_rows as f64 / f64::from(slots);
    let micro_batch = (rows.round() as usize).max(MICRO_BATCH_MIN);
    (config.batch.slots, config.batch.micro_batch) = (slots, micro_batch);
    let grown = config.batch.global_samples() as f64 / recipe_rows as f64;
    // Many workers need a larger batch, which bears a higher rate.
    if grown > 1.5 {
        config.optimizer.learning_rate = rounded(config.optimizer.learning_rate * grown.sqrt());
        config.optimizer.muon_learning_rate = rounded(config.optimizer.muon_learning_rate * grown.sqrt());
    }
    let mut pace = Pace::of(wish, &config);
    let is_short = pace.steps < STEPS_SHORT && config.batch.micro_batch >= 2 * MICRO_BATCH_MIN;
    if is_short {
        shorten(&mut config);
        pace = Pace::of(wish, &config);
    }
    let Pace { tokens_per_second, tokens_per_step, steps, all_tokens } = pace;
    if steps < STEPS_MIN {
        let enough = wish.minutes * STEPS_MIN as f64 * tokens_per_step as f64 / all_tokens;
        let (minutes, enough) = (wish.minutes, (enough * 10.0).ceil() / 10.0);
        return Err(NoRecipe::TooShort { minutes, steps, tokens_per_step, tokens_per_second, enough });
    }
    // A fifth of the run may be lost to a power cut at most; a forward pass is a third of a step.
    let every = (steps / 5).min(config.checkpoint.every_steps.max(steps / 50));
    let affordable = SHARE_OF_EVALUATION * 3.0 * (every * config.batch.global_samples()) as f64;
    let samples = (affordable as u64).clamp(64, config.eval.samples);

    let mut document: DocumentMut = text.parse().expect("it was parsed as TOML above");
    let mut set = |section: &str, key: &str, new: Item| replace(&mut document, section, key, new);
    set("run", "steps", value(steps as i64));
    set("batch", "slots", value(i64::from(slots)));
    set("batch", "micro_batch", value(config.batch.micro_batch as i64));
    set("objective", "mask_rate", value(config.objective.mask_rate));
    set("optimizer", "learning_rate", value(config.optimizer.learning_rate));
    set("optimizer", "muon_learning_rate", value(config.optimizer.muon_learning_rate));
    if let Some(hold) = config.schedule.hold {
        set("schedule", "hold", value(hold));
    }
    set("checkpoint", "every_steps", value(every as i64));
    set("eval", "every_steps", value(every as i64));
    set("eval", "samples", value(samples as i64));
    let data = if wish.data.is_empty() { vec![DATA.to_owned()] } else { wish.data.clone() };
    set("data", "paths", value(data.into_iter().collect::<toml_edit::Array>()));
    set("tokenizer", "path", value(wish.tokenizer.as_deref().unwrap_or(TOKENIZER)));

    let tokens = steps.saturating_mul(tokens_per_step);
    let head = format!(
        "# The {size} recipe{} (docs/guide/recipes.md) for {} minutes on {workers} worker{}: {steps} steps of \
         {tokens_per_step} tokens,\n# at {tokens_per_second:.0} tokens a second in all, see {:.1} M tokens.\n",
        if is_short { ", cut for few steps," } else { "" },
        wish.minutes,
        if workers == 1 { "" } else { "s" },
        tokens as f64 / 1e6,
    );
    // What the recipe's own head says of its steps is no longer true.
    let body = document.to_string();
    let body = body.trim_start_matches(|c| c != '[');
    let toml = format!("{head}\n{body}");
    let config = parse(&name, &toml)?;
    config.clone().check(&name)?;
    let shape = shape_of(wish, &config);
    let (hidden, inner) = (shape.hidden as u64, shape.intermediate as u64);
    let parameters = shape.layers as u64 * (4 * hidden * hidden + 3 * hidden * inner);
    Ok(Suggestion { size, toml, config, tokens_per_second, tokens_per_step, tokens, parameters })
}

/// How a config trains at the wished speed.
struct Pace {
    tokens_per_second: f64,
    tokens_per_step: u64,
    steps: u64,
    /// That fit into the time, whole steps or not.
    all_tokens: f64,
}

impl Pace {
    fn of(wish: &Wish, config: &RunConfig) -> Self {
        let length = config.batch.sequence_length;
        let predicted = flops::predicted(config.objective.mask_rate, length);
        let objective = Objective { sequence_length: length, predicted, next_sentence: false };
        let tokens_per_second = match wish.speed {
            Speed::TokensPerSecond(rate) => rate,
            Speed::Threads(threads) => {
                let of_token = flops::of_token(&shape_of(wish, config), objective);
                f64::from(wish.workers) * f64::from(threads) * THREAD_FLOPS / of_token
            }
        };
        let tokens_per_step = config.batch.global_samples() * length as u64;
        let all_tokens = wish.minutes * 60.0 * SHARE_OF_STEPS * tokens_per_second;
        Self { tokens_per_second, tokens_per_step, steps: (all_tokens / tokens_per_step as f64) as u64, all_tokens }
    }
}

fn shape_of(wish: &Wish, config: &RunConfig) -> ModelShape {
    config.model.shape(wish.vocabulary as i64, config.batch.sequence_length as i64)
}

/// A recipe for few steps: half the batch, more words masked, the rate held for longer, and Muon's higher. Measured with
/// `tiny` and half a minute (docs/guide/recipes.md); the other sizes take it over.
fn shorten(config: &mut RunConfig) {
    config.batch.micro_batch /= 2;
    config.objective.mask_rate = 0.3;
    config.schedule.hold = Some(0.7);
    config.optimizer.muon_learning_rate = rounded(config.optimizer.muon_learning_rate * 1.5);
}

/// Keeps the comments beside the key.
fn replace(document: &mut DocumentMut, section: &str, key: &str, mut new: Item) {
    let table = &mut document[section];
    if let (Some(old), Some(new)) = (table.get(key).and_then(Item::as_value), new.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    table[key] = new;
}

/// Two digits: a rate is not known better.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().expect("a formatted number is one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(size: &str, minutes: f64, workers: u32) -> Wish {
        Wish {
            size: Some(size.to_owned()),
            minutes,
            workers,
            speed: Speed::TokensPerSecond(10_000.0),
            vocabulary: 8192,
            data: Vec::new(),
            tokenizer: None,
        }
    }

    #[test]
    fn steps_fill_the_minutes() {
        let found = suggest(&wish("tiny", 10.0, 1)).unwrap();
        // 600 s · 0.95 · 10,000 tokens/s, in steps of 4 · 16 · 64 tokens.
        assert_eq!((found.tokens_per_step, found.config.run.steps), (4096, 1391));
        assert_eq!(found.tokens, 1391 * 4096);
        let twice = suggest(&wish("tiny", 20.0, 1)).unwrap();
        assert!(twice.config.run.steps.abs_diff(2 * 1391) <= 1);
    }

    #[test]
    fn every_recipe_is_a_valid_config_for_any_number_of_workers() {
        for (size, _) in RECIPES {
            for workers in [1, 2, 3, 4, 5, 7, 16, 64, 100] {
                let found = suggest(&wish(size, 10_000.0, workers)).unwrap();
                let batch = &found.config.batch;
                assert_eq!(batch.slots % workers, 0, "{size}, {workers}");
                assert!(batch.micro_batch >= MICRO_BATCH_MIN);
                let steps = found.config.run.steps;
                found.config.check("recipe").unwrap();
                assert!(steps >= STEPS_MIN);
            }
        }
    }

    #[test]
    fn the_batch_stays_as_it_was_while_it_can() {
        for workers in [1, 2, 4, 8, 16] {
            let found = suggest(&wish("tiny", 60.0, workers)).unwrap();
            assert_eq!(found.config.batch.global_samples(), 64);
            assert_eq!(found.config.optimizer.learning_rate, 1.5e-3);
        }
        // 64 workers have 4 rows each: four times the batch, twice the rate.
        let found = suggest(&wish("tiny", 60.0, 64)).unwrap();
        assert_eq!(found.config.batch.global_samples(), 256);
        assert_eq!(found.config.optimizer.learning_rate, 3e-3);
        assert_eq!(found.config.optimizer.muon_learning_rate, 0.04);
    }

    #[test]
    fn few_steps_are_smaller_ones() {
        // 249 and 250 steps of 4,096 tokens.
        let minutes = |steps: f64| steps * 4096.0 / 10_000.0 / 0.95 / 60.0;
        let of = |minutes| suggest(&wish("tiny", minutes, 1)).unwrap();
        let (short, long) = (of(minutes(249.5)), of(minutes(250.5)));
        assert_eq!((short.tokens_per_step, short.config.run.steps), (2048, 499));
        assert_eq!((long.tokens_per_step, long.config.run.steps), (4096, 250));
        let rates = |found: &Suggestion| {
            let config = &found.config;
            (config.objective.mask_rate, config.schedule.hold, config.optimizer.muon_learning_rate)
        };
        assert_eq!((rates(&short), rates(&long)), ((0.3, Some(0.7), 0.03), (0.2, Some(0.4), 0.02)));
        assert!(short.toml.contains("cut for few steps") && !long.toml.contains("cut for few steps"));
        // Workers that have no rows to spare keep the recipe.
        let many = suggest(&wish("tiny", minutes(105.5), 16)).unwrap();
        assert_eq!((many.tokens_per_step, rates(&many)), (4096, rates(&long)));
    }

    #[test]
    fn evaluations_take_a_fiftieth() {
        let found = suggest(&wish("tiny", 4.0, 2)).unwrap();
        let every = found.config.eval.every_steps;
        let forward = found.config.eval.samples as f64 / 3.0;
        assert!(forward <= 0.021 * (every * found.config.batch.global_samples()) as f64, "{forward}, {every}");
        assert!(every <= found.config.run.steps / 5);
    }

    #[test]
    fn the_largest_model_that_is_worth_its_time() {
        let of = |minutes, threads| {
            let wish = Wish { size: None, speed: Speed::Threads(threads), ..wish("tiny", minutes, 2) };
            suggest(&wish).unwrap().size
        };
        assert_eq!(of(4.0, 1), "tiny");
        assert_eq!(of(60.0 * 24.0 * 7.0, 8), "small");
        assert_eq!(of(60.0 * 24.0 * 7.0, 10_000), "base");
    }

    #[test]
    fn an_estimate_follows_the_threads() {
        let of = |workers, threads| {
            let wish = Wish { speed: Speed::Threads(threads), ..wish("mini", 60.0, workers) };
            suggest(&wish).unwrap().tokens_per_second
        };
        assert!((of(2, 4) / of(1, 1) - 8.0).abs() < 1e-9);
    }

    #[test]
    fn paths_and_comments() {
        let mut wish = wish("tiny", 10.0, 1);
        let text = suggest(&wish).unwrap().toml;
        assert!(text.starts_with("# The tiny recipe") && text.contains(DATA) && text.contains(TOKENIZER), "{text}");
        wish.data = vec!["a.parquet".to_owned(), "b.parquet".to_owned()];
        wish.tokenizer = Some("mine.json".to_owned());
        let found = suggest(&wish).unwrap().config;
        assert_eq!(found.data.paths, wish.data);
        assert_eq!(found.tokenizer.path, "mine.json");
    }

    #[test]
    fn what_cannot_be() {
        let told = |wish: &Wish| suggest(wish).unwrap_err().to_string();
        assert!(told(&wish("huge", 10.0, 1)).contains("tiny, mini, small and base"));
        assert!(told(&wish("tiny", 0.0, 1)).contains("minutes must be above 0"));
        assert!(told(&wish("tiny", f64::NAN, 1)).contains("minutes"));
        assert!(told(&wish("tiny", 10.0, 0)).contains("number of workers"));
        let short = told(&wish("tiny", 0.3, 1));
        assert!(short.contains("83 steps") && short.contains("0.4 minutes"), "{short}");
        suggest(&wish("tiny", 0.4, 1)).unwrap();
        let many = told(&wish("tiny", 1e6, 3000));
        assert!(many.contains("batch.slots") && many.contains("2048"), "{many}");
        assert!(told(&wish("tiny", 1e300, 1)).contains("at most 1e9"));
        suggest(&wish("tiny", 1e9, 1)).unwrap();
    }
}
