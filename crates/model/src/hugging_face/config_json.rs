//! `config.json` of `BertFor…` and `ModernBertFor…`.
//!
//! Anything that would make the network compute something else is refused; what only matters to other users of the file
//! (names of authors, versions, task settings) is not looked at.

use super::tokenizer_files::{SpecialTokens, pretty};
use crate::error::ModelError;
use crate::heads::Head;
use config::{Activation, Architecture, Initializer, ModelShape, Pooling};
use serde_json::{Map, Value, json};

/// The text of `config.json`.
pub(crate) fn config_json(shape: &ModelShape, head: &Head, special: &SpecialTokens) -> String {
    let activation = match shape.activation {
        Activation::Gelu => "gelu",
        Activation::GeluNew => "gelu_new",
        Activation::Relu => "relu",
    };
    let mut config = match shape.architecture {
        Architecture::Bert => json!({
            "model_type": "bert",
            "architectures": [format!("Bert{}", class(head))],
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "intermediate_size": shape.intermediate,
            "hidden_act": activation,
            "hidden_dropout_prob": shape.dropout,
            "attention_probs_dropout_prob": shape.attention_dropout,
            "max_position_embeddings": shape.max_positions,
            "type_vocab_size": shape.segment_types,
            "initializer_range": shape.initializer_range,
            "layer_norm_eps": shape.layer_norm_epsilon,
            "position_embedding_type": "absolute",
            "tie_word_embeddings": true,
            "pad_token_id": special.id("pad_token"),
        }),
        Architecture::Modern => {
            let rope = json!({ "rope_type": "default", "rope_theta": shape.rope_theta });
            json!({
                "model_type": "modernbert",
                "architectures": [format!("ModernBert{}", class(head))],
                "vocab_size": shape.vocabulary,
                "hidden_size": shape.hidden,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "intermediate_size": shape.intermediate,
                "hidden_activation": activation,
                "classifier_activation": activation,
                "embedding_dropout": shape.dropout,
                "mlp_dropout": shape.dropout,
                "classifier_dropout": shape.dropout,
                "attention_dropout": shape.attention_dropout,
                "max_position_embeddings": shape.max_positions,
                "initializer_range": shape.initializer_range,
                "norm_eps": shape.layer_norm_epsilon,
                "norm_bias": false,
                "attention_bias": false,
                "mlp_bias": false,
                "classifier_bias": false,
                "decoder_bias": true,
                // The same said for transformers 5 (layer_types, rope_parameters) and before.
                "global_attn_every_n_layers": 1,
                "global_rope_theta": shape.rope_theta,
                "local_rope_theta": shape.rope_theta,
                "layer_types": vec!["full_attention"; shape.layers as usize],
                "rope_parameters": { "full_attention": &rope, "sliding_attention": &rope },
                "tie_word_embeddings": true,
                "pad_token_id": special.id("pad_token"),
                "cls_token_id": special.id("cls_token"),
                "sep_token_id": special.id("sep_token"),
                "bos_token_id": special.id("cls_token"),
                "eos_token_id": special.id("sep_token"),
            })
        }
    };
    let more = config.as_object_mut().expect("both arms are objects");
    more.insert("dtype".into(), json!("float32"));
    if let Head::SequenceClassifier { pooling, .. } = head {
        more.insert("classifier_pooling".into(), json!(if *pooling == Pooling::Mean { "mean" } else { "cls" }));
    }
    if *head == Head::Embedder {
        more.insert(EMBEDDING_POOLING.into(), json!("mean"));
    }
    if let Some([_]) = head.labels() {
        // One output is a number. `transformers` takes it for that too, but a reader may want to know.
        more.insert("problem_type".into(), json!("regression"));
    }
    if let Some(labels) = head.labels() {
        let by_id = labels.iter().enumerate().map(|(id, label)| (id.to_string(), json!(label)));
        let by_label = labels.iter().enumerate().map(|(id, label)| (label.clone(), json!(id)));
        more.insert("id2label".into(), Value::Object(by_id.collect()));
        more.insert("label2id".into(), Value::Object(by_label.collect()));
    }
    pretty(&config)
}

/// Our own key: that a text's vector is the mean over its tokens, and so that there is no pooler.
const EMBEDDING_POOLING: &str = "embedding_pooling";

