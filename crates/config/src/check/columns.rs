//! That no column is taken for two things.

use crate::{ObjectiveKind, RunConfig};

impl RunConfig {
    pub(super) fn check_columns(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let (kind, data) = (self.objective.kind, &self.data);
        // What `answer` reads where a config names no column.
        let default = |column| (kind == ObjectiveKind::Answer).then_some(column);
        let text = ("data.column", Some(data.column.as_str()));
        let pair = ("data.pair_column", data.pair_column.as_deref().or(default("question")));
        let label = ("data.label_column", data.label_column.as_deref().or(default("answers")));
        let group = ("data.group_column", data.group_column.as_deref());
        // A text may be its own group. For `match` it may be its own pair: dropout makes two of it (SimCSE, Gao 2021).
        let own_pair = kind == ObjectiveKind::Match;
        for ((key, column), (other, it), fine) in
            [(pair, text, own_pair), (label, text, false), (label, pair, false), (group, label, false)]
        {
            rule(
                fine || column.is_none() || column != it,
                key,
                format!("is `{}`, and so is `{other}`", column.unwrap_or_default()),
                "name another column in one of the two: each holds one thing",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::parse;

    /// What is said of these columns; empty if they are good.
    fn said(kind: &str, columns: &str) -> String {
        let text = format!(
            "run = {{ name = \"twice\", kind = \"finetune\", steps = 10 }}\n\
             data = {{ paths = [\"a.jsonl\"], {columns} }}\n\
             tokenizer = {{ path = \"tokenizer.json\" }}\n\
             objective = {{ kind = \"{kind}\" }}\n\
             batch = {{ slots = 1, micro_batch = 8, sequence_length = 128 }}\n"
        );
        parse("", &text).unwrap().check("").err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_column_is_one_thing() {
        for (kind, columns, key, other) in [
            ("classify", r#"label_column = "text""#, "label", "`text`, and so is `data.column`"),
            ("tag", r#"column = "4", label_column = "4""#, "label", "`4`, and so is `data.column`"),
            ("classify", r#"label_column = "l", pair_column = "text""#, "pair", "`text`, and so is `data.column`"),
            ("classify", r#"label_column = "b", pair_column = "b""#, "label", "`b`, and so is `data.pair_column`"),
            ("classify", r#"label_column = "l", group_column = "l""#, "group", "`l`, and so is `data.label_column`"),
            ("answer", r#"column = "question""#, "pair", "`question`, and so is `data.column`"),
        ] {
            let text = said(kind, columns);
            assert!(text.contains(&format!("`data.{key}_column`: is {other}")), "{columns}: {text}");
            assert_eq!(text.matches("name another column in one of the two").count(), 1, "{columns}: {text}");
        }
    }

    #[test]
    fn a_text_may_be_its_own_group_and_its_own_pair() {
        for (kind, columns) in [
            ("classify", r#"label_column = "l", group_column = "text""#),
            ("answer", r#"column = "context", group_column = "context""#),
            ("match", r#"pair_column = "text""#),
        ] {
            assert_eq!(said(kind, columns), "", "{columns}");
        }
    }
}
