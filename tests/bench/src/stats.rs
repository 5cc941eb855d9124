//! Medians, spreads and percentiles of what was measured.

/// The middle value, or the mean of the two in the middle.
///
/// # Panics
/// If there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// The interquartile range, as a part of the median. None for fewer than four values, which have no quarters.
pub fn spread(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted.len() >= 4).then(|| (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / quantile(&sorted, 0.5))
}

/// The larger spread of several groups of values, where all of them have one.
pub fn widest(groups: &[&[f64]]) -> Option<f64> {
    groups.iter().map(|values| spread(values)).collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)
}

/// The least of ascending values that is not below this share of them.
///
/// # Panics
/// If there is none.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    assert!(!sorted.is_empty(), "nothing was measured");
    sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1]
}

/// Of ascending values; between two neighbours in proportion.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    assert!(!sorted.is_empty(), "nothing was measured");
    let place = (sorted.len() - 1) as f64 * share;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn a_spread_is_that_of_the_middle_half() {
        assert_eq!(spread(&[1.0, 2.0, 3.0]), None);
        assert_eq!(spread(&[5.0; 8]), Some(0.0));
        // Quarters at 2 and 4, and one value that is out of the way.
        assert_eq!(spread(&[400.0, 1.0, 2.0, 3.0, 4.0]), Some(2.0 / 3.0));
        assert_eq!(widest(&[&[5.0; 8], &[400.0, 1.0, 2.0, 3.0, 4.0]]), Some(2.0 / 3.0));
        assert_eq!(widest(&[&[5.0; 8], &[1.0]]), None);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.99), 198.0);
        assert_eq!(percentile(&values, 0.5), 100.0);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }
}
