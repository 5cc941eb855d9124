//! `config.json` of `BertFor…`, `ModernBertFor…`, `AlbertFor…`, `ElectraFor…`, `DistilBertFor…` and
//! `RobertaFor…`.
//!
//! Anything that would make the network compute something else is refused; what only matters to other users of the file
//! (names of authors, versions, task settings) is not looked at.

use super::tokenizer_files::{SpecialTokens, pretty};
use crate::error::ModelError;
use crate::heads::Head;
use config::{Activation, Architecture, Initializer, LocalAttention, ModelShape, PADDING_ID, Pooling};
use serde_json::{Map, Value, json};

/// The text of `config.json`.
pub(crate) fn config_json(shape: &ModelShape, head: &Head, special: &SpecialTokens) -> String {
    let activation = match shape.activation {
        Activation::Gelu => "gelu",
        Activation::GeluNew => "gelu_new",
        Activation::Relu => "relu",
    };
    let like_bert = |model_type: &str, prefix: &str| {
        json!({
        "model_type": model_type,
        "architectures": [format!("{prefix}{}", class(head))],
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
        })
    };
    let mut config = match shape.architecture {
        Architecture::Bert => like_bert("bert", "Bert"),
        Architecture::Modern => {
            let rope = |theta: f64| json!({ "rope_type": "default", "rope_theta": theta });
            let local_theta = shape.local_attention.map_or(shape.rope_theta, |local| local.rope_theta);
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
                "global_attn_every_n_layers": shape.local_attention.map_or(1, |local| local.global_every),
                "global_rope_theta": shape.rope_theta,
                "local_rope_theta": local_theta,
                "layer_types": layer_types(shape),
                "rope_parameters": {
                    "full_attention": rope(shape.rope_theta), "sliding_attention": rope(local_theta),
                },
                "tie_word_embeddings": true,
                "pad_token_id": special.id("pad_token"),
                "cls_token_id": special.id("cls_token"),
                "sep_token_id": special.id("sep_token"),
                "bos_token_id": special.id("cls_token"),
                "eos_token_id": special.id("sep_token"),
            })
        }
        Architecture::Albert => json!({
            "model_type": "albert",
            "architectures": [format!("Albert{}", class(head))],
            "vocab_size": shape.vocabulary,
            "embedding_size": shape.embedding_width(),
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_hidden_groups": 1,
            "inner_group_num": 1,
            "num_attention_heads": shape.heads,
            "intermediate_size": shape.intermediate,
            "hidden_act": activation,
            "hidden_dropout_prob": shape.dropout,
            "attention_probs_dropout_prob": shape.attention_dropout,
            "classifier_dropout_prob": shape.dropout,
            "max_position_embeddings": shape.max_positions,
            "type_vocab_size": shape.segment_types,
            "initializer_range": shape.initializer_range,
            "layer_norm_eps": shape.layer_norm_epsilon,
            "tie_word_embeddings": true,
            "pad_token_id": special.id("pad_token"),
            "bos_token_id": special.id("cls_token"),
            "eos_token_id": special.id("sep_token"),
        }),
        Architecture::Electra => {
            let mut config = like_bert("electra", "Electra");
            config["embedding_size"] = json!(shape.embedding_width());
            config
        }
        Architecture::Roberta => {
            let mut config = like_bert("roberta", "Roberta");
            config["max_position_embeddings"] = json!(shape.first_position() + shape.max_positions);
            config["bos_token_id"] = special.id("cls_token");
            config["eos_token_id"] = special.id("sep_token");
            config
        }
        Architecture::Distilbert => json!({
            "model_type": "distilbert",
            "architectures": [format!("DistilBert{}", class(head))],
            "vocab_size": shape.vocabulary,
            "dim": shape.hidden,
            "n_layers": shape.layers,
            "n_heads": shape.heads,
            "hidden_dim": shape.intermediate,
            "activation": activation,
            "dropout": shape.dropout,
            "attention_dropout": shape.attention_dropout,
            "seq_classif_dropout": shape.dropout,
            "max_position_embeddings": shape.max_positions,
            "sinusoidal_pos_embds": false,
            "initializer_range": shape.initializer_range,
            "tie_word_embeddings": true,
            "pad_token_id": special.id("pad_token"),
        }),
    };
    let more = config.as_object_mut().expect("every arm is an object");
    more.insert("dtype".into(), json!("float32"));
    if let Some(local) = shape.local_attention {
        more.insert("local_attention".into(), json!(local.window));
    }
    if let Head::SequenceClassifier { pooling, .. } | Head::MultipleChoice { pooling } = head {
        more.insert("classifier_pooling".into(), json!(if *pooling == Pooling::Mean { "mean" } else { "cls" }));
    }
    if matches!(head, Head::MultipleChoice { .. }) && shape.architecture == Architecture::Electra {
        more.extend(summary().map(|(key, value)| (key.to_owned(), value)));
        more.insert("summary_last_dropout".into(), json!(shape.dropout));
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
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

fn layer_types(shape: &ModelShape) -> Vec<&'static str> {
    let is_local = |layer| shape.local_attention.is_some_and(|local| local.is_local(layer));
    (0..shape.layers).map(|layer| if is_local(layer) { LOCAL } else { GLOBAL }).collect()
}

