//! What a sweep's config becomes.

#![allow(clippy::unwrap_used)]

use config::{CheckedConfig, Override, SweepPoint, load_checked};
use std::path::Path;

fn checked(overrides: &[&str]) -> CheckedConfig {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/finetune-sentiment.toml");
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    load_checked(&file, &overrides).unwrap()
}

fn points(overrides: &[&str]) -> Vec<SweepPoint> {
    checked(overrides).sweep_points("sweep.toml").unwrap()
}

#[test]
fn every_combination_has_every_seed_and_every_fold() {
    let points = points(&[
        "run.name=s",
        "run.seed=7",
        "data.eval_paths=[]",
        "sweep.seeds=2",
        "sweep.folds=3",
        "sweep.vary.optimizer.learning_rate=[1e-4, 3e-5]",
        "sweep.vary.batch.micro_batch=[4, 8]",
    ]);
    assert_eq!(points.len(), 2 * 3 * 4);
    let names: Vec<&str> = points.iter().map(|point| point.config.run.name.as_str()).collect();
    assert_eq!((names[0], names[1], names[3], names[23]), ("s-c0-s7-f0", "s-c0-s7-f1", "s-c0-s8-f0", "s-c3-s8-f2"));
    for (index, point) in points.iter().enumerate() {
        let config = &point.config;
        assert_eq!(point.combination as usize, index / 6);
        assert_eq!((config.run.seed, point.seed), (7 + index as u64 / 3 % 2, config.run.seed));
        assert_eq!((config.data.fold, config.data.folds), (Some(index as u32 % 3), Some(3)));
        assert_eq!(point.fold, config.data.fold);
        assert_eq!(config.batch.micro_batch, [4, 8][index / 12]);
        assert_eq!(config.optimizer.learning_rate, [1e-4, 3e-5][index / 6 % 2]);
        assert!(config.sweep.is_none(), "a run is no sweep");
        let told: Vec<&str> = point.settings.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(told, ["batch.micro_batch", "optimizer.learning_rate"]);
    }
    // Without anything to vary it is one run under its own name, and without `[sweep]` none.
    assert_eq!(self::points(&["run.name=s", "sweep.seeds=1"])[0].config.run.name, "s");
    assert_eq!(self::points(&[]), []);
}

#[test]
fn keys_in_quotes_and_tables_are_the_same_key() {
    let quoted = points(&["sweep.vary={\"optimizer.learning_rate\" = [1e-4, 3e-5]}"]);
    assert_eq!(quoted, points(&["sweep.vary.optimizer.learning_rate=[1e-4, 3e-5]"]));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/finetune-sentiment.toml");
    let twice = ["sweep.vary={\"run.steps\" = [1, 2]}".parse().unwrap(), "sweep.vary.run.steps=[3]".parse().unwrap()];
    let message = load_checked(&file, &twice).unwrap_err().to_string();
    assert!(message.contains("`run.steps` stands there twice"), "{message}");
}

#[test]
fn a_combination_that_is_wrong_is_named_with_its_values() {
    let wrong = |setting: &str| checked(&[setting]).sweep_points("sweep.toml").unwrap_err().to_string();
    let message = wrong("sweep.vary.optimizer.learning_rate=[1e-4, -1.0]");
    assert!(
        message.contains("sweep.toml, with optimizer.learning_rate = -1.0: `optimizer.learning_rate`"),
        "{message}"
    );
    let message = wrong("sweep.vary.optimizer.learning_rat=[1e-4]");
    assert!(
        message.contains("no such key") && message.contains("did you mean `optimizer.learning_rate`?"),
        "{message}"
    );
    let message = wrong("sweep.vary.run.steps=[\"many\"]");
    assert!(message.contains("`run.steps`") && message.contains("invalid type"), "{message}");
}

#[test]
fn varied_paths_are_made_absolute_as_any_are() {
    let points = points(&["sweep.vary.init.from=[\"hf:models/a\", \"run:mini\"]"]);
    let here = std::env::current_dir().unwrap();
    assert_eq!(points[0].config.init.from, format!("hf:{}", here.join("models/a").display()));
    assert_eq!(points[1].config.init.from, "run:mini");
}

#[test]
fn the_objective_says_what_is_compared() {
    assert_eq!(checked(&[]).sweep_metric(), "eval/accuracy");
    assert_eq!(checked(&["objective.regression=true", "objective.labels=[]"]).sweep_metric(), "eval/spearman");
    assert_eq!(checked(&["sweep.metric=eval/macro_f1"]).sweep_metric(), "eval/macro_f1");
    assert!(config::lower_is_better("eval/loss") && config::lower_is_better("eval/perplexity"));
    assert!(!config::lower_is_better("eval/accuracy"));
}

#[test]
fn no_value_is_taken_twice() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/finetune-sentiment.toml");
    let message = |vary: &str| {
        let vary = [format!("sweep.vary.{vary}").parse().unwrap()];
        load_checked(&file, &vary).err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (vary, told) in [
        ("run.steps=[10, 20, 10]", "`run.steps` takes 10 twice"),
        ("optimizer.learning_rate=[1e-4, 3e-4, 0.0001]", "`optimizer.learning_rate` takes 0.0001 twice"),
        ("optimizer.learning_rate=[1, 1.0]", "`optimizer.learning_rate` takes 1.0 twice"),
        ("objective.pooling=[\"mean\", \"mean\"]", "`objective.pooling` takes \"mean\" twice"),
    ] {
        let found = message(vary);
        assert!(found.contains(told), "{vary}: {found}");
    }
    assert_eq!(message("optimizer.learning_rate=[1e-4, 3e-4]"), "");
}
