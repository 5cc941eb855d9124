//! What of a model a fine-tuning changes, and how fast.

use crate::{RunConfig, RunKind};

impl RunConfig {
    pub(super) fn check_tuning(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let finetunes = self.run.kind == RunKind::Finetune;
        for (key, given) in [
            ("optimizer.layer_decay", self.optimizer.layer_decay.is_some()),
            ("model.frozen_layers", self.model.frozen_layers.is_some()),
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
}