/// The end of the class's name in `transformers`.
fn class(head: &Head) -> &'static str {
    match head {
        Head::MaskedLm | Head::SpanBoundary => "ForMaskedLM",
        Head::PreTraining | Head::ReplacedTokens { .. } => "ForPreTraining",
        Head::SequenceClassifier { .. } => "ForSequenceClassification",
        Head::TokenClassifier { .. } => "ForTokenClassification",
        Head::None | Head::Embedder => "Model",
        Head::QuestionAnswering => "ForQuestionAnswering",
        Head::MultipleChoice { .. } => "ForMultipleChoice",
    }
}

/// How ELECTRA's multiple choice makes one vector of a sequence. They are the defaults, too.
fn summary() -> [(&'static str, Value); 3] {
    [("summary_type", json!("first")), ("summary_use_proj", json!(true)), ("summary_activation", json!("gelu"))]
}

/// Reads `config.json`. Keys that `transformers` leaves out have its defaults.
pub fn from_config_json(text: &str) -> Result<(ModelShape, Head), ModelError> {
    if let Some(pointer) = config::lfs_pointer(text.as_bytes()) {
        return Err(ModelError::Config(pointer.into()));
    }
    let object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ModelError::Config(error.to_string()))?;
    let keys = Keys(object);
    let shape = match keys.text("model_type", "")? {
        "bert" => bert(&keys)?,
        "modernbert" => modern(&keys)?,
        "albert" => albert(&keys)?,
        "electra" => electra(&keys)?,
        "distilbert" => distilbert(&keys)?,
        "roberta" => roberta(&keys)?,
        other => {
            let known = "`bert`, `modernbert`, `albert`, `electra`, `distilbert` and `roberta` are";
            return Err(refuse("model_type", &json!(other), known));
        }
    };
    keys.only("tie_word_embeddings", &json!(true), "the output layer shares the word embeddings")?;
    keys.only("is_decoder", &json!(false), "only encoders are")?;
    keys.only("add_cross_attention", &json!(false), "only encoders are")?;
    keys.only("pruned_heads", &json!({}), "every layer has all of its heads here")?;
    keys.only("quantization_config", &Value::Null, "the weights have to be floating-point numbers")?;
    if let Some(kind) = keys.get("problem_type").filter(|kind| *kind == "multi_label_classification") {
        return Err(refuse("problem_type", kind, "a text has exactly one class here"));
    }
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
        embedding: None,
        activation: keys.activation("hidden_act")?,
        dropout: keys.number("hidden_dropout_prob", 0.1)?,
        attention_dropout: keys.number("attention_probs_dropout_prob", 0.1)?,
        layer_norm_epsilon: keys.number("layer_norm_eps", 1e-12)?,
        initializer_range: keys.number("initializer_range", 0.02)?,
        initializer: Initializer::Normal,
        rope_theta: 10_000.0,
        local_attention: None,
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
    keys.only("rope_scaling", &Value::Null, "only plain rotary positions are")?;
    Ok(ModelShape {
        architecture: Architecture::Modern,
        vocabulary: keys.integer("vocab_size", 50_368)?,
        hidden: keys.integer("hidden_size", 768)?,
        layers,
        heads: keys.integer("num_attention_heads", 12)?,
        intermediate: keys.integer("intermediate_size", 1152)?,
        max_positions: keys.integer("max_position_embeddings", 8192)?,
        segment_types: 0,
        embedding: None,
        activation,
        dropout: keys.number("mlp_dropout", 0.0)?,
        attention_dropout: keys.number("attention_dropout", 0.0)?,
        layer_norm_epsilon: keys.number("norm_eps", 1e-5)?,
        initializer_range: keys.number("initializer_range", 0.02)?,
        initializer: Initializer::Normal,
        rope_theta: rope_theta(keys, GLOBAL, "global_rope_theta", 160_000.0)?,
        local_attention: local_attention(keys, layers)?,
    })
}

