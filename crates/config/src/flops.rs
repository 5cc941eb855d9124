//! How many floating-point operations a training step needs, by formula.
//!
//! Only matrix products are counted, a multiplication and an addition as two operations, and the backward pass as twice
//! the forward pass: one product for the inputs' gradients, one for the weights'. Softmax, LayerNorm, GELU, dropout,
//! the optimizer and what is computed twice are not counted, so a share of the machine's peak that follows from this
//! is a lower bound. With width h, inner width i, sequence length s, vocabulary V and L layers, a token costs forward:
//!
//! - layers: L · (8·h² + 4·h·i), or 6·h·i where the inner layer is gated: queries, keys, values and output; two or
//!   three inner products
//! - attention: L · 4·s·h, the scores and the weighted sum; where a layer sees only a window, s is that
//! - the head, only at the share m of positions that are predicted: m · (2·h² + 2·h·V)
//! - the pooler and next sentence, once a sequence: (2·h² + 4·h) / s

use crate::{Architecture, ModelShape};

/// What is predicted.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// Tokens in a sequence.
    pub sequence_length: usize,
    /// Masked positions in one sequence.
    pub predicted: usize,
    /// Whether a pooled sequence is classified too.
    pub next_sentence: bool,
}

/// Forward and backward, for one token of a full sequence.
pub fn of_token(shape: &ModelShape, objective: Objective) -> f64 {
    let ModelShape { hidden, intermediate, layers, vocabulary, .. } = *shape;
    let [hidden, inner, layers, vocabulary] = [hidden, intermediate, layers, vocabulary].map(|number| number as f64);
    let length = objective.sequence_length as f64;
    let inner_products = if shape.architecture == Architecture::Modern { 6.0 } else { 4.0 };
    let layer = 8.0 * hidden * hidden + inner_products * hidden * inner;
    let seen = (0..shape.layers).map(|layer| match shape.local_attention {
        Some(local) if local.is_local(layer) => length.min((2 * local.reach() + 1) as f64),
        _ => length,
    });
    let attention = seen.map(|seen| 4.0 * seen * hidden).sum::<f64>();
    let head = objective.predicted as f64 / length * (2.0 * hidden * hidden + 2.0 * hidden * vocabulary);
    let pooler = if objective.next_sentence { (2.0 * hidden * hidden + 4.0 * hidden) / length } else { 0.0 };
    3.0 * (layers * layer + attention + head + pooler)
}

/// As the masker chooses them: the mean over sequences would be a little off, this is what it does.
pub fn predicted(mask_rate: f64, sequence_length: usize) -> usize {
    ((mask_rate * sequence_length as f64).round_ties_even() as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelConfig, ModelSize};

    fn millions(size: ModelSize, architecture: Architecture, sequence_length: usize) -> f64 {
        let config = ModelConfig { size, architecture, ..ModelConfig::default() };
        let shape = config.shape(30_522, sequence_length as i64);
        let predicted = predicted(0.15, sequence_length);
        of_token(&shape, Objective { sequence_length, predicted, next_sentence: true }) / 1e6
    }

    #[test]
    fn the_masker_s_number_of_predictions() {
        assert_eq!(predicted(0.15, 128), 19);
        assert_eq!(predicted(0.15, 512), 77);
        assert_eq!(predicted(0.15, 2), 1);
    }

    #[test]
    fn published_sizes() {
        // By hand: 4 layers of 1,572,864 + 131,072, 19 of 128 positions of 131,072 + 15,628,288, pooler 132,096 / 128.
        let by_hand = 3.0 * (4.0 * 1_703_936.0 + 19.0 / 128.0 * 15_759_360.0 + 132_096.0 / 128.0) / 1e6;
        // The vocabulary's rows are padded to a multiple of 8.
        let found = millions(ModelSize::Mini, Architecture::Bert, 128);
        assert!((found - by_hand).abs() < 0.01, "{found} beside {by_hand}");
        let base = millions(ModelSize::Base, Architecture::Bert, 128);
        assert!((540.0..550.0).contains(&base), "{base}");
        // Four times the attention: 12 layers of 4 · 384 · 768 more, three times.
        let longer = millions(ModelSize::Base, Architecture::Bert, 512) - base;
        assert!((longer - 42.5).abs() < 1.0, "{longer}");
    }

    #[test]
    fn a_window_costs_what_it_shows() {
        let config = ModelConfig { architecture: Architecture::Modern, ..ModelConfig::default() };
        let local = ModelConfig { global_attn_every_n_layers: Some(2), local_attention: Some(64), ..config.clone() };
        let of = |config: &ModelConfig, sequence_length| {
            let objective = Objective { sequence_length, predicted: 1, next_sentence: false };
            of_token(&config.shape(1000, 1024), objective)
        };
        // Two of four layers see 65 of 1,024 positions, and all of 32.
        assert_eq!(of(&config, 1024) - of(&local, 1024), 3.0 * 2.0 * 4.0 * 256.0 * (1024.0 - 65.0));
        assert_eq!(of(&config, 32), of(&local, 32));
    }

    #[test]
    fn a_gate_costs_half_as_much_again() {
        let config = ModelConfig { intermediate: Some(512), ..ModelConfig::default() };
        let plain = config.shape(1000, 64);
        let gated = ModelConfig { architecture: Architecture::Modern, ..config }.shape(1000, 64);
        let objective = Objective { sequence_length: 64, predicted: 10, next_sentence: false };
        let more = of_token(&gated, objective) - of_token(&plain, objective);
        assert_eq!(more, 3.0 * 4.0 * 2.0 * 256.0 * 512.0);
    }
}