/// The end of the class's name in `transformers`.
fn class(head: &Head) -> &'static str {
    match head {
        Head::MaskedLm => "ForMaskedLM",
        Head::PreTraining => "ForPreTraining",
        Head::SequenceClassifier { .. } => "ForSequenceClassification",
        Head::TokenClassifier { .. } => "ForTokenClassification",
        Head::None | Head::Embedder => "Model",
        Head::QuestionAnswering => "ForQuestionAnswering",
    }
}

/// Reads `config.json`. Keys that `transformers` leaves out have its defaults.
pub fn from_config_json(text: &str) -> Result<(ModelShape, Head), ModelError> {
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ModelError::Config(error.to_string()))?;
    let keys = Keys(object);
    let shape = match keys.text("model_type", "")? {
        "bert" => bert(&keys)?,
        "modernbert" => modern(&keys)?,
        other => return Err(refuse("model_type", &json!(other), "`bert` and `modernbert` are")),
    };
    keys.only("tie_word_embeddings", &json!(true), "the output layer shares the word embeddings")?;
    keys.only("is_decoder", &json!(false), "only encoders are")?;
    keys.only("add_cross_attention", &json!(false), "only encoders are")?;
    let head = head(&keys)?;
    Ok((shape, head))
}

fn bert(keys: &Keys) -> Result<ModelShape, ModelError> {
    keys.only("position_embedding_type", &json!("absolute"), "only learned absolute positions are")?;
    Ok(ModelShape {
        architecture: Architecture::Bert,
        vocabulary: keys.integer("vocab_size", 30_522)?,
        hidden: keys.integer("hidden_size", 768)?,
        layers: keys.integer("num_hidden_layers", 12)?,
        heads: keys.integer("num_attention_heads", 12)?,
        intermediate: keys.integer("intermediate_size", 3072)?,
        max_positions: keys.integer("max_position_embeddings", 512)?,
        segment_types: keys.integer("type_vocab_size", 2)?,
        activation: keys.activation("hidden_act")?,
        dropout: keys.number("hidden_dropout_prob", 0.1)?,
        attention_dropout: keys.number("attention_probs_dropout_prob", 0.1)?,
        layer_norm_epsilon: keys.number("layer_norm_eps", 1e-12)?,
        initializer_range: keys.number("initializer_range", 0.02)?,
        initializer: Initializer::Normal,
        rope_theta: 10_000.0,
    })
}

fn modern(keys: &Keys) -> Result<ModelShape, ModelError> {
    for bias in ["norm_bias", "attention_bias", "mlp_bias", "classifier_bias"] {
        keys.only(bias, &json!(false), "the modern encoder has no biases")?;
    }
    keys.only("decoder_bias", &json!(true), "the output layer has a bias")?;
    let activation = keys.activation("hidden_activation")?;
    if keys.activation("classifier_activation")? != activation {
        let value = keys.0.get("classifier_activation").cloned().unwrap_or(json!("gelu"));
        return Err(refuse("classifier_activation", &value, "it must be the same as `hidden_activation`"));
    }
    let layers = keys.integer("num_hidden_layers", 22)?;
    only_global_attention(keys, layers)?;
    Ok(ModelShape {
        architecture: Architecture::Modern,
        vocabulary: keys.integer("vocab_size", 50_368)?,
        hidden: keys.integer("hidden_size", 768)?,
        layers,
        heads: keys.integer("num_attention_heads", 12)?,
        intermediate: keys.integer("intermediate_size", 1152)?,
        max_positions: keys.integer("max_position_embeddings", 8192)?,
        segment_types: 0,
        activation,
        dropout: keys.number("mlp_dropout", 0.0)?,
        attention_dropout: keys.number("attention_dropout", 0.0)?,
        layer_norm_epsilon: keys.number("norm_eps", 1e-5)?,
        initializer_range: keys.number("initializer_range", 0.02)?,
        initializer: Initializer::Normal,
        rope_theta: rope_theta(keys)?,
    })
}

