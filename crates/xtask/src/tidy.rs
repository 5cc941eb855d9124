//! `cargo xtask tidy`: what reviewers should not have to look for.

use crate::building::cargo;
use crate::{cache, libtorch};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Arguments {
    /// Mend what can be mended: format, write the schema and the generated reference pages again.
    #[arg(long)]
    pub fix: bool,
}

/// The layers of docs/ARCHITECTURE.md: a crate may depend only on crates of a lower layer.
const LAYERS: [(&str, u32); 17] = [
    ("types", 0),
    ("config", 1),
    ("proto", 2),
    ("control", 2),
    ("corpus", 2),
    ("store", 2),
    ("kernels", 1),
    ("c10d", 2),
    ("model", 2),
    ("trainer", 3),
    ("coordinator", 4),
    ("worker", 4),
    ("golden", 5),
    ("sim", 5),
    ("e2e", 5),
    ("xtask", 5),
    ("benchmarks", 6),
];

/// Crates that must not reach these packages, not even through others.
const BANS: [(&str, &[&str], &str); 7] = [
    ("types", &["tokio", "tonic", "tch", "arrow", "parquet"], "it holds words, nothing heavy"),
    ("control", &["tokio", "tonic", "tch", "rusqlite", "rand"], "it is a pure state machine"),
    ("corpus", &["tch", "torch-sys", "tonic"], "the coordinator reads corpora without libtorch"),
    ("store", &["tch", "torch-sys", "tonic"], "it keeps bytes and rows"),
    ("coordinator", &["tch", "torch-sys", "kernels", "c10d", "model", "trainer"], "its host needs no libtorch"),
    ("model", &["c10d", "tonic", "tokio"], "it is single-device code"),
    ("trainer", &["tonic", "proto", "tokio-stream"], "it knows no gRPC"),
];

const LINES_MAX: usize = 600;

pub fn run(arguments: &Arguments) -> Result<()> {
    libtorch::set_up()?;
    let mut complaints = Vec::new();
    let mut format = cargo();
    format.args(["fmt", "--all"]);
    if !arguments.fix {
        format.arg("--check");
    }
    if cache::run(&mut format).is_err() {
        complaints.push("formatting: run `cargo xtask tidy --fix`".to_owned());
    }
    complaints.extend(arrows()?);
    complaints.extend(sizes(&cache::root())?);
    complaints.extend(generated(arguments.fix)?);
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]);
    if cache::run(&mut clippy).is_err() {
        complaints.push("clippy has warnings (above)".to_owned());
    }
    if complaints.is_empty() {
        println!("tidy");
        return Ok(());
    }
    bail!("not tidy:\n  {}", complaints.join("\n  "))
}

