//! Mean and deviation of what a sweep's completed runs measured.

use super::Stand;
use proto::v1;
use std::collections::BTreeMap;

/// The combinations in order, and which is best by `metric`.
pub(super) fn of(metric: &str, stands: &[Stand]) -> (Vec<v1::SweepCombination>, Option<u32>) {
    let mut combinations: BTreeMap<u32, Vec<&Stand>> = BTreeMap::new();
    for stand in stands {
        combinations.entry(stand.place.combination).or_default().push(stand);
    }
    let combinations: Vec<v1::SweepCombination> =
        combinations.into_iter().map(|(number, stands)| combination(number, &stands)).collect();
    let of_metric = combinations.iter().filter_map(|it| {
        let found = it.statistics.iter().find(|statistic| statistic.key == metric)?;
        Some((it.number, if config::lower_is_better(metric) { found.mean } else { -found.mean }))
    });
    // The first of equals.
    let best = of_metric.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(number, _)| number);
    (combinations, best)
}

fn combination(number: u32, stands: &[&Stand]) -> v1::SweepCombination {
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for metric in stands.iter().flat_map(|stand| &stand.metrics) {
        if metric.value.is_finite() {
            values.entry(&metric.key).or_default().push(metric.value);
        }
    }
    let settings = stands.first().map(|stand| stand.place.settings.clone()).unwrap_or_default();
    v1::SweepCombination {
        number,
        settings: settings.into_iter().map(|(key, value)| v1::SweepSetting { key, value }).collect(),
        runs: count(stands.len()),
        completed: count(stands.iter().filter(|stand| stand.row.status == "completed").count()),
        statistics: values.into_iter().map(|(key, values)| statistic(key, &values)).collect(),
    }
}

/// Mean and standard deviation of the sample, with n - 1; of one value there is no deviation.
fn statistic(key: &str, values: &[f64]) -> v1::SweepStatistic {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
    v1::SweepStatistic { key: key.to_owned(), n: count(values.len()), mean, deviation }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        // Python: statistics.stdev([0.8, 0.9, 0.85, 0.7]) = 0.08539125638299665
        let found = statistic("eval/accuracy", &[0.8, 0.9, 0.85, 0.7]);
        assert!((found.mean - 0.8125).abs() < 1e-15 && found.n == 4);
        assert!((found.deviation.unwrap() - 0.085_391_256_382_996_65).abs() < 1e-15);
        assert_eq!(statistic("eval/accuracy", &[0.5]).deviation, None);
        assert_eq!(statistic("eval/accuracy", &[0.5, 0.5]).deviation, Some(0.0));
    }
}
