//! docs/reference/worker.md is what `worker --help` says. To write it again: `TRIREME_WRITE_DOCS=1 cargo test -p worker reference`.
//! docs/reference/contract.md is written by hand; what prints JSON is compared with it.

use serde_json::Value;
use std::path::PathBuf;

fn page(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name)
}

#[test]
fn the_reference_page_is_fresh() {
    let page = page("worker.md");
    let options = clap_markdown::MarkdownOptions::new().show_footer(false);
    let wanted = clap_markdown::help_markdown_custom::<super::Arguments>(&options);
    if std::env::var_os("TRIREME_WRITE_DOCS").is_some() {
        std::fs::write(&page, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(found == wanted, "{} is stale: TRIREME_WRITE_DOCS=1 cargo test -p worker reference", page.display());
}

/// Fails unless the contract's paragraph of `command` names each key of what it printed, and of what is inside: behind `of`
/// where it tells of several tasks.
#[track_caller]
pub(crate) fn stands_in_the_contract(command: &str, of: &str, printed: &Value) {
    let text = std::fs::read_to_string(page("contract.md")).unwrap();
    let begin = format!("**`{command}`**");
    let paragraph = text.split("\n\n").find(|paragraph| paragraph.starts_with(&begin));
    let paragraph = paragraph.unwrap_or_else(|| panic!("the contract has no paragraph {begin}"));
    let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, shape) = paragraph.split_once(of).unwrap_or_else(|| panic!("the contract does not tell of {of}"));
    let words: Vec<&str> = shape.split(|it: char| it != '_' && !it.is_alphanumeric()).collect();
    let missing: Vec<String> = keys(printed).into_iter().filter(|key| !words.contains(&key.as_str())).collect();
    assert!(missing.is_empty(), "the contract's paragraph {begin} does not name {missing:?}");
}

fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => {
            object.iter().flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat()).collect()
        }
        Value::Array(values) => values.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}
