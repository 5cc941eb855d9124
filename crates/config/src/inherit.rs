//! What `[model]` may say where `init.from` names another model. Asked when a run is submitted, and again by the trainer
//! that reads the weights: both must come to the same answer.

use crate::model::padded;
use crate::{Architecture, ModelConfig, ModelShape, ModelSize, RunConfig};

impl ModelConfig {
    /// The shape of a model that starts from another one's encoder: the source's, but dropout and how new heads are drawn
    /// may be chosen anew. What the config says otherwise must agree. An exported source has a row for each token and no
    /// more; here the rows are padded again, as those of a new model are.
    ///
    /// # Errors
    /// What of the config does not agree.
    pub fn inherit(&self, source: ModelShape) -> Result<ModelShape, String> {
        let differs = |key: &str, said: String, is: String| {
            Err(format!(
                "model.{key}: {said}, but the model of init.from has {is}: leave it out, or start from another"
            ))
        };
        let padded = padded(source.vocabulary);
        if self.architecture != Architecture::default() && self.architecture != source.architecture {
            return differs("architecture", self.architecture.as_str().into(), source.architecture.as_str().into());
        }
        for (key, said, is) in [
            ("layers", self.layers, source.layers),
            ("hidden", self.hidden, source.hidden),
            ("heads", self.heads, source.heads),
            ("intermediate", self.intermediate, source.intermediate),
            ("embedding", self.embedding, source.embedding_width()),
            ("vocabulary", self.vocabulary.filter(|rows| *rows != padded), source.vocabulary),
            ("max_positions", self.max_positions, source.max_positions),
        ] {
            if let Some(said) = said.filter(|said| *said != is) {
                return differs(key, said.to_string(), is.to_string());
            }
        }
        for (key, said, is) in [
            ("layer_norm_epsilon", self.layer_norm_epsilon, source.layer_norm_epsilon),
            ("rope_theta", self.rope_theta, source.rope_theta),
        ] {
            if let Some(said) = said.filter(|said| *said != is) {
                return differs(key, said.to_string(), is.to_string());
            }
        }
        let local = source.local_attention;
        let every = local.map_or(1, |local| local.global_every);
        if let Some(said) = self.global_attn_every_n_layers.filter(|said| *said != every) {
            return differs("global_attn_every_n_layers", said.to_string(), every.to_string());
        }
        for (key, said, is) in [
            ("local_attention", self.local_attention.map(|said| said as f64), local.map(|local| local.window as f64)),
            ("local_rope_theta", self.local_rope_theta, local.map(|local| local.rope_theta)),
        ] {
            if let Some(said) = said.filter(|said| Some(*said) != is) {
                return differs(key, said.to_string(), is.map_or("none".to_owned(), |is| is.to_string()));
            }
        }
        if let Some(said) = self.activation.filter(|said| *said != source.activation) {
            return differs("activation", format!("{said:?}"), format!("{:?}", source.activation));
        }
        if self.size != ModelSize::default() {
            let wanted = self.shape(source.vocabulary, 8);
            if (wanted.layers, wanted.hidden) != (source.layers, source.hidden) {
                let is = format!("{} layers × {}", source.layers, source.hidden);
                return differs("size", format!("{:?}", self.size), is);
            }
        }
        Ok(ModelShape {
            vocabulary: self.vocabulary.unwrap_or(padded),
            dropout: self.dropout.unwrap_or(source.dropout),
            attention_dropout: self.attention_dropout.or(self.dropout).unwrap_or(source.attention_dropout),
            initializer: self.initializer,
            initializer_range: self.initializer_range.unwrap_or(source.initializer_range),
            ..source
        })
    }
}

