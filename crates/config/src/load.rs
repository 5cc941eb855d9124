//! From text to [`RunConfig`]: TOML, overrides, relative paths, and errors that name line, key and nearest valid name.

use crate::error::Problem;
use crate::{CheckedConfig, ConfigError, InitSource, RunConfig};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// One `--set key=value`: a dotted key and a TOML value; what is no TOML value is taken as a string.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Dotted, e.g. `optimizer.learning_rate`.
    pub key: String,
    /// The parsed value.
    pub value: Value,
}

impl std::str::FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, raw) = text.split_once('=').ok_or_else(|| format!("`{text}`: write `key=value`"))?;
        let key = key.trim().to_owned();
        if key.split('.').any(str::is_empty) {
            return Err(format!("`{text}`: `{key}` is no dotted key such as `run.steps`"));
        }
        let parsed = toml::from_str::<Table>(&format!("value = {raw}")).ok().and_then(|mut t| t.remove("value"));
        Ok(Self { key, value: parsed.unwrap_or_else(|| Value::String(raw.to_owned())) })
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--set {}={}", self.key, self.value)
    }
}

/// Where the values of a config come from: the text of a file, and what was given in place of some of them.
struct Origin<'a> {
    name: &'a str,
    text: &'a str,
    overrides: &'a [Override],
}

impl Origin<'_> {
    /// The error, each problem with the override or else the line that it comes from.
    fn error(&self, mut problems: Vec<Problem>) -> ConfigError {
        for problem in &mut problems {
            let key = problem.key.as_str();
            // An override of a whole section, and of a key in a section that there is not.
            let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
            let given = self.overrides.iter().rev().find(|it| it.key == key || within(key, &it.key));
            let line = || problem.position.or_else(|| find_key(self.text, key));
            let position = if given.is_some() { None } else { line() };
            let given = given.or_else(|| {
                let below = self.overrides.iter().rev().find(|it| within(&it.key, key));
                below.filter(|_| position.is_none())
            });
            (problem.origin, problem.position) = (given.map(ToString::to_string), position);
        }
        ConfigError { source_name: self.name.to_owned(), problems }
    }
}

/// Reads a config file. Its relative paths start at the file's folder; those of `overrides` at the working directory.
pub fn load(file: &Path, overrides: &[Override]) -> Result<RunConfig, ConfigError> {
    read(file, overrides).map(|(config, _)| config)
}

/// The same, checked: what is wrong is named with its line in the file, or with the override.
pub fn load_checked(file: &Path, overrides: &[Override]) -> Result<CheckedConfig, ConfigError> {
    let (config, text) = read(file, overrides)?;
    let name = file.display().to_string();
    config.check(&name).map_err(|error| Origin { name: &name, text: &text, overrides }.error(error.problems))
}

/// The config, and the file's text.
fn read(file: &Path, overrides: &[Override]) -> Result<(RunConfig, String), ConfigError> {
    let name = file.display().to_string();
    let fail = |message: String, help: &str| ConfigError {
        source_name: name.clone(),
        problems: vec![Problem::at_key("", message, help)],
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| fail(format!("cannot be read: {error}"), "give the path of a run's TOML file"))?;
    let cwd = std::env::current_dir().map_err(|error| fail(format!("no working directory: {error}"), "cd to one"))?;
    let folder = cwd.join(file.parent().unwrap_or(Path::new("")));
    let mut table = parse_table(&name, &text)?;
    resolve_paths(&mut table, &folder);
    let origin = Origin { name: &name, text: &text, overrides };
    for Override { key, value } in overrides {
        set(&mut table, key, value.clone()).map_err(|problem| origin.error(vec![problem]))?;
    }
    resolve_paths(&mut table, &cwd);
    let config = from_table(&origin, table)?;
    Ok((config, text))
}

/// Parses a resolved config, such as the one stored with a run. Paths are left as they are.
pub fn parse(source_name: &str, text: &str) -> Result<RunConfig, ConfigError> {
    from_table(&Origin { name: source_name, text, overrides: &[] }, parse_table(source_name, text)?)
}

/// A config from values that stand in no file.
pub(crate) fn from_values(source_name: &str, table: Table) -> Result<RunConfig, ConfigError> {
    from_table(&Origin { name: source_name, text: "", overrides: &[] }, table)
}

/// The config as TOML, every default written out.
pub fn to_toml(config: &RunConfig) -> String {
    toml::to_string(config).expect("a config is always expressible as TOML")
}

/// The JSON Schema of a run's config.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(RunConfig).to_value()
}

fn parse_table(source_name: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| ConfigError {
        source_name: source_name.to_owned(),
        problems: vec![Problem {
            origin: None,
            position: error.span().map(|span| line_and_column(text, span.start)),
            key: String::new(),
            message: error.message().to_owned(),
            help: Some("the file must be TOML: `[section]` lines and `key = value` lines".to_owned()),
        }],
    })
}

