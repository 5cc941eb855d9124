//! What Hugging Face calls the parts of the encoders that are made of BERT's layers, and of all heads over words.

use config::{Architecture, ModelShape};

/// An encoder of post-norm layers: where its parts are among the parameters.
pub(crate) struct EncoderNames {
    /// Before `word_embeddings`, `position_embeddings`, `token_type_embeddings` and `LayerNorm`.
    pub embeddings: &'static str,
    /// The matrix from the embeddings' width to the layers'.
    pub projection: &'static str,
    /// Whether the matrix is there where both widths are the same.
    pub always_projects: bool,
    /// Before a layer's parts, without the layer's number.
    pub layers: &'static str,
    /// One layer, with no number, is used again and again.
    pub shared: bool,
    /// The parts of a layer.
    pub layer: LayerNames,
}

/// The parts of one layer, behind the layer's own prefix.
pub(crate) struct LayerNames {
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub attention_output: &'static str,
    pub attention_norm: &'static str,
    pub intermediate: &'static str,
    pub output: &'static str,
    pub output_norm: &'static str,
}

const BERT_LAYER: LayerNames = LayerNames {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
};

const BERT: EncoderNames = EncoderNames {
    embeddings: "bert.embeddings",
    projection: "",
    always_projects: false,
    layers: "bert.encoder.layer",
    shared: false,
    layer: BERT_LAYER,
};

const ALBERT: EncoderNames = EncoderNames {
    embeddings: "albert.embeddings",
    projection: "albert.encoder.embedding_hidden_mapping_in",
    always_projects: true,
    layers: "albert.encoder.albert_layer_groups.0.albert_layers.0",
    shared: true,
    layer: LayerNames {
        query: "attention.query",
        key: "attention.key",
        value: "attention.value",
        attention_output: "attention.dense",
        attention_norm: "attention.LayerNorm",
        intermediate: "ffn",
        output: "ffn_output",
        output_norm: "full_layer_layer_norm",
    },
};

const ELECTRA: EncoderNames = EncoderNames {
    embeddings: "electra.embeddings",
    projection: "electra.embeddings_project",
    always_projects: false,
    layers: "electra.encoder.layer",
    shared: false,
    layer: BERT_LAYER,
};

/// ELECTRA's generator beside a discriminator, whose embeddings it shares.
pub(crate) const GENERATOR: EncoderNames = EncoderNames {
    embeddings: "electra.embeddings",
    projection: "generator.embeddings_project",
    always_projects: false,
    layers: "generator.encoder.layer",
    shared: false,
    layer: BERT_LAYER,
};

const DISTILBERT: EncoderNames = EncoderNames {
    embeddings: "distilbert.embeddings",
    projection: "",
    always_projects: false,
    layers: "distilbert.transformer.layer",
    shared: false,
    layer: LayerNames {
        query: "attention.q_lin",
        key: "attention.k_lin",
        value: "attention.v_lin",
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        intermediate: "ffn.lin1",
        output: "ffn.lin2",
        output_norm: "output_layer_norm",
    },
};

const ROBERTA: EncoderNames = EncoderNames {
    embeddings: "roberta.embeddings",
    projection: "",
    always_projects: false,
    layers: "roberta.encoder.layer",
    shared: false,
    layer: BERT_LAYER,
};

impl EncoderNames {
    /// None: the architecture is not made of BERT's layers.
    pub fn of(architecture: Architecture) -> Option<&'static Self> {
        match architecture {
            Architecture::Bert => Some(&BERT),
            Architecture::Modern => None,
            Architecture::Albert => Some(&ALBERT),
            Architecture::Electra => Some(&ELECTRA),
            Architecture::Distilbert => Some(&DISTILBERT),
            Architecture::Roberta => Some(&ROBERTA),
        }
    }

    /// Whether an encoder of this shape brings its embeddings to another width.
    pub fn projects(&self, shape: &ModelShape) -> bool {
        self.always_projects || shape.embedding_width() != shape.hidden
    }

    /// Before the parts of a layer.
    pub fn prefix(&self, layer: i64) -> String {
        if self.shared { self.layers.to_owned() } else { format!("{}.{layer}", self.layers) }
    }

    /// How many layers have parameters of their own.
    pub fn distinct_layers(&self, shape: &ModelShape) -> i64 {
        if self.shared { shape.layers.min(1) } else { shape.layers }
    }
}

/// The head over the vocabulary and what stands beside it.
#[derive(Clone, Copy)]
pub(crate) struct HeadNames {
    /// Dense and tanh on the first token, where the architecture has that.
    pub pooler: Option<&'static str>,
    /// Dense, non-linearity, LayerNorm: before the vocabulary.
    pub dense: &'static str,
    pub norm: &'static str,
    /// The bias of the output layer, whose weight is that of the word embeddings.
    pub bias: &'static str,
    /// Where a file may hold weight and bias of the output layer a second time.
    pub decoder: &'static str,
    /// Two classes for a pair of texts.
    pub pair: Option<&'static str>,
}

impl HeadNames {
    pub fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Bert => Self {
                pooler: Some("bert.pooler.dense"),
                dense: "cls.predictions.transform.dense",
                norm: "cls.predictions.transform.LayerNorm",
                bias: "cls.predictions.bias",
                decoder: "cls.predictions.decoder",
                pair: Some("cls.seq_relationship"),
            },
            Architecture::Modern => Self {
                pooler: None,
                dense: "head.dense",
                norm: "head.norm",
                bias: "decoder.bias",
                decoder: "decoder",
                pair: None,
            },
            Architecture::Albert => Self {
                pooler: Some("albert.pooler"),
                dense: "predictions.dense",
                norm: "predictions.LayerNorm",
                bias: "predictions.bias",
                decoder: "predictions.decoder",
                pair: Some("sop_classifier.classifier"),
            },
            Architecture::Electra => Self {
                pooler: None,
                dense: "generator_predictions.dense",
                norm: "generator_predictions.LayerNorm",
                bias: "generator_lm_head.bias",
                decoder: "generator_lm_head",
                pair: None,
            },
            Architecture::Distilbert => Self {
                pooler: None,
                dense: "vocab_transform",
                norm: "vocab_layer_norm",
                bias: "vocab_projector.bias",
                decoder: "vocab_projector",
                pair: None,
            },
            Architecture::Roberta => Self {
                pooler: Some("roberta.pooler.dense"),
                dense: "lm_head.dense",
                norm: "lm_head.layer_norm",
                bias: "lm_head.bias",
                decoder: "lm_head.decoder",
                pair: None,
            },
        }
    }
}

/// The table of the word embeddings.
pub(crate) fn words(architecture: Architecture) -> String {
    match EncoderNames::of(architecture) {
        Some(names) => format!("{}.word_embeddings.weight", names.embeddings),
        None => "model.embeddings.tok_embeddings.weight".to_owned(),
    }
}
