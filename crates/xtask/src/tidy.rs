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
    /// Mend what can be mended: format, write the schema and the reference pages again.
    #[arg(long)]
    pub fix: bool,
}

/// The layers of docs/ARCHITECTURE.md: a crate may depend only on crates of a lower layer.
const LAYERS: [(&str, u32); 19] = [
    ("types", 0),
    ("word2vec", 0),
    ("onnx", 0),
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

/// What a crate must not know.
struct Ban {
    holder: &'static str,
    /// Packages that it must not reach, not even through others.
    anywhere: &'static [&'static str],
    /// Packages that it must not use itself; what it stands on may.
    itself: &'static [&'static str],
    why: &'static str,
}

impl Ban {
    const fn of(holder: &'static str, anywhere: &'static [&'static str], why: &'static str) -> Self {
        Self { holder, anywhere, itself: &[], why }
    }
}

/// The last column of the table in docs/ARCHITECTURE.md, as far as dependencies show it.
const BANS: [Ban; 13] = [
    Ban::of("types", &["tokio", "tonic", "tch", "arrow", "parquet"], "it holds words, nothing heavy"),
    Ban::of("config", &["tch", "torch-sys", "tonic", "arrow", "parquet", "object_store"], "it opens no corpus"),
    Ban::of("control", &["tokio", "tonic", "tch", "rusqlite", "rand"], "it is a pure state machine"),
    Ban::of("proto", &["config", "control", "corpus", "store", "tch"], "it knows no domain logic"),
    Ban::of("corpus", &["tch", "torch-sys", "tonic"], "the coordinator reads corpora without libtorch"),
    Ban::of("store", &["tch", "torch-sys", "tonic"], "it keeps bytes and rows"),
    Ban::of("word2vec", &["tch", "tonic", "tokio", "arrow"], "it knows words, no files and no tensors"),
    Ban::of("onnx", &["tch", "torch-sys", "tonic", "tokio", "config"], "it knows a format, no models and no tensors"),
    Ban::of("kernels", &["config", "corpus", "proto", "tonic", "tokio"], "it knows tensors, no models and no workers"),
    Ban::of("c10d", &["config", "corpus", "proto", "tonic", "tokio"], "it knows tensors, no models and no gRPC"),
    Ban::of("coordinator", &["tch", "torch-sys", "kernels", "c10d", "model", "trainer"], "its host needs no libtorch"),
    Ban::of("model", &["c10d", "tonic", "tokio"], "it is single-device code"),
    Ban {
        holder: "trainer",
        anywhere: &["tonic", "proto"],
        // The corpus reads object stores with it.
        itself: &["tokio", "tokio-stream", "tokio-util"],
        why: "it is a loop, and knows no gRPC",
    },
];

/// `control` knows no files: none of these words stands in it.
const OF_FILES: [&str; 3] = ["fs", "File", "OpenOptions"];

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
    complaints.extend(files_in_control(&cache::root())?);
    complaints.extend(generated(arguments.fix)?);
    if arguments.fix {
        // What --help says; each program's own test compares it.
        let mut pages = cargo();
        pages.args(["test", "--quiet", "--workspace", "--lib", "--bins", "the_reference_page_is_fresh"]);
        if cache::run(pages.env("TRIREME_WRITE_DOCS", "1")).is_err() {
            complaints.push("the pages of the commands could not be written".to_owned());
        }
    }
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
        for Ban { anywhere, itself, why, .. } in BANS.iter().filter(|ban| ban.holder == name) {
            let used = arrows.get(&member).into_iter().flatten();
            for id in used.filter(|id| itself.contains(&names[*id].as_str())) {
                complaints.push(format!("`{name}` must not use `{}`: {why}", names[id]));
            }
            let mut open = vec![member.clone()];
            let mut seen = std::collections::BTreeSet::new();
            while let Some(id) = open.pop() {
                if seen.insert(id.clone()) {
                    open.extend(arrows.get(&id).into_iter().flatten().cloned());
                }
            }
            for id in seen.iter().filter(|id| anywhere.contains(&names[*id].as_str())) {
                complaints.push(format!("`{name}` must not reach `{}`: {why}", names[id]));
            }
        }
    }
    complaints
}