fn from_table(origin: &Origin<'_>, table: Table) -> Result<RunConfig, ConfigError> {
    let unknown = unknown_keys(&table);
    if !unknown.is_empty() {
        let problems = unknown.into_iter().map(|(key, help)| Problem::at_key(&key, "no such key", help)).collect();
        return Err(origin.error(problems));
    }
    // Section by section, so that an error knows at least its section.
    RunConfig::deserialize(Value::Table(table.clone())).map_err(|error| {
        let help = "docs/reference/config.md has every key with its type, as has `coordinator config schema`";
        let problem = Problem::at_key(&culprit(&table, error.message()), plainly(error.message().trim()), help);
        origin.error(vec![problem])
    })
}

/// Every key that the schema does not know, with the nearest one that it does.
fn unknown_keys(table: &Table) -> Vec<(String, String)> {
    let schema = json_schema();
    let names = |node: &serde_json::Value| -> Vec<String> {
        node["properties"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let section_schema = |section: &str| {
        let node = &schema["properties"][section];
        let reference = node["$ref"].as_str().or_else(|| node["allOf"][0]["$ref"].as_str());
        // A section that may be left out.
        let reference = reference.or_else(|| node["anyOf"][0]["$ref"].as_str());
        match reference.and_then(|path| path.strip_prefix("#/$defs/")) {
            Some(name) => schema["$defs"][name].clone(),
            None => node.clone(),
        }
    };
    let sections = names(&schema);
    let mut unknown = Vec::new();
    for (section, value) in table {
        if !sections.contains(section) {
            let owner = sections.iter().find(|owner| names(&section_schema(owner)).contains(section));
            let help = match owner {
                Some(owner) => format!("did you mean `{owner}.{section}`?"),
                None => nearest("", section, &sections),
            };
            unknown.push((section.clone(), help));
            continue;
        }
        let keys = names(&section_schema(section));
        for key in value.as_table().into_iter().flat_map(|inner| inner.keys()) {
            if !keys.contains(key) {
                unknown.push((format!("{section}.{key}"), nearest(section, key, &keys)));
            }
        }
    }
    unknown
}

/// What other tools call keys of ours.
const ELSEWHERE: [(&str, &str); 8] = [
    ("lr", "learning_rate"),
    ("batch_size", "micro_batch"),
    ("max_steps", "steps"),
    ("max_length", "sequence_length"),
    ("vocab_size", "vocabulary"),
    ("mlm_probability", "mask_rate"),
    ("text_column", "column"),
    ("num_layers", "layers"),
];

/// The key that may be meant, of those that a section has.
fn nearest(section: &str, name: &str, known: &[String]) -> String {
    let whole = |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
    let elsewhere = ELSEWHERE.iter().find(|(theirs, ours)| *theirs == name && known.iter().any(|key| key == ours));
    if let Some((_, ours)) = elsewhere {
        return format!("here it is `{}`", whole(ours));
    }
    let best = known.iter().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    match best {
        Some(best) if strsim::jaro_winkler(name, best) > 0.8 => format!("did you mean `{}`?", whole(best)),
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// What serde says of a wrong type, in a config's words.
fn plainly(message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("sequence", "list such as [\"a\", \"b\"]"),
        ("string", "text in quotes"),
        ("u32", "whole number"),
        ("u64", "whole number"),
        ("usize", "whole number"),
        ("i64", "whole number"),
        ("f64", "number"),
        ("boolean", "true or false"),
    ];
    let Some((found, expected)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let bare = expected.trim_start_matches("a ").trim_end_matches(" type");
    let wanted = WORDS.iter().find(|(theirs, _)| bare.split([' ', '\n']).next() == Some(theirs));
    wanted.map_or_else(|| message.to_owned(), |(_, ours)| format!("{found}wanted is: {ours}"))
}

/// The key that a type error speaks of: the first one whose section fails alone.
fn culprit(table: &Table, message: &str) -> String {
    if let Some(missing) = message.split("missing field `").nth(1).and_then(|rest| rest.split('`').next()) {
        let owner = table.iter().find(|(section, value)| fails_alone(section, value)).map(|(section, _)| section);
        return owner.map_or_else(|| missing.to_owned(), |section| format!("{section}.{missing}"));
    }
    for (section, value) in table {
        if !fails_alone(section, value) {
            continue;
        }
        for (key, inner) in value.as_table().into_iter().flatten() {
            let mut without = value.as_table().cloned().unwrap_or_default();
            without.remove(key);
            let error = section_error(section, &Value::Table(without));
            if error.is_none_or(|error| error.contains(&format!("missing field `{key}`"))) {
                return format!("{section}.{key}");
            }
            let _ = inner;
        }
        return section.clone();
    }
    String::new()
}

fn fails_alone(section: &str, value: &Value) -> bool {
    section_error(section, value).is_some()
}

fn section_error(section: &str, value: &Value) -> Option<String> {
    fn check<T: for<'de> Deserialize<'de>>(value: &Value) -> Option<String> {
        T::deserialize(value.clone()).err().map(|error| error.message().to_owned())
    }
    match section {
        "run" => check::<crate::RunSection>(value),
        "data" => check::<crate::DataConfig>(value),
        "distill" => check::<crate::DistillConfig>(value),
        "tokenizer" => check::<crate::TokenizerConfig>(value),
        "model" => check::<crate::ModelConfig>(value),
        "init" => check::<crate::InitConfig>(value),
        "objective" => check::<crate::ObjectiveConfig>(value),
        "batch" => check::<crate::BatchConfig>(value),
        "reduce" => check::<crate::ReduceConfig>(value),
        "optimizer" => check::<crate::OptimizerConfig>(value),
        "schedule" => check::<crate::ScheduleConfig>(value),
        "checkpoint" => check::<crate::CheckpointConfig>(value),
        "eval" => check::<crate::EvalConfig>(value),
        "lora" => check::<crate::LoraConfig>(value),
        "recovery" => check::<crate::RecoveryConfig>(value),
        "sweep" => check::<crate::SweepConfig>(value),
        _ => None,
    }
}

pub(crate) fn set(table: &mut Table, key: &str, value: Value) -> Result<(), Problem> {
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or(key);
    let mut here = table;
    for part in parts {
        let entry = here.entry(part.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        here = entry
            .as_table_mut()
            .ok_or_else(|| Problem::at_key(key, format!("`{part}` is a value, not a section"), "name one key"))?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

/// Makes relative paths absolute; URLs and references stay.
fn resolve_paths(table: &mut Table, base: &Path) {
    let absolute = |text: &str| -> String {
        if text.contains("://") || text.is_empty() || Path::new(text).is_absolute() {
            return text.to_owned();
        }
        let mut path = PathBuf::new();
        for part in base.join(text).components() {
            match part {
                std::path::Component::CurDir => {}
                std::path::Component::ParentDir => {
                    path.pop();
                }
                other => path.push(other),
            }
        }
        path.display().to_string()
    };
    for (section, key) in [("data", "paths"), ("data", "eval_paths")] {
        let list = table.get_mut(section).and_then(|s| s.get_mut(key)).and_then(Value::as_array_mut);
        for item in list.into_iter().flatten() {
            if let Value::String(text) = item {
                *text = absolute(text);
            }
        }
    }
    if let Some(Value::String(text)) = table.get_mut("tokenizer").and_then(|s| s.get_mut("path")) {
        *text = absolute(text);
    }
    for (section, key) in [("init", "from"), ("distill", "teacher")] {
        let Some(Value::String(text)) = table.get_mut(section).and_then(|s| s.get_mut(key)) else { continue };
        if let Ok(InitSource::HuggingFace { path }) = InitSource::parse(text) {
            *text = format!("hf:{}", absolute(&path));
        }
    }
    if let Some(Value::Table(vary)) = table.get_mut("sweep").and_then(|sweep| sweep.get_mut("vary")) {
        resolve_varied("", vary, base);
    }
}

/// The same for the values that a sweep puts in.
fn resolve_varied(prefix: &str, vary: &mut Table, base: &Path) {
    for (name, values) in vary {
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if let Value::Table(inner) = values {
            resolve_varied(&key, inner, base);
            continue;
        }
        for value in values.as_array_mut().into_iter().flatten() {
            let mut single = Table::new();
            if set(&mut single, &key, value.clone()).is_err() {
                continue;
            }
            resolve_paths(&mut single, base);
            let found = key.split('.').try_fold(&Value::Table(single), |here, part| here.get(part)).cloned();
            if let Some(resolved) = found {
                *value = resolved;
            }
        }
    }
}

fn find_key(text: &str, key: &str) -> Option<(usize, usize)> {
    let (section, name) = key.split_once('.').map_or((key, None), |(section, name)| (section, Some(name)));
    let mut current = String::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let column = line.len() - trimmed.len() + 1;
        if let Some(header) = trimmed.strip_prefix('[') {
            current = header.split(']').next().unwrap_or_default().trim().to_owned();
            if name.is_none() && current == section {
                return Some((index + 1, column));
            }
        } else if let Some(name) = name {
            let written = trimmed.split('=').next().unwrap_or_default().trim();
            if (current == section && written == name) || (current.is_empty() && written == key) {
                return Some((index + 1, column));
            }
        }
    }
    None
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    (line, before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1)
}
