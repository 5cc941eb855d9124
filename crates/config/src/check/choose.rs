//! What multiple choice asks for.

use crate::{CHOICES_MAX, ObjectiveKind, RunConfig};

impl RunConfig {
    pub(super) fn check_choose(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let (objective, data) = (&self.objective, &self.data);
        let columns = &data.choice_columns;
        if objective.kind != ObjectiveKind::Choose {
            let given = !columns.is_empty();
            for (given, key) in [(given, "data.choice_columns"), (data.first_choice != 0, "data.first_choice")] {
                rule(!given, key, "is for objective.kind = \"choose\"".into(), "leave it out");
            }
            return;
        }
        rule(
            !columns.is_empty(),
            "data.choice_columns",
            "is missing".into(),
            "name the column that holds the list of choices, [\"choices\"], or a column for each, [\"ending0\", \"ending1\"]",
        );
        rule(
            columns.len() <= CHOICES_MAX,
            "data.choice_columns",
            format!("names {} columns, and a row has {CHOICES_MAX} choices at most", columns.len()),
            "leave some out",
        );
        rule(
            data.first_choice <= 1,
            "data.first_choice",
            format!("is {}", data.first_choice),
            "labels count the choices from 0, or from 1",
        );
        let others =
            [Some(&data.column), data.pair_column.as_ref(), data.label_column.as_ref(), data.group_column.as_ref()];
        let taken = |at: usize| columns[..at].contains(&columns[at]) || others.contains(&Some(&columns[at]));
        let twice = (0..columns.len()).find(|at| taken(*at));
        rule(
            twice.is_none(),
            "data.choice_columns",
            format!("`{}` is named twice in [data]", twice.map_or("", |at| &columns[at])),
            "each column holds one thing",
        );
        rule(
            data.label_column.is_some(),
            "data.label_column",
            "is missing".into(),
            "name the column that says which choice is right",
        );
        rule(
            objective.labels.is_empty(),
            "objective.labels",
            "are for objective.kind = \"classify\" and \"tag\": here each row has choices of its own".into(),
            "leave them out",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::{EvalConfig, Reading, parse};

    const GOOD: &str = r#"
        run = { name = "chooser", kind = "finetune", steps = 10 }
        data = { paths = ["a.jsonl"], pair_column = "question", choice_columns = ["choices"], label_column = "label" }
        tokenizer = { path = "tokenizer.json" }
        objective = { kind = "choose" }
        batch = { slots = 1, micro_batch = 8, sequence_length = 128 }
    "#;

    #[test]
    fn a_good_config_says_how_it_is_measured_and_read() {
        let config = parse("", GOOD).unwrap().check("").unwrap();
        assert_eq!(config.objective.measured(), ["loss", "accuracy"]);
        assert_eq!((config.eval.best_metric.as_str(), config.sweep_metric().as_str()), ("loss", "eval/accuracy"));
        assert_eq!(config.eval, EvalConfig::default());
        assert!(Reading::of(&config).pairs);
        let best = format!("{GOOD}eval = {{ best_metric = \"accuracy\" }}\ncheckpoint = {{ every_steps = 5 }}\n");
        let best = best.replace("steps = 10", "steps = 10, seed = 2");
        assert!(parse("", &best).unwrap().check("").unwrap().eval.greater_is_better());
        let bare = GOOD.replace(r#"pair_column = "question", "#, "");
        assert!(!Reading::of(&parse("", &bare).unwrap()).pairs);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many: Vec<String> = (0..27).map(|at| format!("\"c{at}\"")).collect();
        let many = format!("[{}]", many.join(", "));
        for (old, new, parts) in [
            (r#"choice_columns = ["choices"], "#, "", ["`data.choice_columns`: is missing", "ending0"]),
            (r#"["choices"]"#, &many, ["names 27 columns", "26 choices at most"]),
            (r#"["choices"]"#, r#"["a", "b", "a"]"#, ["`data.choice_columns`: `a` is named twice", "one thing"]),
            (r#"["choices"]"#, r#"["a", "label"]"#, ["`label` is named twice", "one thing"]),
            (r#"["choices"]"#, r#"["choices"], group_column = "choices""#, ["`choices` is named twice", "one thing"]),
            (r#"["choices"]"#, r#"["choices"], first_choice = 2"#, ["`data.first_choice`: is 2", "from 0, or from 1"]),
            (r#", label_column = "label""#, "", ["`data.label_column`: is missing", "which choice is right"]),
            (r#""choose""#, r#""choose", labels = ["a", "b"]"#, ["`objective.labels`", "choices of its own"]),
            (r#""choose""#, r#""choose", pooling = "mean""#, ["`objective.pooling`: `mean`", "`modern` alone"]),
            (r#""choose""#, r#""classify""#, ["`data.choice_columns`: is for objective.kind = \"choose\"", "leave it"]),
            (r#""finetune""#, r#""pretrain""#, ["`objective.kind`: does not go with run.kind", "`choose`"]),
            (r#""choose""#, r#""choose", stride = 4"#, ["`objective.stride`: is for", "answer"]),
        ] {
            let config = parse("chooser.toml", &GOOD.replace(old, new)).unwrap();
            let text = config.check("chooser.toml").unwrap_err().to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{old} → {new}: {text}");
        }
        let modern =
            GOOD.replace(r#""choose" }"#, "\"choose\", pooling = \"mean\" }\nmodel = { architecture = \"modern\" }");
        assert!(parse("", &modern).unwrap().check("").is_ok());
    }
}
