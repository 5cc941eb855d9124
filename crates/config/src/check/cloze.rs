//! What cloze prompts ask for.

use crate::prompt::Prompt;
use crate::{ObjectiveKind, RunConfig};

impl RunConfig {
    pub(super) fn check_cloze(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let (objective, data) = (&self.objective, &self.data);
        if objective.kind != ObjectiveKind::Cloze {
            for (key, given) in [
                ("objective.prompt", objective.prompt.is_some()),
                ("objective.verbalizers", !objective.verbalizers.is_empty()),
            ] {
                rule(!given, key, "is for objective.kind = \"cloze\"".into(), "leave it out");
            }
            return;
        }
        let help = "for example \"{text} It was [MASK].\"";
        match objective.prompt.as_deref().map(str::parse::<Prompt>) {
            None => rule(false, "objective.prompt", "is missing".into(), help),
            Some(Err(message)) => rule(false, "objective.prompt", message, help),
            Some(Ok(prompt)) => {
                rule(
                    !prompt.has_pair() || data.pair_column.is_some(),
                    "data.pair_column",
                    "is missing, and objective.prompt has {pair}".into(),
                    "name the column of the second text",
                );
                rule(
                    prompt.has_pair() || data.pair_column.is_none(),
                    "objective.prompt",
                    "has no {pair}, and data.pair_column is given".into(),
                    "say where the second text goes, as in \"{text}? [MASK], {pair}\", or leave data.pair_column out",
                );
            }
        }
        let verbalizers = &objective.verbalizers;
        rule(
            verbalizers.len() >= 2,
            "objective.verbalizers",
            format!("{} label(s) have words", verbalizers.len()),
            "give each label the words that stand for it: positive = [\"great\"], negative = [\"terrible\"]",
        );
        for (label, words) in verbalizers {
            let key = format!("objective.verbalizers.{label}");
            rule(!words.is_empty(), &key, "has no word".into(), "give at least one");
            let blank = words.iter().any(|word| word.trim().is_empty());
            rule(!blank, &key, "has an empty word".into(), "leave it out");
        }
        rule(
            data.label_column.is_some(),
            "data.label_column",
            "is missing".into(),
            "name the column that holds the class",
        );
        rule(
            objective.labels.is_empty(),
            "objective.labels",
            "are those of objective.verbalizers".into(),
            "leave them out",
        );
    }
}
