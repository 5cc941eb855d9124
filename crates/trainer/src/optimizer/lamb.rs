//! LAMB (You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2), in NVIDIA's reading: the trust
//! ratio is taken only where there is weight decay; bias and LayerNorm get a plain Adam step.

use super::{Update, adam_direction};
use tch::Tensor;

/// u = m̂ / (√v̂ + ε) + λ p;  p ← p − lr · (‖p‖ / ‖u‖) · u
pub(super) fn apply(
    tensor: &mut Tensor,
    gradient: &Tensor,
    first: &mut Tensor,
    second: &mut Tensor,
    update: &Update<'_>,
) {
    let mut direction = adam_direction(gradient, first, second, update);
    let mut ratio = 1.0;
    if update.weight_decay > 0.0 {
        let mut decay = tensor.copy();
        let _ = direction.g_add_(&decay.g_mul_scalar_(update.weight_decay));
        let (weight, step) = (tensor.norm().double_value(&[]), direction.norm().double_value(&[]));
        if weight > 0.0 && step > 0.0 {
            ratio = weight / step;
        }
    }
    let _ = tensor.g_sub_(&direction.g_mul_scalar_(update.learning_rate * ratio));
}
