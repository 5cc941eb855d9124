//! From text to [`RunConfig`]: TOML, overrides, relative paths, and errors that name line, key and nearest valid name.

use crate::error::Problem;
use crate::{ConfigError, InitSource, RunConfig};
use serde::Deserialize;
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

/// Reads a config file. Its relative paths start at the file's folder; those of `overrides` at the working directory.
pub fn load(file: &Path, overrides: &[Override]) -> Result<RunConfig, ConfigError> {
    let name = file.display().to_string();
    let fail = |message: String, help: &str| ConfigError {
        source_name: name.clone(),
        problems: vec![Problem { position: None, key: String::new(), message, help: Some(help.to_owned()) }],
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| fail(format!("cannot be read: {error}"), "give the path of a run's TOML file"))?;
    let cwd = std::env::current_dir().map_err(|error| fail(format!("no working directory: {error}"), "cd to one"))?;
    let folder = cwd.join(file.parent().unwrap_or(Path::new("")));
    let mut table = parse_table(&name, &text)?;
    resolve_paths(&mut table, &folder);
    for Override { key, value } in overrides {
        set(&mut table, key, value.clone())
            .map_err(|problem| ConfigError { source_name: format!("--set {key}"), problems: vec![problem] })?;
    }
    resolve_paths(&mut table, &cwd);
    from_table(&name, &text, table)
}

/// Parses a resolved config, such as the one stored with a run. Paths are left as they are.
pub fn parse(source_name: &str, text: &str) -> Result<RunConfig, ConfigError> {
    from_table(source_name, text, parse_table(source_name, text)?)
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
            position: error.span().map(|span| line_and_column(text, span.start)),
            key: String::new(),
            message: error.message().to_owned(),
            help: Some("the file must be TOML: `[section]` lines and `key = value` lines".to_owned()),
        }],
    })
}

fn from_table(source_name: &str, text: &str, table: Table) -> Result<RunConfig, ConfigError> {
    let unknown = unknown_keys(&table);
    if !unknown.is_empty() {
        let problems = unknown
            .into_iter()
            .map(|(key, help)| Problem {
                position: find_key(text, &key),
                message: "no such key".to_owned(),
                help: Some(help),
                key,
            })
            .collect();
        return Err(ConfigError { source_name: source_name.to_owned(), problems });
    }
    // Section by section, so that an error knows at least its section.
    RunConfig::deserialize(Value::Table(table.clone())).map_err(|error| {
        let key = culprit(&table, error.message());
        ConfigError {
            source_name: source_name.to_owned(),
            problems: vec![Problem {
                position: find_key(text, &key),
                message: error.message().trim().to_owned(),
                help: Some("`coordinator config schema` lists every key with its type".to_owned()),
                key,
            }],
        }
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
        match reference.and_then(|path| path.strip_prefix("#/$defs/")) {
            Some(name) => schema["$defs"][name].clone(),
            None => node.clone(),
        }
    };
    let sections = names(&schema);
    let mut unknown = Vec::new();
    for (section, value) in table {
        if !sections.contains(section) {
            unknown.push((section.clone(), nearest(section, &sections)));
            continue;
        }
        let keys = names(&section_schema(section));
        for key in value.as_table().into_iter().flat_map(|inner| inner.keys()) {
            if !keys.contains(key) {
                unknown.push((format!("{section}.{key}"), nearest(key, &keys)));
            }
        }
    }
    unknown
}

fn nearest(name: &str, known: &[String]) -> String {
    let best = known.iter().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    match best {
        Some(best) if strsim::jaro_winkler(name, best) > 0.75 => format!("did you mean `{best}`?"),
        _ => format!("known here: {}", known.join(", ")),
    }
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
        "recovery" => check::<crate::RecoveryConfig>(value),
        _ => None,
    }
}

fn set(table: &mut Table, key: &str, value: Value) -> Result<(), Problem> {
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
    if let Some(Value::String(text)) = table.get_mut("init").and_then(|s| s.get_mut("from")) {
        let source = crate::InitConfig { from: text.clone() }.source();
        if let Ok(InitSource::HuggingFace { path }) = source {
            *text = format!("hf:{}", absolute(&path));
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
            if current == section && written == name {
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
