//! `[sweep]`: one config, several runs that are compared.

use crate::error::Problem;
use crate::load::{from_values, set};
use crate::{CheckedConfig, ConfigError, ObjectiveKind, RunConfig, TagScheme};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// More runs than this are no comparison that anybody waits for.
pub(crate) const SWEEP_RUNS_MAX: u64 = 1000;

/// Several runs of one config, submitted together: every combination of the values in `vary`, with every seed and every
/// fold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SweepConfig {
    /// Each combination runs with so many seeds: `run.seed`, `run.seed + 1`, and so on.
    pub seeds: u32,
    /// Each combination and seed runs once for each of so many folds (`data.folds`), so that every row is held out once.
    /// Labelled data only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    /// The held-out metric that says which combination is best, such as `eval/macro_f1`: losses and perplexities are
    /// better low, all others high. Default: the objective's own, such as `eval/accuracy` for `classify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Keys, each with the list of the values that it takes: `optimizer.learning_rate = [1e-5, 3e-5]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub vary: BTreeMap<String, Value>,
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self { seeds: 1, folds: None, metric: None, vary: BTreeMap::new() }
    }
}

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepPoint {
    /// Which combination of values, from 0.
    pub combination: u32,
    /// The values of that combination: key and TOML value.
    pub settings: Vec<(String, String)>,
    /// `run.seed`
    pub seed: u64,
    /// `data.fold`
    pub fold: Option<u32>,
    /// The run's config. It has no `[sweep]`.
    pub config: CheckedConfig,
}

/// Whether less of a metric is better.
pub fn lower_is_better(metric: &str) -> bool {
    metric.ends_with("loss") || metric.ends_with("perplexity")
}

impl SweepConfig {
    /// The varied keys in order, each with its values.
    pub(crate) fn axes(&self) -> Result<Vec<(String, &[Value])>, Problem> {
        fn flatten<'a>(
            prefix: &str,
            key: &str,
            value: &'a Value,
            axes: &mut Vec<(String, &'a [Value])>,
        ) -> Result<(), Problem> {
            let key = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) => inner.iter().try_for_each(|(name, value)| flatten(&key, name, value, axes)),
                Value::Array(values) if !values.is_empty() => {
                    let is_known =
                        |(at, value): &(usize, &Value)| values[..*at].iter().any(|earlier| is_same(earlier, value));
                    if let Some((_, value)) = values.iter().enumerate().find(is_known) {
                        let message = format!("`{key}` takes {value} twice: the same runs twice");
                        return Err(Problem::at_key("sweep.vary", message, "leave one of them out"));
                    }
                    axes.push((key, values));
                    Ok(())
                }
                _ => Err(Problem::at_key(
                    "sweep.vary",
                    format!("`{key}` has no list of values"),
                    format!("write `{key} = [{value}, …]`; what all runs share goes into its own section"),
                )),
            }
        }
        let mut axes = Vec::new();
        self.vary.iter().try_for_each(|(key, value)| flatten("", key, value, &mut axes))?;
        // `a.b` in quotes and `b` in the table `a` are the same key.
        axes.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = axes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let message = format!("`{}` stands there twice", pair[0].0);
            return Err(Problem::at_key("sweep.vary", message, "leave one of them out"));
        }
        Ok(axes)
    }

    /// How many runs.
    pub(crate) fn runs(&self, axes: &[(String, &[Value])]) -> u64 {
        let combinations = axes.iter().fold(1_u64, |all, (_, values)| all.saturating_mul(values.len() as u64));
        combinations.saturating_mul(u64::from(self.seeds)).saturating_mul(u64::from(self.folds.unwrap_or(1)))
    }
}

/// Whether a key that takes one of the values would be the same with the other.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Integer(whole), Value::Float(number)) | (Value::Float(number), Value::Integer(whole)) => {
            *whole as f64 == *number
        }
        (Value::Array(ones), Value::Array(others)) => {
            ones.len() == others.len() && ones.iter().zip(others).all(|(one, other)| is_same(one, other))
        }
        _ => one == other,
    }
}

impl CheckedConfig {
    /// By which metric a sweep's combinations are compared.
    pub fn sweep_metric(&self) -> String {
        let told = self.sweep.as_ref().and_then(|sweep| sweep.metric.clone());
        let told = told.map(|metric| if metric.starts_with("eval/") { metric } else { format!("eval/{metric}") });
        told.unwrap_or_else(|| {
            let objective = &self.objective;
            let metric = match objective.kind {
                ObjectiveKind::Classify if objective.regression => "eval/spearman",
                ObjectiveKind::Tag if objective.tag_scheme == TagScheme::Bio => "eval/entity_f1",
                ObjectiveKind::Answer => "eval/f1",
                kind if kind.is_supervised() => "eval/accuracy",
                _ => "eval/loss",
            };
            metric.to_owned()
        })
    }

    /// The runs of a sweep: for each combination each seed, and for each seed each fold. Without `[sweep]` none.
    ///
    /// # Errors
    /// A combination that is no valid config: named with its values.
    pub fn sweep_points(&self, source_name: &str) -> Result<Vec<SweepPoint>, ConfigError> {
        let Some(sweep) = &self.sweep else { return Ok(Vec::new()) };
        let failed = |problem| ConfigError { source_name: source_name.to_owned(), problems: vec![problem] };
        let axes = sweep.axes().map_err(failed)?;
        let base = Table::try_from(RunConfig { sweep: None, ..RunConfig::clone(self) });
        let base = base.expect("a config is always expressible as TOML");
        let combinations: usize = axes.iter().map(|(_, values)| values.len()).product();
        let mut points = Vec::new();
        for combination in 0..combinations {
            let settings = settings(&axes, combination);
            let named: Vec<String> = settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            let place = if named.is_empty() {
                source_name.to_owned()
            } else {
                format!("{source_name}, with {}", named.join(", "))
            };
            for seed in (self.run.seed..).take(sweep.seeds as usize) {
                let folds: Vec<Option<u32>> =
                    sweep.folds.map_or_else(|| vec![None], |folds| (0..folds).map(Some).collect());
                for fold in folds {
                    let mut table = base.clone();
                    for (key, value) in &settings {
                        set(&mut table, key, (*value).clone()).map_err(failed)?;
                    }
                    let mut name = self.run.name.clone();
                    if combinations > 1 {
                        name.push_str(&format!("-c{combination}"));
                    }
                    if sweep.seeds > 1 {
                        name.push_str(&format!("-s{seed}"));
                    }
                    if let Some(fold) = fold {
                        name.push_str(&format!("-f{fold}"));
                    }
                    let mut config = from_values(&place, table)?;
                    config.run.name = name;
                    config.run.seed = seed;
                    if fold.is_some() {
                        (config.data.fold, config.data.folds) = (fold, sweep.folds);
                    }
                    points.push(SweepPoint {
                        combination: combination as u32,
                        settings: settings.iter().map(|(key, value)| (key.clone(), value.to_string())).collect(),
                        seed,
                        fold,
                        config: config.check(&place)?,
                    });
                }
            }
        }
        Ok(points)
    }
}

/// The values of a combination; the last key's change first.
fn settings<'a>(axes: &[(String, &'a [Value])], combination: usize) -> Vec<(String, &'a Value)> {
    let mut rest = combination;
    let mut chosen: Vec<(String, &Value)> = Vec::with_capacity(axes.len());
    for (key, values) in axes.iter().rev() {
        chosen.push((key.clone(), &values[rest % values.len()]));
        rest /= values.len();
    }
    chosen.reverse();
    chosen
}
