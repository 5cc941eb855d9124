//! What goes with which member of the family.

use crate::{Architecture, ObjectiveKind, RunConfig};

/// Longer runs of words leave too little to predict them from.
const NGRAM_MAX: usize = 10;

impl RunConfig {
    pub(super) fn check_relatives(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let (objective, model) = (&self.objective, &self.model);
        let architecture = model.architecture;
        rule(
            !objective.kind.has_pairs() || matches!(architecture, Architecture::Bert | Architecture::Albert),
            "objective.kind",
            "sentence pairs need segments and a pooler, which only `bert` and `albert` have".into(),
            "use `mlm`, or model.architecture = \"bert\" or \"albert\"",
        );
        rule(
            (1..=NGRAM_MAX).contains(&objective.ngram_max),
            "objective.ngram_max",
            format!("{} is outside 1 to {NGRAM_MAX}", objective.ngram_max),
            "3 is ALBERT's, 1 masks each word by itself",
        );
        rule(
            model.embedding.is_none() || matches!(architecture, Architecture::Albert | Architecture::Electra),
            "model.embedding",
            "is for `albert` and `electra`".into(),
            "leave it out",
        );
        rule(
            architecture != Architecture::Distilbert || model.layer_norm_epsilon.is_none_or(|epsilon| epsilon == 1e-12),
            "model.layer_norm_epsilon",
            "of `distilbert` is 1e-12: its config.json has no key for another".into(),
            "leave it out",
        );
        self.check_electra(rule);
        self.check_distill(rule);
    }

    fn check_electra(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let (objective, model) = (&self.objective, &self.model);
        let replaces = objective.kind == ObjectiveKind::ReplacedTokens;
        rule(
            !replaces || model.architecture == Architecture::Electra,
            "objective.kind",
            "`replaced_tokens` is ELECTRA's".into(),
            "set model.architecture = \"electra\"",
        );
        rule(
            objective.discriminator_weight.is_finite() && objective.discriminator_weight > 0.0,
            "objective.discriminator_weight",
            format!("{} is not a positive number", objective.discriminator_weight),
            "50 is ELECTRA's",
        );
        let shape = model.shape(30_522, self.batch.sequence_length as i64);
        let generator = model.generator(&shape);
        for (key, given, value) in [
            ("model.generator_hidden", model.generator_hidden, generator.hidden),
            ("model.generator_layers", model.generator_layers, generator.layers),
            ("model.generator_heads", model.generator_heads, generator.heads),
        ] {
            rule(given.is_none() || replaces, key, "is for `replaced_tokens`".into(), "leave it out");
            rule(!replaces || value > 0, key, format!("{value} is not positive"), "leave it out for the default");
        }
        rule(
            !replaces || generator.hidden % generator.heads.max(1) == 0,
            "model.generator_heads",
            format!("{} heads do not divide the generator's width of {}", generator.heads, generator.hidden),
            "choose a divisor of model.generator_hidden",
        );
    }

    fn check_distill(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let distills = self.objective.kind == ObjectiveKind::Distill;
        let Some(distill) = &self.distill else {
            rule(
                !distills,
                "distill.teacher",
                "is missing".into(),
                "name the model to learn from, for example `run:bert-mini`",
            );
            return;
        };
        rule(distills, "distill", "is for objective.kind = \"distill\"".into(), "leave the section out");
        if let Err(message) = distill.source() {
            rule(false, "distill.teacher", message, "for example `run:bert-mini` or `hf:models/bert`");
        }
        rule(
            matches!(self.model.architecture, Architecture::Bert | Architecture::Distilbert),
            "model.architecture",
            "of a student is `distilbert` or `bert`".into(),
            "set model.architecture = \"distilbert\"",
        );
        rule(
            self.init.from.is_empty(),
            "init.from",
            "cannot be given beside `distill.teacher`: a student starts from its teacher's layers".into(),
            "leave it out",
        );
        for (key, value) in [
            ("distill.divergence_weight", distill.divergence_weight),
            ("distill.mlm_weight", distill.mlm_weight),
            ("distill.cosine_weight", distill.cosine_weight),
        ] {
            rule(value.is_finite() && value >= 0.0, key, format!("{value} is negative"), "0 turns it off");
        }
        rule(
            distill.temperature.is_finite() && distill.temperature > 0.0,
            "distill.temperature",
            format!("{} is not a positive number", distill.temperature),
            "2 is DistilBERT's",
        );
    }
}
