//! What is compared: the recipe of a size as it is shipped, and the same with one thing changed.

use anyhow::{Context, Result, ensure};
use config::{Architecture, BatchConfig, Decay, ModelSize, OptimizerKind, RunConfig};

/// Words of the vocabulary that all variants but those of the vocabulary have.
pub const VOCABULARY: usize = 8_192;

/// The name of the recipe as it is.
pub const BASE: &str = "recipe";

#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    /// Of the vocabulary, which is trained on the training texts.
    pub vocabulary: usize,
    change: fn(&mut RunConfig),
}

const fn variant(name: &'static str, change: fn(&mut RunConfig)) -> Variant {
    Variant { name, vocabulary: VOCABULARY, change }
}

/// All of them, the recipe itself first. Learned positions that were never trained are of no use, so that BERT has blocks
/// as long as those it is measured on: its like is `block-128`.
const VARIANTS: [Variant; 43] = [
    variant(BASE, |_| {}),
    variant("bert-as-published", |config| {
        bert(config);
        config.model.dropout = Some(0.1);
        config.objective.mask_rate = 0.15;
        config.optimizer.kind = OptimizerKind::Adamw;
        config.optimizer.learning_rate = 2e-3;
        config.schedule.hold = None;
    }),
    variant("bert-layout", bert),
    variant("dropout-0.1", |config| config.model.dropout = Some(0.1)),
    variant("block-32", |config| blocks(&mut config.batch, 32)),
    variant("block-64", |config| blocks(&mut config.batch, 64)),
    variant("block-128", |config| blocks(&mut config.batch, 128)),
    variant("block-256", |config| blocks(&mut config.batch, 256)),
    variant("block-128-short-64", |config| {
        blocks(&mut config.batch, 128);
        (config.batch.short_length, config.batch.short_share) = (Some(64), Some(0.8));
    }),
    variant("mask-15", |config| config.objective.mask_rate = 0.15),
    variant("mask-20", |config| config.objective.mask_rate = 0.2),
    variant("mask-30", |config| config.objective.mask_rate = 0.3),
    variant("mask-40", |config| config.objective.mask_rate = 0.4),
    variant("mask-30-to-15", |config| {
        (config.objective.mask_rate, config.objective.final_mask_rate) = (0.3, Some(0.15));
    }),
    variant("adamw", |config| config.optimizer.kind = OptimizerKind::Adamw),
    variant("adamw-rate-half", |config| {
        config.optimizer.kind = OptimizerKind::Adamw;
        config.optimizer.learning_rate /= 2.0;
    }),
    variant("rate-half", |config| config.optimizer.learning_rate /= 2.0),
    variant("rate-quarter", |config| config.optimizer.learning_rate /= 4.0),
    variant("rate-double", |config| config.optimizer.learning_rate *= 2.0),
    variant("muon-rate-half", |config| config.optimizer.muon_learning_rate /= 2.0),
    variant("muon-rate-double", |config| config.optimizer.muon_learning_rate *= 2.0),
    variant("both-rates-half", |config| {
        config.optimizer.learning_rate /= 2.0;
        config.optimizer.muon_learning_rate /= 2.0;
    }),
    variant("both-rates-double", |config| {
        config.optimizer.learning_rate *= 2.0;
        config.optimizer.muon_learning_rate *= 2.0;
    }),
    variant("linear", |config| config.schedule.hold = None),
    variant("hold-20", |config| config.schedule.hold = Some(0.2)),
    variant("hold-60", |config| config.schedule.hold = Some(0.6)),
    variant("cosine", |config| (config.schedule.decay, config.schedule.hold) = (Decay::Cosine, None)),
    variant("wsd", |config| (config.schedule.decay, config.schedule.hold) = (Decay::Sqrt, Some(0.8))),
    variant("warm-up-2", |config| config.schedule.warmup = 0.02),
    variant("warm-up-10", |config| config.schedule.warmup = 0.1),
    variant("twice-deeper", |config| shaped(config, (4, 1), (1, 2))),
    variant("deeper-mask-30-to-15", |config| {
        shaped(config, (2, 1), (3, 4));
        (config.objective.mask_rate, config.objective.final_mask_rate) = (0.3, Some(0.15));
    }),
    variant("deeper-rate-half", |config| {
        shaped(config, (2, 1), (3, 4));
        config.optimizer.learning_rate /= 2.0;
    }),
    variant("deeper", |config| shaped(config, (2, 1), (3, 4))),
    variant("wider", |config| shaped(config, (1, 2), (3, 2))),
    variant("batch-half", |config| batch(&mut config.batch, 1, 2)),
    variant("batch-quarter", |config| batch(&mut config.batch, 1, 4)),
    variant("batch-double", |config| batch(&mut config.batch, 2, 1)),
    variant("batch-ramp", |config| {
        let batch = &mut config.batch;
        batch.micro_batch = batch.micro_batch.div_ceil(4);
        (batch.accumulate, batch.ramp_from, batch.ramp_share) = (4, Some(1), Some(0.5));
    }),
    variant("ema-0.999", |config| config.optimizer.ema_decay = Some(0.999)),
    variant("weight-decay-0.1", |config| config.optimizer.weight_decay = 0.1),
    Variant { name: "vocabulary-4096", vocabulary: 4_096, change: |_| {} },
    Variant { name: "vocabulary-16384", vocabulary: 16_384, change: |_| {} },
];

