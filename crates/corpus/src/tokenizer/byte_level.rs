//! RoBERTa's byte-level BPE (Radford et al. 2019): every byte of a text is a letter of an alphabet of 256, in which `Ġ` stands
//! for the space before a word. `vocab.json` and `merges.txt` as a tokenizer.json, and back.

use crate::{CorpusError, ErrorKind};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use tokenizers::ModelWrapper;

/// How the bytes of a space, a tab, and the ends of a line are written.
const WHITE_SPACE: [char; 4] = ['Ġ', 'ĉ', 'Ċ', 'č'];

/// Whether a piece begins a word.
pub(super) fn begins_word(token: &str) -> bool {
    token.starts_with(WHITE_SPACE)
}

/// Whether a byte-level BPE puts a space before each text; None: it is something else.
pub(super) fn spaces_before_text(tokenizer: &tokenizers::Tokenizer) -> Option<bool> {
    if !matches!(tokenizer.get_model(), ModelWrapper::BPE(_)) {
        return None;
    }
    let whole = serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?;
    let steps = match whole["pretokenizers"].as_array() {
        Some(steps) => steps.clone(),
        None => vec![whole],
    };
    let step = steps.iter().find(|step| step["type"] == "ByteLevel")?;
    Some(step["add_prefix_space"].as_bool().unwrap_or(false))
}

/// Whether a file is a `vocab.json`: an object of tokens and their ids, RoBERTa's `<s>` among them.
pub(super) fn is_vocabulary(contents: &[u8]) -> bool {
    let begins = contents.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let ids = || serde_json::from_slice::<HashMap<String, u32>>(contents);
    begins && ids().is_ok_and(|ids| ids.contains_key("<s>"))
}

/// The text of a tokenizer.json, as Hugging Face's `RobertaTokenizer` makes it. `config` is the tokenizer_config.json beside
/// the two files.
pub(super) fn to_json(
    name: &str,
    vocabulary: &[u8],
    merges: &[u8],
    config: Option<&[u8]>,
) -> Result<String, CorpusError> {
    let broken = |message: String| {
        let help = "give the vocab.json and merges.txt of one model, or its tokenizer.json";
        CorpusError::new(ErrorKind::Tokenizer, name, message, help)
    };
    let ids: BTreeMap<String, u32> =
        serde_json::from_slice(vocabulary).map_err(|error| broken(format!("no vocab.json: {error}")))?;
    let text = std::str::from_utf8(merges).map_err(|error| broken(format!("merges.txt is not UTF-8: {error}")))?;
    let mut pairs = Vec::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.is_empty() && !line.starts_with("#version")) {
        let pair = line.trim_end().split_once(' ').filter(|(left, right)| {
            [*left, *right, &format!("{left}{right}")].iter().all(|token| ids.contains_key(*token))
        });
        let (left, right) = pair.ok_or_else(|| {
            broken(format!("line {number} of merges.txt: `{line}` is not two tokens of vocab.json that make a third"))
        })?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let spaces = match config {
        None => false,
        Some(config) => {
            let config: Value = serde_json::from_slice(config)
                .map_err(|error| broken(format!("the tokenizer_config.json beside it: {error}")))?;
            config["add_prefix_space"].as_bool().unwrap_or(false)
        }
    };
    json(&ids, &pairs, spaces).map_err(|missing| broken(format!("vocab.json lacks {missing}")))
}

/// The text of a tokenizer.json; the error is a special token that the vocabulary lacks.
pub(super) fn json(
    ids: &BTreeMap<String, u32>,
    merges: &[(String, String)],
    spaces_before_text: bool,
) -> Result<String, &'static str> {
    let id = |token: &'static str| ids.get(token).copied().ok_or(token);
    let mut added = Vec::new();
    for token in ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] {
        added.push(json!({
            "id": id(token)?, "content": token, "single_word": false, "lstrip": token == "<mask>", "rstrip": false,
            "normalized": false, "special": true,
        }));
    }
    added.sort_by_key(|token| token["id"].as_u64());
    let bytes = |spaces: bool| json!({ "type": "ByteLevel", "add_prefix_space": spaces, "trim_offsets": true, "use_regex": true });
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": bytes(spaces_before_text),
        "post_processor": {
            "type": "RobertaProcessing", "sep": ["</s>", id("</s>")?], "cls": ["<s>", id("<s>")?], "trim_offsets": true,
            "add_prefix_space": spaces_before_text,
        },
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": ids,
            "merges": merges,
        },
    })
    .to_string())
}

/// `vocab.json` and `merges.txt` of a tokenizer.json of a BPE.
pub(super) fn files(json: &[u8]) -> Option<[(&'static str, Vec<u8>); 2]> {
    let parsed: Value = serde_json::from_slice(json).ok()?;
    let mut ids: Map<String, Value> = parsed["model"]["vocab"].as_object()?.clone();
    for token in parsed["added_tokens"].as_array()? {
        ids.insert(token["content"].as_str()?.to_owned(), token["id"].clone());
    }
    let mut ids: Vec<(String, u64)> = ids.into_iter().filter_map(|(token, id)| Some((token, id.as_u64()?))).collect();
    ids.sort_unstable_by_key(|(_, id)| *id);
    let entries: Vec<String> = ids.into_iter().map(|(token, id)| format!("{}: {id}", json!(token))).collect();
    let mut merges = "#version: 0.2\n".to_owned();
    for merge in parsed["model"]["merges"].as_array()? {
        match merge {
            Value::String(line) => merges.push_str(line),
            pair => merges.push_str(&format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
        }
        merges.push('\n');
    }
    let vocabulary = format!("{{{}}}\n", entries.join(", "));
    Some([("vocab.json", vocabulary.into_bytes()), ("merges.txt", merges.into_bytes())])
}
