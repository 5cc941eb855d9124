//! What folds and sweeps ask for.

use crate::RunConfig;
use crate::sweep::SWEEP_RUNS_MAX;

/// What a sweep itself chooses, or what would make its runs no longer comparable.
const NOT_VARIED: [(&str, &str); 4] = [
    ("run.seed", "`sweep.seeds` gives each combination several seeds"),
    ("run.name", "the runs are named after the sweep"),
    ("data.fold", "`sweep.folds` holds out one fold after the other"),
    ("data.folds", "`sweep.folds` holds out one fold after the other"),
];

impl RunConfig {
    pub(super) fn check_folds(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let data = &self.data;
        for (key, given, other, missing) in [
            ("data.fold", data.fold.is_some(), "data.folds", data.folds.is_none()),
            ("data.folds", data.folds.is_some(), "data.fold", data.fold.is_none()),
        ] {
            let help = "give both, or neither; `coordinator sweep submit --folds` holds out one fold after the other";
            rule(!given || !missing, key, format!("needs `{other}`"), help);
        }
        if let (Some(fold), Some(folds)) = (data.fold, data.folds) {
            rule(folds >= 2, "data.folds", format!("{folds} leaves nothing to train on"), "5 or 10 is usual");
            rule(fold < folds, "data.fold", format!("{fold} is none of the {folds} folds"), "folds are counted from 0");
            rule(
                self.objective.kind.is_supervised(),
                "data.folds",
                "is for labelled data only".into(),
                "leave data.fold and data.folds out, or set run.kind = \"finetune\"",
            );
            rule(
                data.eval_paths.is_empty(),
                "data.folds",
                "does not go with data.eval_paths: both say what is held out".into(),
                "leave one of them out",
            );
        }
    }

    pub(super) fn check_sweep(&self, rule: &mut impl FnMut(bool, &str, String, &str)) {
        let Some(sweep) = &self.sweep else { return };
        rule(sweep.seeds > 0, "sweep.seeds", "is 0".into(), "1 runs each combination once");
        rule(
            i64::try_from(self.run.seed.saturating_add(u64::from(sweep.seeds))).is_ok(),
            "sweep.seeds",
            format!("{} seeds after run.seed = {} are more than there are", sweep.seeds, self.run.seed),
            "lower run.seed",
        );
        if let Some(folds) = sweep.folds {
            rule(folds >= 2, "sweep.folds", format!("{folds} leaves nothing to train on"), "5 or 10 is usual");
            rule(
                self.objective.kind.is_supervised(),
                "sweep.folds",
                "is for labelled data only".into(),
                "leave it out, or set run.kind = \"finetune\"",
            );
            rule(
                self.data.eval_paths.is_empty(),
                "sweep.folds",
                "does not go with data.eval_paths: both say what is held out".into(),
                "leave one of them out",
            );
            rule(
                self.data.fold.is_none() && self.data.folds.is_none(),
                "sweep.folds",
                "does not go with data.fold and data.folds, which it sets".into(),
                "leave those out",
            );
        }
        if let Some(metric) = &sweep.metric {
            rule(
                metric.strip_prefix("eval/").is_some_and(|name| !name.is_empty()),
                "sweep.metric",
                format!("`{metric}` is measured of no held-out data"),
                "name one of those that begin with `eval/`, such as `eval/accuracy`",
            );
        }
        match sweep.axes() {
            Err(problem) => rule(false, &problem.key, problem.message, problem.help.as_deref().unwrap_or_default()),
            Ok(axes) => {
                for (key, _) in &axes {
                    let refused = NOT_VARIED.iter().find(|(name, _)| name == key);
                    let help = refused.map_or("leave it out", |(_, help)| *help);
                    let ours = key == "sweep" || key.starts_with("sweep.");
                    rule(refused.is_none() && !ours, "sweep.vary", format!("`{key}` cannot be varied"), help);
                }
                let runs = sweep.runs(&axes);
                rule(
                    runs <= SWEEP_RUNS_MAX,
                    "sweep",
                    format!("these are {runs} runs, and {SWEEP_RUNS_MAX} is the most"),
                    "give fewer values, seeds or folds",
                );
            }
        }
    }
}
