//! AdamW (Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2).

use super::{Update, adam_direction};
use tch::Tensor;

/// p ← p − lr · (m̂ / (√v̂ + ε) + λ p)
pub(super) fn apply(
    tensor: &mut Tensor,
    gradient: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    update: &Update<'_>,
) {
    if update.weight_decay > 0.0 {
        let _ = tensor.g_mul_scalar_(1.0 - update.learning_rate * update.weight_decay);
    }
    let mut direction = adam_direction(gradient, first, second, update);
    let _ = tensor.g_sub_(&direction.g_mul_scalar_(update.learning_rate));
}
