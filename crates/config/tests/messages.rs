//! What a person reads when a config is wrong, and that the files in configs/ are right.

#![allow(clippy::unwrap_used)]

use config::{Override, load, load_checked, parse, to_toml};
use std::path::{Path, PathBuf};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn quickstart() -> String {
    std::fs::read_to_string(configs().join("quickstart.toml")).unwrap()
}

fn error(text: &str) -> String {
    match parse("run.toml", text) {
        Err(error) => error.to_string(),
        Ok(config) => config.check("run.toml").unwrap_err().to_string(),
    }
}

#[test]
fn every_shipped_config_is_valid() {
    let mut count = 0;
    let entries = [configs(), configs().join("recipes")].map(|folder| std::fs::read_dir(folder).unwrap());
    for entry in entries.into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let config = load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
            config.check(&path.display().to_string()).unwrap_or_else(|error| panic!("{error}"));
            count += 1;
        }
    }
    assert!(count >= 10);
}

#[test]
fn a_misspelt_key_is_named_with_line_and_nearest_name() {
    let text = quickstart().replace("micro_batch", "micro_bacth");
    let line = text.lines().position(|line| line.starts_with("micro_bacth")).unwrap() + 1;
    let message = error(&text);
    assert!(message.starts_with(&format!("run.toml:{line}:1: `batch.micro_bacth`: no such key")), "{message}");
    assert!(message.contains("did you mean `batch.micro_batch`?"), "{message}");
}

#[test]
fn a_key_of_another_section_or_of_another_tool_is_recognised() {
    assert!(loaded(&quickstart(), &["steps=3"]).contains("did you mean `run.steps`?"));
    assert!(loaded(&quickstart(), &["optimizer.lr=3"]).contains("here it is `optimizer.learning_rate`"));
    assert!(loaded(&quickstart(), &["run.max_steps=3"]).contains("here it is `run.steps`"));
    let metric = loaded(&quickstart(), &["eval.best_metric=\"eval/mlm_loss\""]);
    assert!(metric.contains("write it without `eval/`: `mlm_loss`"), "{metric}");
}

#[test]
fn a_wrong_type_is_told_in_plain_words() {
    for (set, key, wanted) in [
        ("data.paths=\"a.parquet\"", "data.paths", "wanted is: list such as"),
        ("run.steps=1e3", "run.steps", "wanted is: whole number"),
        ("optimizer.learning_rate=\"low\"", "optimizer.learning_rate", "wanted is: number"),
        ("objective.whole_word=1", "objective.whole_word", "wanted is: true or false"),
        ("lora.targets=[\"q\"]", "lora.targets", "unknown variant `q`"),
    ] {
        let text = loaded(&quickstart(), &[set]);
        assert!(text.contains(&format!("`{key}`")) && text.contains(wanted), "{set}: {text}");
    }
}

#[test]
fn a_misspelt_section_is_named() {
    let message = error(&quickstart().replace("[optimizer]", "[optimiser]"));
    assert!(message.contains("`optimiser`: no such key") && message.contains("did you mean `optimizer`?"), "{message}");
}

#[test]
fn a_wrong_type_names_its_key() {
    let message = error(&quickstart().replace("steps = 1200", "steps = \"many\""));
    assert!(message.contains("`run.steps`") && message.contains("string \"many\""), "{message}");
}

#[test]
fn a_missing_key_is_named() {
    let message = error(&quickstart().replace("steps = 1200", ""));
    assert!(message.contains("`run.steps`") && message.contains("missing field"), "{message}");
}

#[test]
fn every_breach_is_reported_at_once() {
    let text = quickstart().replace("min_workers = 1", "min_workers = 9").replace("heads = 2", "heads = 3");
    let message = error(&text);
    assert!(message.contains("`run.min_workers`: 9 workers cannot share 4 slots"), "{message}");
    assert!(message.contains("`model.heads`: 3 heads do not divide hidden = 128"), "{message}");
}

#[test]
fn a_sequence_longer_than_the_positions_is_refused() {
    let text = quickstart().replace("layers = 2", "layers = 2\nmax_positions = 32");
    assert!(error(&text).contains("`batch.sequence_length`: 64 is more than model.max_positions = 32"));
}

#[test]
fn no_toml_at_all_points_at_the_place() {
    assert!(error("[run]\nname = \n").starts_with("run.toml:2:"));
}