/// Arrows between crates point down only, and nothing banned is reachable.
fn arrows() -> Result<Vec<String>> {
    let text = cache::output(cargo().args(["metadata", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    Ok(arrow_complaints(&metadata))
}

fn arrow_complaints(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let layers: BTreeMap<&str, u32> = LAYERS.into_iter().collect();
    let names: BTreeMap<String, String> =
        list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    // Normal and build dependencies; tests may look further.
    let mut arrows: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let targets = list(&node["deps"])
            .iter()
            .filter(|dep| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev"))
            .map(|dep| text(&dep["pkg"]))
            .collect();
        arrows.insert(text(&node["id"]), targets);
    }
    let mut complaints = Vec::new();
    for member in list(&metadata["workspace_members"]).iter().map(text) {
        let name = &names[&member];
        let Some(layer) = layers.get(name.as_str()) else {
            complaints
                .push(format!("crate `{name}` has no layer: give it one in xtask's tidy.rs and docs/ARCHITECTURE.md"));
            continue;
        };
        for target in arrows.get(&member).into_iter().flatten() {
            if let Some(other) = layers.get(names[target].as_str()).filter(|other| *other >= layer) {
                complaints
                    .push(format!("`{name}` (layer {layer}) must not depend on `{}` (layer {other})", names[target]));
            }
        }
        for (_, banned, why) in BANS.iter().filter(|(held, ..)| held == name) {
            let mut open = vec![member.clone()];
            let mut seen = std::collections::BTreeSet::new();
            while let Some(id) = open.pop() {
                if seen.insert(id.clone()) {
                    open.extend(arrows.get(&id).into_iter().flatten().cloned());
                }
            }
            for id in seen.iter().filter(|id| banned.contains(&names[*id].as_str())) {
                complaints.push(format!("`{name}` must not reach `{}`: {why}", names[id]));
            }
        }
    }
    complaints
}

/// A file past 600 lines is two ideas.
fn sizes(root: &Path) -> Result<Vec<String>> {
    let listed = cache::output(
        std::process::Command::new("git").current_dir(root).args(["ls-files", "*.rs", "*.cc", "*.h", "*.py"]),
    )?;
    let mut complaints = Vec::new();
    for file in listed.lines() {
        let lines = fs::read_to_string(root.join(file)).map_or(0, |text| text.lines().count());
        if lines > LINES_MAX {
            complaints.push(format!("{file} has {lines} lines: split it ({LINES_MAX} at most)"));
        }
    }
    Ok(complaints)
}

/// The config reference as Markdown, from the schema.
fn config_page(schema: &Value) -> String {
    let mut page = "# Config keys\n\nOne TOML file a run. Generated from the schema (`coordinator config schema`); see `configs/` for examples.\n".to_owned();
    let empty = serde_json::Map::new();
    for (section, node) in schema["properties"].as_object().unwrap_or(&empty) {
        let reference = node["$ref"].as_str().unwrap_or_default();
        let definition = &schema["$defs"][reference.trim_start_matches("#/$defs/")];
        page += &format!(
            "\n## `[{section}]`\n\n{}\n\n| key | type | default | meaning |\n|---|---|---|---|\n",
            node["description"].as_str().unwrap_or_default()
        );
        let required: Vec<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, value) in definition["properties"].as_object().unwrap_or(&empty) {
            let default = match &value["default"] {
                Value::Null if required.contains(&key.as_str()) => "required".to_owned(),
                Value::Null => String::new(),
                value => format!("`{value}`"),
            };
            let meaning = value["description"].as_str().unwrap_or_default().replace("\n", " ");
            page += &format!("| `{section}.{key}` | {} | {default} | {meaning} |\n", type_name(value));
        }
    }
    page
}

fn type_name(value: &Value) -> String {
    let name = |kind: &Value| kind.as_str().filter(|kind| *kind != "null").map(str::to_owned);
    match &value["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", type_name(&value["items"])),
        Value::Array(kinds) => kinds.iter().filter_map(name).collect::<Vec<_>>().join(" or "),
        Value::String(kind) => kind.clone(),
        _ => "one of the names".to_owned(),
    }
}

/// Files that are made from the code must be what the code makes.
fn generated(fix: bool) -> Result<Vec<String>> {
    let schema = serde_json::to_string_pretty(&config::json_schema())? + "\n";
    let pages: [(PathBuf, String); 2] = [
        ("docs/reference/config.schema.json".into(), schema),
        ("docs/reference/config.md".into(), config_page(&config::json_schema())),
    ];
    let mut complaints = Vec::new();
    for (path, wanted) in pages {
        let full = cache::root().join(&path);
        if fs::read_to_string(&full).is_ok_and(|found| found == wanted) {
            continue;
        }
        if fix {
            fs::create_dir_all(full.parent().context("a page lies in a folder")?)?;
            fs::write(&full, wanted)?;
        } else {
            complaints.push(format!("{} is stale: run `cargo xtask tidy --fix`", path.display()));
        }
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(from: &str, to: &str) -> Value {
        json!({
            "packages": [{"id": "a", "name": from}, {"id": "b", "name": to}, {"id": "c", "name": "tokio"}],
            "workspace_members": ["a"],
            "resolve": {"nodes": [
                {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}]}]},
                {"id": "b", "deps": [{"pkg": "c", "dep_kinds": [{"kind": null}]}]},
                {"id": "c", "deps": []},
            ]},
        })
    }

    #[test]
    fn arrows_point_down() {
        assert_eq!(arrow_complaints(&metadata("trainer", "model")), Vec::<String>::new());
        assert_eq!(arrow_complaints(&metadata("store", "trainer")).len(), 1);
        assert_eq!(arrow_complaints(&metadata("unheard-of", "types")).len(), 1);
    }

    #[test]
    fn bans_reach_through_others() {
        let complaints = arrow_complaints(&metadata("control", "types"));
        assert_eq!(complaints, ["`control` must not reach `tokio`: it is a pure state machine"]);
    }
}
