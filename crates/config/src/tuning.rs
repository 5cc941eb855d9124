//! Whether what a fine-tuning leaves as it is fits the model that it starts from. Asked when a run is submitted, and again
//! by the trainer that reads the weights.

use crate::{Architecture, LoraTarget, ModelShape, ObjectiveKind, Pooling, RunConfig};

impl RunConfig {
    /// Checks `model.frozen_layers`, `lora`, and how `choose` pools against a model's shape.
    ///
    /// # Errors
    /// What does not fit: "KEY: what: what to do".
    pub fn check_tuning_of(&self, shape: &ModelShape) -> Result<(), String> {
        self.check_lora_of(shape)?;
        let (objective, architecture) = (&self.objective, shape.architecture);
        let pools_by_mean = objective.kind == ObjectiveKind::Choose && objective.pooling == Pooling::Mean;
        if pools_by_mean && architecture != Architecture::Modern {
            return Err(
                "objective.pooling: `mean`, which `choose` has with `modern` alone, as in transformers: leave it \
                        out"
                .to_owned(),
            );
        }
        let Some(frozen) = self.model.frozen_layers else { return Ok(()) };
        let layers = shape.layers;
        if !(0..=layers).contains(&frozen) {
            return Err(format!(
                "model.frozen_layers: {frozen} of the {layers} layers that the model has: give 0 (the embeddings alone) \
                 to {layers}"
            ));
        }
        let shared = shape.architecture == Architecture::Albert;
        if shared && frozen != 0 && frozen != layers {
            return Err(format!(
                "model.frozen_layers: the {layers} layers of `albert` are one layer that is used again and again, and \
                 {frozen} of them cannot be frozen: give 0 (the embeddings alone) or {layers}"
            ));
        }
        let has_norm_on_top = shape.architecture == Architecture::Modern;
        if frozen == layers && self.objective.kind == ObjectiveKind::Match && !has_norm_on_top {
            return Err(format!(
                "model.frozen_layers: {frozen} leaves nothing to train, because `match` has no head: give {} or less",
                layers - 1
            ));
        }
        Ok(())
    }