fn only_global_attention(keys: &Keys, layers: i64) -> Result<(), ModelError> {
    const WHY: &str = "every layer attends globally here; ModernBERT's local layers are not implemented";
    if let Some(types @ Value::Array(list)) = keys.0.get("layer_types") {
        return if list.iter().all(|kind| kind == "full_attention") {
            Ok(())
        } else {
            Err(refuse("layer_types", types, WHY))
        };
    }
    match keys.integer("global_attn_every_n_layers", 3)? {
        1 => Ok(()),
        _ if layers == 1 => Ok(()),
        every => Err(refuse("global_attn_every_n_layers", &json!(every), WHY)),
    }
}

fn rope_theta(keys: &Keys) -> Result<f64, ModelError> {
    let Some(rope) = keys.0.get("rope_parameters").map(|all| &all["full_attention"]).filter(|rope| rope.is_object())
    else {
        return keys.number("global_rope_theta", 160_000.0);
    };
    match rope.get("rope_type") {
        None | Some(Value::Null) => {}
        Some(kind) if kind == "default" => {}
        Some(kind) => return Err(refuse("rope_parameters.full_attention.rope_type", kind, "only `default` is")),
    }
    let theta = rope.get("rope_theta").unwrap_or(&json!(160_000.0)).as_f64();
    theta.ok_or_else(|| ModelError::Config("`rope_parameters.full_attention.rope_theta` is not a number".into()))
}

fn head(keys: &Keys) -> Result<Head, ModelError> {
    let class = keys.0.get("architectures").and_then(|list| list[0].as_str()).unwrap_or("Model");
    let pooling = match keys.text("classifier_pooling", "cls")? {
        "cls" => Pooling::Cls,
        "mean" => Pooling::Mean,
        other => return Err(refuse("classifier_pooling", &json!(other), "`cls` and `mean` are")),
    };
    Ok(match class.strip_prefix("Modern").unwrap_or(class).trim_start_matches("Bert") {
        "ForMaskedLM" => Head::MaskedLm,
        "ForPreTraining" => Head::PreTraining,
        "ForSequenceClassification" => Head::SequenceClassifier { labels: labels(keys)?, pooling },
        "ForTokenClassification" => Head::TokenClassifier { labels: labels(keys)? },
        "ForQuestionAnswering" => Head::QuestionAnswering,
        "Model" if keys.text(EMBEDDING_POOLING, "")? == "mean" => Head::Embedder,
        // The encoder is of use even where the head is none of ours.
        _ => Head::None,
    })
}

/// `id2label` in the order of the ids; `transformers` leaves it out for two unnamed classes.
fn labels(keys: &Keys) -> Result<Vec<String>, ModelError> {
    let Some(by_id) = keys.0.get("id2label").and_then(Value::as_object) else {
        return Ok(vec!["LABEL_0".to_owned(), "LABEL_1".to_owned()]);
    };
    (0..by_id.len())
        .map(|id| by_id.get(&id.to_string()).and_then(Value::as_str).map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| ModelError::Config(format!("`id2label` does not name the ids 0 to {}", by_id.len() - 1)))
}

fn refuse(key: &str, value: &Value, why: &str) -> ModelError {
    ModelError::UnsupportedConfig { key: key.to_owned(), value: value.to_string(), why: why.to_owned() }
}

/// The object, with typed access.
struct Keys(Map<String, Value>);

impl Keys {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn integer(&self, key: &str, default: i64) -> Result<i64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_i64().filter(|&number| number > 0);
        number.ok_or_else(|| ModelError::Config(format!("`{key}` = {value} is not a whole number above 0")))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| ModelError::Config(format!("`{key}` = {value} is not a number")))
    }

    fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, ModelError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| ModelError::Config(format!("`{key}` = {value} is not a string")))
    }

    fn activation(&self, key: &str) -> Result<Activation, ModelError> {
        match self.text(key, "gelu")? {
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluNew),
            "relu" => Ok(Activation::Relu),
            other => Err(refuse(key, &json!(other), "`gelu`, `gelu_new` and `relu` are")),
        }
    }

    /// The key must be absent, null or have this value.
    fn only(&self, key: &str, value: &Value, why: &str) -> Result<(), ModelError> {
        match self.get(key) {
            Some(found) if found != value => Err(refuse(key, found, why)),
            _ => Ok(()),
        }
    }
}
