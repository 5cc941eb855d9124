//! How well numbers follow numbers, as scipy computes it.

/// Pearson's correlation (`scipy.stats.pearsonr`); None where one side does not vary, or there are fewer than two.
pub fn pearson(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    assert_eq!(truth.len(), predicted.len(), "a prediction for each truth");
    if truth.len() < 2 {
        return None;
    }
    let centred = |values: &[f64]| -> Option<Vec<f64>> {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let centred: Vec<f64> = values.iter().map(|value| value - mean).collect();
        // Scaled first, so that squares neither overflow nor vanish.
        let largest = centred.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let norm = largest * centred.iter().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt();
        let varies = norm.is_finite() && norm > 0.0 && values.iter().any(|value| *value != values[0]);
        varies.then(|| centred.iter().map(|value| value / norm).collect())
    };
    let (truth, predicted) = (centred(truth)?, centred(predicted)?);
    let product: f64 = truth.iter().zip(&predicted).map(|(a, b)| a * b).sum();
    Some(product.clamp(-1.0, 1.0))
}

/// Spearman's correlation (`scipy.stats.spearmanr`): that of the ranks, equal numbers sharing the mean of theirs.
pub fn spearman(truth: &[f64], predicted: &[f64]) -> Option<f64> {
    pearson(&ranks(truth), &ranks(predicted))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && values[order[end]] == values[order[start]] {
            end += 1;
        }
        for &index in &order[start..end] {
            // Ranks start + 1 to end.
            ranks[index] = (start + 1 + end) as f64 / 2.0;
        }
        start = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_vary_does_not_correlate() {
        assert_eq!((pearson(&[1.0, 1.0], &[1.0, 2.0]), pearson(&[1.0], &[1.0]), pearson(&[], &[])), (None, None, None));
        assert_eq!(spearman(&[1.0, 2.0, 2.0], &[3.0, 3.0, 3.0]), None);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
    }
}