    fn check_lora_of(&self, shape: &ModelShape) -> Result<(), String> {
        let Some(lora) = &self.lora else { return Ok(()) };
        let most = shape.hidden.min(shape.intermediate);
        if lora.rank > most {
            return Err(format!("lora.rank: {} is more than the model is wide: give {most} or less", lora.rank));
        }
        let inputs = [LoraTarget::Query, LoraTarget::Key, LoraTarget::Value];
        let named = inputs.into_iter().filter(|target| lora.adapts(*target)).count();
        if shape.architecture == Architecture::Modern && named != 0 && named != inputs.len() {
            return Err(
                "lora.targets: `modern` has one matrix for queries, keys and values: give query, key and value, or \
                        none of them"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, parse};

    const TEXT: &str = r#"
        run = { name = "tuned", kind = "finetune", steps = 10 }
        data = { paths = ["labelled.parquet"], label_column = "label" }
        tokenizer = { path = "tokenizer.json" }
        batch = { slots = 1, micro_batch = 8, sequence_length = 128 }
    "#;

    fn checked(more: &str, shape: Option<Architecture>) -> Result<(), String> {
        let config = parse("tuned.toml", &format!("{TEXT}{more}")).unwrap();
        match shape {
            Some(architecture) => {
                config.check_tuning_of(&ModelConfig { architecture, ..ModelConfig::default() }.shape(1000, 128))
            }
            None => config.check("tuned.toml").map(drop).map_err(|error| error.to_string()),
        }
    }

    const CLASSIFY: &str = "objective = { kind = \"classify\" }\n";

    fn refused(more: &str, shape: Option<Architecture>, parts: &[&str]) {
        let text = checked(&format!("{CLASSIFY}{more}"), shape).unwrap_err();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn frozen_layers_are_layers_of_the_model() {
        for frozen in 0..=4 {
            let told = format!("{CLASSIFY}model = {{ frozen_layers = {frozen} }}");
            assert_eq!(checked(&told, None), Ok(()));
            assert_eq!(checked(&told, Some(Architecture::Modern)), Ok(()));
        }
        refused("model = { frozen_layers = 5 }", None, &["model.frozen_layers", "5 of the 4 layers"]);
        refused("model = { frozen_layers = -1 }", None, &["model.frozen_layers", "-1 is negative"]);
        let from = "model = { frozen_layers = 5 }\ninit = { from = \"run:big\" }";
        assert_eq!(checked(&format!("{CLASSIFY}{from}"), None), Ok(()), "the shape is not known yet");
        refused(from, Some(Architecture::Bert), &["model.frozen_layers: 5 of the 4 layers", "give 0"]);
        refused("model = { frozen_layers = 2 }", Some(Architecture::Albert), &["`albert`", "give 0", "or 4"]);
        assert_eq!(checked(&format!("{CLASSIFY}model = {{ frozen_layers = 4 }}"), Some(Architecture::Albert)), Ok(()));
    }

    #[test]
    fn choices_are_pooled_as_transformers_does() {
        let told = "objective = { kind = \"choose\", pooling = \"mean\" }";
        assert_eq!(checked(told, Some(Architecture::Modern)), Ok(()));
        let text = checked(told, Some(Architecture::Roberta)).unwrap_err();
        assert!(text.starts_with("objective.pooling: `mean`") && text.contains("leave it out"), "{text}");
    }

    #[test]
    fn something_must_be_left_to_train() {
        let told = "objective = { kind = \"match\" }\nmodel = { frozen_layers = 4 }";
        let text = checked(told, Some(Architecture::Bert)).unwrap_err();
        assert!(text.contains("nothing to train") && text.contains("give 3 or less"), "{text}");
        assert_eq!(checked(told, Some(Architecture::Modern)), Ok(()), "its last norm is trained");
    }

    #[test]
    fn only_a_fine_tuning_spares_layers() {
        refused("optimizer = { layer_decay = 1.5 }", None, &["optimizer.layer_decay", "1.5", "0.9 is usual"]);
        refused("optimizer = { layer_decay = 0.0 }", None, &["optimizer.layer_decay", "0 is not"]);
        let pretrains = TEXT.replace("finetune", "pretrain");
        let told = "optimizer = { layer_decay = 0.9 }\nmodel = { frozen_layers = 1 }";
        let error = parse("tuned.toml", &format!("{pretrains}{told}")).unwrap().check("").unwrap_err().to_string();
        for key in ["`optimizer.layer_decay`: is for", "`model.frozen_layers`: is for"] {
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn the_rate_falls_layer_by_layer() {
        let config = crate::OptimizerConfig { layer_decay: Some(0.5), ..crate::OptimizerConfig::default() };
        assert_eq!([0, 1, 2, 5].map(|below| config.rate_factor(below)), [1.0, 0.5, 0.25, 0.03125]);
        assert_eq!(crate::OptimizerConfig::default().rate_factor(5), 1.0);
    }

    #[test]
    fn early_stopping_needs_something_to_measure_and_to_keep() {
        let good = "eval = { every_steps = 20, patience = 3, best_metric = \"macro_f1\", min_delta = 0.01 }\n\
                    checkpoint = { every_steps = 10 }\n";
        assert_eq!(checked(&format!("{CLASSIFY}{good}"), None), Ok(()));
        for (old, new, parts) in [
            ("patience = 3", "patience = 0", ["eval.patience", "is 0"]),
            ("every_steps = 20", "every_steps = 0", ["eval.patience", "set eval.every_steps"]),
            ("every_steps = 20", "every_steps = 25", ["eval.patience", "checkpoint.every_steps = 10"]),
            ("every_steps = 10", "every_steps = 0", ["eval.patience", "the best model that is measured"]),
            ("every_steps = 10", "every_steps = 10, keep_best = 0", ["eval.patience", "checkpoint.keep_best = 0"]),
            ("patience = 3, ", "", ["eval.min_delta", "needs `eval.patience`"]),
            ("0.01", "-0.01", ["eval.min_delta", "at least 0"]),
            ("macro_f1", "entity_f1", ["eval.best_metric", "one of: loss, accuracy, macro_f1, mcc"]),
        ] {
            refused(&good.replace(old, new), None, &parts);
        }
        let nothing = TEXT.replace("label_column", "eval_fraction = 0.0, label_column");
        let error =
            parse("tuned.toml", &format!("{nothing}{CLASSIFY}{good}")).unwrap().check("").unwrap_err().to_string();
        assert!(error.contains("needs held-out data"), "{error}");
    }

    #[test]
    fn less_of_a_loss_is_better_and_more_of_the_rest() {
        let by = |metric: &str, min_delta| crate::EvalConfig {
            best_metric: metric.to_owned(),
            min_delta,
            ..crate::EvalConfig::default()
        };
        for metric in ["loss", "mlm_loss", "perplexity"] {
            assert!(by(metric, None).improves(1.0, 1.5) && !by(metric, None).improves(1.5, 1.5), "{metric}");
            assert!(!by(metric, Some(0.5)).improves(1.0, 1.5) && by(metric, Some(0.4)).improves(1.0, 1.5), "{metric}");
        }
        for metric in ["accuracy", "macro_f1", "pearson"] {
            assert!(by(metric, None).improves(0.8, 0.7) && !by(metric, None).improves(0.7, 0.7), "{metric}");
            assert!(!by(metric, Some(0.25)).improves(0.75, 0.5) && by(metric, Some(0.2)).improves(0.75, 0.5));
        }
    }

    #[test]
    fn adapters_fit_the_model() {
        let good = "lora = { rank = 4, alpha = 8, dropout = 0.1, targets = [\"query\", \"key\", \"value\"] }";
        for shape in [None, Some(Architecture::Bert), Some(Architecture::Modern), Some(Architecture::Albert)] {
            assert_eq!(checked(&format!("{CLASSIFY}{good}"), shape), Ok(()));
        }
        for (old, new, parts) in [
            ("rank = 4", "rank = 0", ["lora.rank", "8 is usual"]),
            ("rank = 4", "rank = 257", ["lora.rank", "give 256 or less"]),
            ("alpha = 8", "alpha = 0", ["lora.alpha", "0 is not a positive number"]),
            ("dropout = 0.1", "dropout = 1.0", ["lora.dropout", "1 is outside"]),
            ("\"key\"", "\"query\"", ["lora.targets", "twice"]),
            ("targets = [\"query\", \"key\", \"value\"]", "targets = []", ["lora.targets", "is empty"]),
            ("lora =", "model = { frozen_layers = 1 }\nlora =", ["model.frozen_layers", "does not go with [lora]"]),
            ("lora =", "optimizer = { ema_decay = 0.9 }\nlora =", ["optimizer.ema_decay", "does not go with [lora]"]),
        ] {
            refused(&good.replace(old, new), None, &parts);
        }
        refused("lora = {}", Some(Architecture::Modern), &["lora.targets: `modern`", "query, key and value"]);
        let pretrains = TEXT.replace("finetune", "pretrain");
        let error = parse("tuned.toml", &format!("{pretrains}{good}")).unwrap().check("").unwrap_err().to_string();
        assert!(error.contains("`lora`: is for run.kind"), "{error}");
    }
}