fn albert(keys: &Keys) -> Result<ModelShape, ModelError> {
    for one in ["num_hidden_groups", "inner_group_num"] {
        keys.only(one, &json!(1), "all layers share one set of weights")?;
    }
    let hidden = keys.integer("hidden_size", 4096)?;
    let narrow = keys.integer("embedding_size", 128)?;
    Ok(ModelShape {
        architecture: Architecture::Albert,
        vocabulary: keys.integer("vocab_size", 30_000)?,
        hidden,
        heads: keys.integer("num_attention_heads", 64)?,
        intermediate: keys.integer("intermediate_size", 16_384)?,
        embedding: Some(narrow).filter(|narrow| *narrow != hidden),
        activation: keys.activation_or("hidden_act", "gelu_new")?,
        dropout: keys.number("hidden_dropout_prob", 0.0)?,
        attention_dropout: keys.number("attention_probs_dropout_prob", 0.0)?,
        ..bert(keys)?
    })
}

fn electra(keys: &Keys) -> Result<ModelShape, ModelError> {
    let hidden = keys.integer("hidden_size", 256)?;
    let narrow = keys.integer("embedding_size", 128)?;
    Ok(ModelShape {
        architecture: Architecture::Electra,
        hidden,
        heads: keys.integer("num_attention_heads", 4)?,
        intermediate: keys.integer("intermediate_size", 1024)?,
        embedding: Some(narrow).filter(|narrow| *narrow != hidden),
        ..bert(keys)?
    })
}

fn distilbert(keys: &Keys) -> Result<ModelShape, ModelError> {
    Ok(ModelShape {
        architecture: Architecture::Distilbert,
        hidden: keys.integer("dim", 768)?,
        layers: keys.integer("n_layers", 6)?,
        heads: keys.integer("n_heads", 12)?,
        intermediate: keys.integer("hidden_dim", 3072)?,
        segment_types: 0,
        activation: keys.activation("activation")?,
        dropout: keys.number("dropout", 0.1)?,
        attention_dropout: keys.number("attention_dropout", 0.1)?,
        // Hugging Face's has no key for it.
        layer_norm_epsilon: 1e-12,
        ..bert(keys)?
    })
}

fn roberta(keys: &Keys) -> Result<ModelShape, ModelError> {
    keys.only("pad_token_id", &json!(PADDING_ID), "positions are counted from `<pad>`, whose id is 1")?;
    let shape = ModelShape {
        architecture: Architecture::Roberta,
        vocabulary: keys.integer("vocab_size", 50_265)?,
        ..bert(keys)?
    };
    let max_positions = shape.max_positions - shape.first_position();
    if max_positions <= 0 {
        let value = json!(shape.max_positions);
        return Err(refuse("max_position_embeddings", &value, "the first two rows are of no position: 3 or more are"));
    }
    Ok(ModelShape { max_positions, ..shape })
}

