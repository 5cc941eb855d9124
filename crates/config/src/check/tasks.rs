//! What fine-tuning asks for.

use crate::{DataFormat, ObjectiveKind, RunConfig};

/// `[CLS]` and two `[SEP]`.
const SPECIAL_TOKENS: usize = 3;
/// A window of less passage tells a model little.
const PASSAGE_TOKENS_MIN: usize = 4;

impl RunConfig {
    pub(super) fn check_tasks(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let (objective, data) = (&self.objective, &self.data);
        let kind = objective.kind;
        let answers = kind == ObjectiveKind::Answer;
        let classifies = kind == ObjectiveKind::Classify;
        for (key, given, fits, of) in [
            ("objective.regression", objective.regression, classifies, "classify"),
            ("objective.stride", objective.stride.is_some(), answers, "answer"),
            ("objective.max_question_length", objective.max_question_length.is_some(), answers, "answer"),
            ("objective.max_answer_length", objective.max_answer_length.is_some(), answers, "answer"),
            ("objective.no_answer_threshold", objective.no_answer_threshold.is_some(), answers, "answer"),
            ("objective.similarity_scale", objective.similarity_scale.is_some(), kind == ObjectiveKind::Match, "match"),
        ] {
            rule(fits || !given, key, format!("is for objective.kind = \"{of}\""), "leave it out");
        }
        rule(
            data.group_column.is_none() || kind.is_supervised(),
            "data.group_column",
            "is for labelled data only".into(),
            "leave it out, or set run.kind = \"finetune\"",
        );
        rule(
            data.format != Some(DataFormat::Squad) || answers,
            "data.format",
            "`squad` holds questions and answers".into(),
            "set objective.kind = \"answer\", or give other files",
        );
        rule(
            data.format != Some(DataFormat::Conll) || kind == ObjectiveKind::Tag,
            "data.format",
            "`conll` holds words and tags".into(),
            "set objective.kind = \"tag\", or give other files",
        );
        rule(
            !objective.regression || objective.labels.is_empty(),
            "objective.labels",
            "are for classes, and objective.regression learns numbers".into(),
            "leave them out",
        );
        rule(
            objective.labels.is_empty() || !matches!(kind, ObjectiveKind::Answer | ObjectiveKind::Match),
            "objective.labels",
            "are for objective.kind = \"classify\" and \"tag\"".into(),
            "leave them out",
        );
        let other =
            objective.labels.iter().find(|label| kind == ObjectiveKind::Tag && !objective.tag_scheme.has(label));
        rule(
            other.is_none(),
            "objective.labels",
            format!("`{}` is no tag of `bio`, which are O, B-X and I-X", other.map_or("", String::as_str)),
            "correct it, or set objective.tag_scheme = \"plain\"",
        );
        rule(
            kind != ObjectiveKind::Match || data.label_column.is_none(),
            "data.label_column",
            "is not for `match`: there the two texts of every row belong together".into(),
            "leave it out, and the rows whose texts do not; or learn the labels with objective.kind = \"classify\"",
        );
        if answers {
            self.check_answers(rule);
        }
        if kind == ObjectiveKind::Match {
            rule(
                data.pair_column.is_some(),
                "data.pair_column",
                "is missing".into(),
                "name the column of the text that goes with the one of data.column",
            );
            rule(
                self.batch.micro_batch > 1,
                "batch.micro_batch",
                format!("{} leaves no other pair to tell a pair from", self.batch.micro_batch),
                "the other pairs of a micro-batch are what a text must not be near: 16 or more is usual",
            );
            let scale = objective.similarity_scale.unwrap_or(20.0);
            rule(
                scale.is_finite() && scale > 0.0,
                "objective.similarity_scale",
                format!("{scale} is not a positive number"),
                "leave it out for 20",
            );
        }
    }

    fn check_answers(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let objective = &self.objective;
        let windows = objective.windows(self.batch.sequence_length);
        let room = self.batch.sequence_length.saturating_sub(SPECIAL_TOKENS + windows.question_length);
        rule(
            windows.question_length > 0 && room >= PASSAGE_TOKENS_MIN,
            "objective.max_question_length",
            format!(
                "{} of batch.sequence_length = {} leaves {room} tokens for the passage",
                windows.question_length, self.batch.sequence_length
            ),
            "64 of 384 is usual; lengthen the sequence",
        );
        rule(
            (1..=room.max(1)).contains(&windows.stride),
            "objective.stride",
            format!("{} is not between 1 and the {room} tokens of the passage in a window", windows.stride),
            "128 of 384 is usual: windows must overlap or touch",
        );
        rule(objective.max_answer_length != Some(0), "objective.max_answer_length", "is 0".into(), "30 is usual");
        rule(
            objective.no_answer_threshold.is_none_or(f64::is_finite),
            "objective.no_answer_threshold",
            "is not a number".into(),
            "0 compares the scores as they are",
        );
    }
}
