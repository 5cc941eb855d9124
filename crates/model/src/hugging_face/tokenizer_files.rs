//! The small files that tell `transformers` how to use a tokenizer.json.

use crate::error::ModelError;
use config::{Architecture, ModelShape};
use serde_json::{Map, Value, json};

/// A role, and the spellings in use: BERT's first, then RoBERTa's.
const ROLES: [(&str, &[&str]); 5] = [
    ("pad_token", &["[PAD]", "<pad>"]),
    ("unk_token", &["[UNK]", "<unk>"]),
    ("cls_token", &["[CLS]", "<s>"]),
    ("sep_token", &["[SEP]", "</s>"]),
    ("mask_token", &["[MASK]", "<mask>"]),
];

/// Special tokens by role: text and id.
#[derive(Debug, Default)]
pub(crate) struct SpecialTokens {
    found: Vec<(&'static str, String, i64)>,
    /// Of a byte-level tokenizer: whether it puts a space before each text.
    spaces_before_text: Option<bool>,
}

impl SpecialTokens {
    /// Finds them in a tokenizer.json.
    pub fn read(tokenizer: &[u8]) -> Result<Self, ModelError> {
        let parsed: Value =
            serde_json::from_slice(tokenizer).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        let added = parsed["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
        let id = |text: &str| {
            let added = added.iter().find(|token| token["content"] == text).map(|token| &token["id"]);
            added.or_else(|| parsed["model"]["vocab"].get(text)).and_then(Value::as_i64)
        };
        let mut found = Vec::new();
        for (role, spellings) in ROLES {
            if let Some((text, id)) = spellings.iter().find_map(|&text| id(text).map(|id| (text, id))) {
                found.push((role, text.to_owned(), id));
            }
        }
        let step = &parsed["pre_tokenizer"];
        let spaces_before_text = step["add_prefix_space"].as_bool().filter(|_| step["type"] == "ByteLevel");
        Ok(Self { found, spaces_before_text })
    }

    /// The id of the token with this role; null where there is none.
    pub fn id(&self, role: &str) -> Value {
        self.found.iter().find(|(name, ..)| *name == role).map_or(Value::Null, |(_, _, id)| json!(id))
    }

    fn texts(&self) -> Map<String, Value> {
        self.found.iter().map(|(role, text, _)| ((*role).to_owned(), json!(text))).collect()
    }

    /// `special_tokens_map.json`.
    pub fn map(&self) -> String {
        pretty(&Value::Object(self.texts()))
    }

    /// `tokenizer_config.json`.
    pub fn tokenizer_config(&self, shape: &ModelShape) -> String {
        let mut config = self.texts();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        config.insert("model_max_length".into(), json!(shape.max_positions));
        if let Some(spaces) = self.spaces_before_text {
            // What `vocab.json` and `merges.txt` do not say.
            config.insert("add_prefix_space".into(), json!(spaces));
        }
        // So that `model(**tokenizer(text))` works: encoders without segments do not take them.
        let inputs = match shape.architecture {
            Architecture::Modern | Architecture::Distilbert | Architecture::Roberta => {
                &["input_ids", "attention_mask"][..]
            }
            _ => &["input_ids", "token_type_ids", "attention_mask"],
        };
        config.insert("model_input_names".into(), json!(inputs));
        pretty(&Value::Object(config))
    }
}

pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