fn tracked(root: &Path, patterns: &[&str]) -> Result<Vec<String>> {
    let mut git = std::process::Command::new("git");
    let listed = cache::output(git.current_dir(root).arg("ls-files").args(patterns))?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// A file past 600 lines is two ideas.
fn sizes(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in tracked(root, &["*.rs", "*.cpp", "*.h", "*.py"])? {
        let lines = fs::read_to_string(root.join(&file)).map_or(0, |text| text.lines().count());
        if lines > LINES_MAX {
            complaints.push(format!("{file} has {lines} lines: split it ({LINES_MAX} at most)"));
        }
    }
    Ok(complaints)
}

/// What `control` decides follows from its arguments alone.
fn files_in_control(root: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for file in tracked(root, &["crates/control/src/*.rs"])? {
        let text = fs::read_to_string(root.join(&file)).unwrap_or_default();
        let mut words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        if let Some(word) = words.find(|word| OF_FILES.contains(word)) {
            complaints.push(format!("{file}: `{word}`: `control` must not know files"));
        }
    }
    Ok(complaints)
}

/// The config reference as Markdown, from the schema.
fn config_page(schema: &Value) -> String {
    let mut page = "# Config keys\n\nOne TOML file a run. Generated from the schema (`coordinator config schema`); see `configs/` for examples.\n".to_owned();
    let empty = serde_json::Map::new();
    for (section, node) in schema["properties"].as_object().unwrap_or(&empty) {
        // A section that may be left out is one of two things.
        let reference = node["$ref"].as_str().or_else(|| node["anyOf"][0]["$ref"].as_str()).unwrap_or_default();
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
            page += &format!("| `{section}.{key}` | {} | {default} | {meaning} |\n", type_name(schema, value));
        }
    }
    page
}

fn type_name(schema: &Value, value: &Value) -> String {
    let name = |kind: &Value| kind.as_str().filter(|kind| *kind != "null").map(str::to_owned);
    match &value["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", type_name(schema, &value["items"])),
        Value::Array(kinds) => kinds.iter().filter_map(name).collect::<Vec<_>>().join(" or "),
        Value::String(kind) => kind.clone(),
        _ => names(schema, value).iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}

/// The names that a value may be: of the definition that it refers to, of all that it may be one of, or its own.
fn names<'a>(schema: &'a Value, value: &'a Value) -> Vec<&'a str> {
    let reference = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    let referred = reference.and_then(|pointer| schema.pointer(pointer)).into_iter();
    let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| value[key].as_array()).flatten();
    let inner = referred.chain(alternatives).flat_map(|inner| names(schema, inner));
    let own = value["enum"].as_array().into_iter().flatten().chain(value.get("const"));
    own.filter_map(Value::as_str).chain(inner).collect()
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
    fn a_key_that_takes_a_name_says_which() {
        let page = config_page(&config::json_schema());
        for row in [
            "| `data.format` | `parquet`, `csv`, `jsonl`, `word-tag`, `squad`, `conll` |",
            "| `model.activation` | `gelu`, `gelu_new`, `relu` |",
            "| `objective.kind` | `mlm_nsp`, `mlm`, `classify`, `tag`, `mlm_sop`, `replaced_tokens`, `distill`, `answer`, \
              `match`, `cloze`, `choose` | `\"mlm_nsp\"` |",
            "| `reduce.compression` | `none`, `bf16` |",
            "| `data.paths` | list of string | required |",
        ] {
            assert!(page.contains(row), "no `{row}` in\n{page}");
        }
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            assert!(row.split('|').nth(2).is_some_and(|cell| !cell.trim().is_empty()), "no type: {row}");
        }
    }

    #[test]
    fn bans_reach_through_others() {
        let complaints = arrow_complaints(&metadata("control", "types"));
        assert_eq!(complaints, ["`control` must not reach `tokio`: it is a pure state machine"]);
    }

    #[test]
    fn what_a_crate_stands_on_may_use_what_it_must_not_use_itself() {
        assert_eq!(arrow_complaints(&metadata("trainer", "corpus")), Vec::<String>::new());
        let complaints = arrow_complaints(&metadata("trainer", "tokio"));
        assert_eq!(complaints, ["`trainer` must not use `tokio`: it is a loop, and knows no gRPC"]);
    }

    #[test]
    fn every_room_below_the_binaries_has_a_row() {
        let banned: Vec<&str> = BANS.iter().map(|ban| ban.holder).collect();
        let free: Vec<&str> =
            LAYERS.iter().filter(|(name, layer)| *layer < 4 && !banned.contains(name)).map(|(name, _)| *name).collect();
        assert_eq!(free, [""; 0]);
    }

    /// A folder with one file in it that git knows.
    fn tracked_file(path: &str, text: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("trireme-tidy-{}-{}", std::process::id(), path.replace('/', "-")));
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), text).unwrap();
        for arguments in [["init", "--quiet"], ["add", "."]] {
            cache::run(std::process::Command::new("git").current_dir(&root).args(arguments)).unwrap();
        }
        root
    }

    #[test]
    fn a_long_file_of_any_language_is_two_ideas() {
        let root = tracked_file("native/long.cpp", &"\n".repeat(601));
        assert_eq!(sizes(&root).unwrap(), ["native/long.cpp has 601 lines: split it (600 at most)"]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_file_in_control_is_found() {
        let root = tracked_file("crates/control/src/deep/er.rs", "use std::{fmt, fs};\n");
        let complaint = "crates/control/src/deep/er.rs: `fs`: `control` must not know files";
        assert_eq!(files_in_control(&root).unwrap(), [complaint]);
        fs::remove_dir_all(root).unwrap();
    }
}