/// None if every layer attends globally. The list of transformers 5 goes before the number of transformers 4.
fn local_attention(keys: &Keys, layers: i64) -> Result<Option<LocalAttention>, ModelError> {
    let said = keys.integer("global_attn_every_n_layers", 3)?;
    let mut global_every = said;
    if let Some(types) = keys.get("layer_types") {
        let why = "a list of `full_attention` and `sliding_attention` is, one for each layer, in which the first layer and \
                   then every layer at the same distance attends globally";
        let list = types.as_array().filter(|list| list.len() as i64 == layers);
        let list = list.ok_or_else(|| refuse("layer_types", types, why))?;
        let is_pattern =
            |every: i64| (0..).zip(list).all(|(layer, kind)| kind == if layer % every == 0 { GLOBAL } else { LOCAL });
        // What the list says if it says something else than the number, which may be left over.
        let found = std::iter::once(said).chain(1..=layers).find(|every| is_pattern(*every));
        global_every = found.ok_or_else(|| refuse("layer_types", types, why))?;
    }
    if global_every == 1 || layers == 1 {
        return Ok(None);
    }
    let rope_theta = match keys.0.get("local_rope_theta") {
        // As transformers 4 has it: the local layers' are the global ones' then.
        Some(Value::Null) if keys.get("rope_parameters").is_none() => {
            rope_theta(keys, GLOBAL, "global_rope_theta", 160_000.0)?
        }
        _ => rope_theta(keys, LOCAL, "local_rope_theta", 10_000.0)?,
    };
    Ok(Some(LocalAttention { global_every, window: keys.integer("local_attention", 128)?, rope_theta }))
}

/// The base of the rotary positions of one kind of layer; `older` is the key of transformers 4.
fn rope_theta(keys: &Keys, kind: &str, older: &str, default: f64) -> Result<f64, ModelError> {
    let Some(rope) = keys.get("rope_parameters").map(|all| &all[kind]).filter(|rope| rope.is_object()) else {
        return keys.number(older, default);
    };
    match rope.get("rope_type") {
        None | Some(Value::Null) => {}
        Some(kind) if kind == "default" => {}
        Some(other) => return Err(refuse(&format!("rope_parameters.{kind}.rope_type"), other, "only `default` is")),
    }
    match rope.get("rope_theta") {
        None => keys.number(older, default),
        Some(theta) => theta.as_f64().ok_or_else(|| {
            ModelError::Config(format!("`rope_parameters.{kind}.rope_theta` = {theta} is not a number"))
        }),
    }
}

fn head(keys: &Keys) -> Result<Head, ModelError> {
    let class = keys.0.get("architectures").and_then(|list| list[0].as_str()).unwrap_or("Model");
    let pooling = match keys.text("classifier_pooling", "cls")? {
        "cls" => Pooling::Cls,
        "mean" => Pooling::Mean,
        other => return Err(refuse("classifier_pooling", &json!(other), "`cls` and `mean` are")),
    };
    let families = ["ModernBert", "DistilBert", "Albert", "Electra", "Roberta", "Bert"];
    let task = families.iter().find_map(|family| class.strip_prefix(family)).unwrap_or(class);
    Ok(match task {
        "ForPreTraining" if class.starts_with("Electra") => Head::ReplacedTokens { generator: None },
        "ForMaskedLM" => Head::MaskedLm,
        "ForPreTraining" => Head::PreTraining,
        "ForSequenceClassification" => Head::SequenceClassifier { labels: labels(keys)?, pooling },
        "ForTokenClassification" => Head::TokenClassifier { labels: labels(keys)? },
        "ForQuestionAnswering" => Head::QuestionAnswering,
        "ForMultipleChoice" => {
            for (key, value) in summary().into_iter().filter(|_| class.starts_with("Electra")) {
                // Null is another value here, not the default.
                if let Some(found) = keys.0.get(key).filter(|found| **found != value) {
                    return Err(refuse(key, found, &format!("{value} is")));
                }
            }
            Head::MultipleChoice { pooling }
        }
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
        self.activation_or(key, "gelu")
    }

    fn activation_or(&self, key: &str, default: &str) -> Result<Activation, ModelError> {
        match self.text(key, default)? {
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            // The same formula: they differ in how it is computed.
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => Ok(Activation::GeluNew),
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
