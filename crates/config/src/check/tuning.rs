//! What of a model a fine-tuning changes, and how fast.

use crate::{EvalConfig, RunConfig, RunKind};

impl RunConfig {
    pub(super) fn check_tuning(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let finetunes = self.run.kind == RunKind::Finetune;
        for (key, given) in [
            ("optimizer.layer_decay", self.optimizer.layer_decay.is_some()),
            ("model.frozen_layers", self.model.frozen_layers.is_some()),
            ("lora", self.lora.is_some()),
        ] {
            rule(finetunes || !given, key, "is for run.kind = \"finetune\"".into(), "leave it out");
        }
        if let Some(decay) = self.optimizer.layer_decay {
            rule(
                decay > 0.0 && decay <= 1.0,
                "optimizer.layer_decay",
                format!("{decay} is not more than 0 and at most 1"),
                "0.9 is usual; leave it out for one rate",
            );
        }
        self.check_stopping(rule);
        self.check_lora(rule);
        if let Some(layers) = self.model.frozen_layers {
            rule(
                layers >= 0,
                "model.frozen_layers",
                format!("{layers} is negative"),
                "0 freezes the embeddings alone; leave it out to train everything",
            );
        }
        // Where the model comes from elsewhere, its shape is not known yet.
        if self.init.from.is_empty() && self.model.frozen_layers.is_none_or(|layers| layers >= 0) {
            let shape = self.model.shape(30_522, self.batch.sequence_length as i64);
            if let Err(text) = self.check_tuning_of(&shape) {
                let (key, message) = text.split_once(": ").unwrap_or(("model", &text));
                let (message, help) = message.rsplit_once(": ").unwrap_or((message, "leave it out"));
                rule(false, key, message.to_owned(), help);
            }
        }
    }

    fn check_lora(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let Some(lora) = &self.lora else { return };
        rule(lora.rank > 0, "lora.rank", format!("{} is not positive", lora.rank), "8 is usual");
        rule(
            lora.alpha.is_finite() && lora.alpha > 0.0,
            "lora.alpha",
            format!("{} is not a positive number", lora.alpha),
            "once or twice lora.rank is usual",
        );
        rule(
            (0.0..1.0).contains(&lora.dropout),
            "lora.dropout",
            format!("{} is outside 0 to 1", lora.dropout),
            "0.05 is usual, 0 turns it off",
        );
        rule(
            !lora.targets.is_empty(),
            "lora.targets",
            "is empty".into(),
            "name at least one of query, key, value, attention_output, feed_forward",
        );
        let twice = lora.targets.iter().enumerate().any(|(at, target)| lora.targets[..at].contains(target));
        rule(!twice, "lora.targets", "names a matrix twice".into(), "name each once");
        rule(
            self.model.frozen_layers.is_none(),
            "model.frozen_layers",
            "does not go with [lora], which freezes the whole encoder".into(),
            "leave one of them out",
        );
        rule(
            self.optimizer.ema_decay.is_none(),
            "optimizer.ema_decay",
            "does not go with [lora]".into(),
            "leave one of them out",
        );
    }

    fn check_stopping(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let EvalConfig { every_steps, best_metric, patience, min_delta, .. } = &self.eval;
        let measured = self.objective.measured();
        let numbers = if self.objective.regression { " with objective.regression" } else { "" };
        rule(
            measured.contains(&best_metric.as_str()),
            "eval.best_metric",
            format!(
                "`{best_metric}` is not measured for objective.kind = \"{}\"{numbers}",
                self.objective.kind.as_str()
            ),
            &match best_metric.strip_prefix("eval/") {
                Some(name) if measured.contains(&name) => format!("write it without `eval/`: `{name}`"),
                _ => format!("one of: {}", measured.join(", ")),
            },
        );
        rule(
            min_delta.is_none() || patience.is_some(),
            "eval.min_delta",
            "needs `eval.patience`".into(),
            "give both, or neither",
        );
        rule(
            min_delta.is_none_or(|delta| delta.is_finite() && delta >= 0.0),
            "eval.min_delta",
            "is not a number of at least 0".into(),
            "leave it out: whatever is better counts",
        );
        let Some(patience) = *patience else { return };
        rule(patience > 0, "eval.patience", "is 0".into(), "3 is usual; leave it out to do all steps");
        rule(
            *every_steps > 0,
            "eval.patience",
            "needs evaluations, and eval.every_steps = 0 has none before the end".into(),
            "set eval.every_steps",
        );
        rule(
            self.data.eval_fraction > 0.0 || !self.data.eval_paths.is_empty(),
            "eval.patience",
            "needs held-out data".into(),
            "set data.eval_fraction or data.eval_paths",
        );
        let stores = self.checkpoint.every_steps;
        rule(
            self.checkpoint.keep_best > 0 && stores > 0 && every_steps.is_multiple_of(stores.max(1)),
            "eval.patience",
            format!(
                "does not go with checkpoint.every_steps = {stores}, checkpoint.keep_best = {} and eval.every_steps = \
                 {every_steps}: the best model that is measured would not be kept",
                self.checkpoint.keep_best
            ),
            "set checkpoint.every_steps to eval.every_steps, and checkpoint.keep_best to 1 or more",
        );
    }
}