#[test]
fn a_missing_file_is_named() {
    let message = load(Path::new("/nowhere/run.toml"), &[]).unwrap_err().to_string();
    assert!(message.starts_with("/nowhere/run.toml: cannot be read"), "{message}");
}

#[test]
fn overrides_win_and_paths_become_absolute() {
    let overrides: Vec<Override> = ["run.steps=7", "run.name=other", "data.paths=[\"a.parquet\"]", "model.dropout=0.2"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let config = load(&configs().join("quickstart.toml"), &overrides).unwrap();
    assert_eq!((config.run.steps, config.run.name.as_str(), config.model.dropout), (7, "other", Some(0.2)));
    assert_eq!(config.data.paths, [std::env::current_dir().unwrap().join("a.parquet").display().to_string()]);
    assert!(Path::new(&config.tokenizer.path).is_absolute() && !config.tokenizer.path.contains(".."));
    let again = parse("stored", &to_toml(&config)).unwrap();
    assert_eq!(again, config);
}

#[test]
fn an_override_of_an_unknown_key_is_refused() {
    let overrides = ["optimizer.learning_rat=1".parse().unwrap()];
    let message = load(&configs().join("quickstart.toml"), &overrides).unwrap_err().to_string();
    assert!(
        message.contains("`optimizer.learning_rat`") && message.contains("did you mean `optimizer.learning_rate`?"),
        "{message}"
    );
}

/// What a person reads about this file with these overrides.
fn loaded(text: &str, overrides: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{:?}", std::thread::current().id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    let message = load_checked(&file, &overrides).unwrap_err().to_string();
    std::fs::remove_file(&file).unwrap();
    message.replace(&file.display().to_string(), "run.toml")
}

#[test]
fn a_breach_is_named_with_its_line() {
    let text = quickstart().replace("min_workers = 1", "min_workers = 9").replace("heads = 2", "heads = 3");
    let line = |start: &str| text.lines().position(|line| line.starts_with(start)).unwrap() + 1;
    let message = loaded(&text, &[]);
    for start in [
        format!("run.toml:{}:1: `run.min_workers`: 9 workers cannot share 4 slots", line("min_workers")),
        format!("run.toml:{}:1: `model.heads`: 3 heads do not divide hidden = 128", line("heads")),
    ] {
        assert!(message.lines().any(|line| line == start), "no `{start}` in\n{message}");
    }
    // A rule that a key is missing for has no line.
    let finetune = quickstart().replace("pretrain", "finetune").replace("\"mlm\"", "\"classify\"");
    let message = loaded(&finetune, &[]);
    assert!(message.starts_with("run.toml: `data.label_column`: is missing"), "{message}");
    let dotted = format!("eval.samples = 0\n{}", quickstart().replace("[eval]", "[checkpoint.more]"));
    let dotted = dotted.split("[checkpoint.more]").next().unwrap();
    assert_eq!(loaded(dotted, &[]).lines().next(), Some("run.toml:1:1: `eval.samples`: is 0"));
}

#[test]
fn what_an_override_says_is_not_laid_on_the_file() {
    for (overrides, start) in [
        (vec!["run.steps=many"], "--set run.steps=\"many\": `run.steps`: "),
        (vec!["run.steps=0"], "--set run.steps=0: `run.steps`: is 0"),
        (vec!["run.steps=5", "run.steps=0"], "--set run.steps=0: `run.steps`: is 0"),
        (vec!["run.step=5"], "--set run.step=5: `run.step`: no such key"),
        (vec!["runs.steps=5"], "--set runs.steps=5: `runs`: no such key"),
        (vec!["run.steps.all=5"], "--set run.steps.all=5: `run.steps.all`: `steps` is a value, not a section"),
    ] {
        let message = loaded(&quickstart(), &overrides);
        assert!(message.starts_with(start), "{overrides:?}: {message}");
    }
    // The key that a rule names may be the file's although another one was overridden.
    let line = quickstart().lines().position(|line| line.starts_with("min_workers")).unwrap() + 1;
    let text = quickstart().replace("min_workers = 1", "min_workers = 2");
    let message = loaded(&text, &["batch.slots=1"]);
    assert!(message.starts_with(&format!("run.toml:{line}:1: `run.min_workers`")), "{message}");
}