/// Those whose names are asked for, in the order of the list; all of them where none is. A variant that changes nothing
/// of this recipe is left out.
pub fn chosen(size: ModelSize, names: &[String]) -> Result<Vec<Variant>> {
    for name in names {
        let known = || VARIANTS.map(|variant| variant.name).join(", ");
        ensure!(
            VARIANTS.iter().any(|variant| variant.name == name),
            "there is no variant `{name}`; there are {}",
            known()
        );
    }
    let base = recipe(size)?;
    let differs = |variant: &Variant| {
        variant.name == BASE || variant.vocabulary != VOCABULARY || variant.applied(base.clone()) != base
    };
    let wanted = |variant: &Variant| names.is_empty() || names.iter().any(|name| name == variant.name);
    Ok(VARIANTS.into_iter().filter(|variant| wanted(variant) && differs(variant)).collect())
}

impl Variant {
    pub fn of_name(name: &str) -> Result<Self> {
        VARIANTS
            .into_iter()
            .find(|variant| variant.name == name)
            .with_context(|| format!("there is no variant `{name}`"))
    }

    /// The shipped recipe of a size with this change.
    pub fn of_size(&self, size: ModelSize) -> Result<super::single::Recipe> {
        Ok((self.applied(recipe(size)?), self.vocabulary))
    }

    pub fn applied(&self, mut config: RunConfig) -> RunConfig {
        (self.change)(&mut config);
        config
    }
}

/// The shipped recipe. It is part of this program, which may run where the repository is not.
pub fn recipe(size: ModelSize) -> Result<RunConfig> {
    let name = format!("{size:?}").to_lowercase();
    config::recipe::shipped(&name).with_context(|| format!("there is no recipe for {name}"))
}

fn bert(config: &mut RunConfig) {
    config.model.architecture = Architecture::Bert;
    config.model.intermediate = None;
    config.model.dropout = Some(0.0);
    blocks(&mut config.batch, 128);
}

/// Blocks of another length, as many tokens in a step.
fn blocks(batch: &mut BatchConfig, length: usize) {
    batch.micro_batch = (batch.micro_batch * batch.sequence_length / length).max(1);
    batch.sequence_length = length;
}

fn batch(batch: &mut BatchConfig, times: usize, parts: usize) {
    batch.micro_batch = (batch.micro_batch * times / parts).max(1);
}

/// So many times the layers, and so many times the width, with heads of about 64.
fn shaped(config: &mut RunConfig, layers: (i64, i64), width: (i64, i64)) {
    let now = config.model.shape(VOCABULARY as i64, config.batch.sequence_length as i64);
    let hidden = now.hidden * width.0 / width.1;
    let model = &mut config.model;
    model.layers = Some((now.layers * layers.0 / layers.1).max(1));
    model.hidden = Some(hidden);
    model.heads = Some(if hidden % 64 == 0 { hidden / 64 } else { hidden / 48 });
    model.intermediate = Some(now.intermediate * width.0 / width.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [ModelSize; 4] = [ModelSize::Tiny, ModelSize::Mini, ModelSize::Small, ModelSize::Base];

    #[test]
    fn every_variant_is_a_config_that_holds() {
        for size in SIZES {
            let base = recipe(size).unwrap();
            let tokens = |config: &RunConfig| config.batch.global_samples() * config.batch.sequence_length as u64;
            for variant in chosen(size, &[]).unwrap() {
                let config = variant.applied(base.clone());
                let same = tokens(&config) == tokens(&base);
                assert_eq!(
                    same,
                    !matches!(variant.name, "batch-quarter" | "batch-half" | "batch-double"),
                    "{size:?}, {}",
                    variant.name
                );
                config.check(variant.name).unwrap();
            }
        }
    }

    #[test]
    fn names_are_chosen_and_what_the_recipe_is_itself_is_left_out() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            chosen(ModelSize::Tiny, &wanted).map(|found| found.iter().map(|variant| variant.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["wsd", "adamw"]).unwrap(), ["adamw", "wsd"]);
        let own = names(&["mask-20", "block-64", BASE]).unwrap();
        assert_eq!(own, [BASE], "the recipe masks 20 % in blocks of 64");
        assert!(names(&["mask-99"]).unwrap_err().to_string().contains("mask-40"));
        let all = names(&[]).unwrap();
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }
}