impl RunConfig {
    /// The same with the sizes of `shape` written out, which the run's model has from another one: those that `[model]`
    /// leaves to `init.from` would read as the defaults of a new model. [`ModelConfig::inherit`] comes to the same shape. What
    /// is no size (local attention, rotary base, activation, epsilon) stays as it was given.
    #[must_use]
    pub fn with_shape(&self, shape: &ModelShape) -> Self {
        use ModelSize::{Base, Large, Medium, Mini, Small, Tiny};
        let is_named = |size: &ModelSize| {
            let named = ModelConfig { size: *size, ..ModelConfig::default() }.shape(shape.vocabulary, 8);
            (named.layers, named.hidden, named.heads) == (shape.layers, shape.hidden, shape.heads)
        };
        let size = [Tiny, Mini, Small, Medium, Base, Large].into_iter().find(is_named);
        let is_narrow = matches!(shape.architecture, Architecture::Albert | Architecture::Electra);
        let model = ModelConfig {
            architecture: shape.architecture,
            // A student's would be compared with its teacher's.
            size: size.filter(|_| self.distill.is_none()).unwrap_or(self.model.size),
            layers: Some(shape.layers),
            hidden: Some(shape.hidden),
            heads: Some(shape.heads),
            intermediate: Some(shape.intermediate),
            embedding: is_narrow.then(|| shape.embedding_width()),
            vocabulary: Some(shape.vocabulary),
            max_positions: Some(shape.max_positions),
            ..self.model.clone()
        };
        Self { model, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Initializer, parse};

    fn inherited(change: impl FnOnce(&mut ModelConfig)) -> Result<ModelShape, String> {
        let mut config = ModelConfig::default();
        change(&mut config);
        config.inherit(ModelConfig::default().shape(1000, 128))
    }

    #[test]
    fn nothing_the_config_says_of_the_model_is_passed_over() {
        assert_eq!(inherited(|_| ()).unwrap(), ModelConfig::default().shape(1000, 128));
        let told = inherited(|config| {
            config.dropout = Some(0.3);
            config.initializer = Initializer::TruncatedNormal;
            config.initializer_range = Some(0.05);
        })
        .unwrap();
        assert_eq!((told.dropout, told.attention_dropout), (0.3, 0.3));
        assert_eq!((told.initializer, told.initializer_range), (Initializer::TruncatedNormal, 0.05));
        type Change = fn(&mut ModelConfig);
        let refused: [(&str, Change); 10] = [
            ("architecture", |config| config.architecture = Architecture::Modern),
            ("size", |config| config.size = ModelSize::Base),
            ("layers", |config| config.layers = Some(1)),
            ("heads", |config| config.heads = Some(1)),
            ("activation", |config| config.activation = Some(Activation::Relu)),
            ("layer_norm_epsilon", |config| config.layer_norm_epsilon = Some(1e-3)),
            ("rope_theta", |config| config.rope_theta = Some(1.0)),
            ("global_attn_every_n_layers", |config| config.global_attn_every_n_layers = Some(3)),
            ("local_attention", |config| config.local_attention = Some(128)),
            ("local_rope_theta", |config| config.local_rope_theta = Some(1e4)),
        ];
        for (key, change) in refused {
            let text = inherited(change).unwrap_err();
            assert!(text.contains(&format!("model.{key}:")), "{text}");
        }
        let text = inherited(|config| config.architecture = Architecture::Modern).unwrap_err();
        assert!(text.contains("modern, but the model of init.from has bert"), "as the config spells it: {text}");
    }

    #[test]
    fn local_attention_is_the_sources() {
        let modern = ModelConfig {
            architecture: Architecture::Modern,
            global_attn_every_n_layers: Some(3),
            local_attention: Some(64),
            ..ModelConfig::default()
        };
        let source = modern.shape(1000, 128);
        assert_eq!(ModelConfig::default().inherit(source.clone()).unwrap(), source);
        assert_eq!(modern.inherit(source.clone()).unwrap(), source);
        let wider = ModelConfig { local_attention: Some(128), ..modern };
        assert!(wider.inherit(source).is_err_and(|text| text.contains("model.local_attention: 128")));
    }

    #[test]
    fn the_rows_that_an_export_cut_off_are_there_again() {
        let of = |rows: i64, vocabulary| {
            let source = ModelShape { vocabulary: rows, ..ModelConfig::default().shape(1000, 128) };
            ModelConfig { vocabulary, ..ModelConfig::default() }.inherit(source).map(|shape| shape.vocabulary)
        };
        assert_eq!((of(998, None), of(998, Some(998)), of(998, Some(1000))), (Ok(1000), Ok(998), Ok(1000)));
        assert!(of(998, Some(1008)).is_err_and(|text| text.contains("model.vocabulary: 1008")));
        assert!(of(i64::MAX, None).is_ok(), "a senseless number is for the checks to refuse");
    }

    const RUN: &str = r#"
        run = { name = "tuned", kind = "finetune", steps = 10 }
        data = { paths = ["labelled.parquet"], label_column = "label" }
        tokenizer = { path = "tokenizer.json" }
        batch = { slots = 1, micro_batch = 8, sequence_length = 128 }
        objective = { kind = "classify" }
        init = { from = "run:big" }
    "#;

    #[test]
    fn what_is_written_out_is_the_model_that_is_inherited() {
        use Architecture::{Albert, Bert, Distilbert, Electra, Modern, Roberta};
        for architecture in [Bert, Modern, Albert, Electra, Distilbert, Roberta] {
            let (layers, hidden, heads) = (Some(6), Some(384), Some(12));
            for embedding in [None, Some(384)].into_iter().filter(|width| width.is_none() || architecture == Albert) {
                let other = ModelConfig { architecture, layers, hidden, heads, embedding, ..ModelConfig::default() };
                let source = other.shape(998, 512);
                let run = parse("tuned.toml", RUN).unwrap();
                let shape = run.model.inherit(source.clone()).unwrap();
                let told = run.with_shape(&shape);
                assert_eq!(told.model.shape(1, 8), shape, "as one reads it");
                assert_eq!(told.model.inherit(source), Ok(shape), "as the trainer does");
                told.check("tuned.toml").unwrap();
            }
        }
        let sized = |distill: &str| {
            let shape = ModelConfig { size: ModelSize::Base, ..ModelConfig::default() }.shape(1000, 512);
            parse("tuned.toml", &format!("{RUN}{distill}")).unwrap().with_shape(&shape).model.size
        };
        assert_eq!(sized(""), ModelSize::Base);
        assert_eq!(sized("distill = { teacher = \"run:big\" }"), ModelSize::Mini, "the teacher has another one");
    }
}
