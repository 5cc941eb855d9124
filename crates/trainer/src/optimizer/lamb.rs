//! LAMB (You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2), in NVIDIA's reading: the trust
//! ratio is taken only where there is weight decay; bias and LayerNorm get a plain Adam step.

use config::OptimizerConfig;
use tch::Tensor;

/// What an update needs beside gradient and state.
pub(super) struct Update<'a> {
    pub config: &'a OptimizerConfig,
    /// Of this step.
    pub learning_rate: f64,
    /// Of this parameter; 0 for biases and LayerNorm.
    pub weight_decay: f64,
    /// The t of the bias correction, from 1.
    pub updates: u64,
}

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

/// Both moments move towards the gradient; returns Adam's direction m̂ / (√v̂ + ε) in a new tensor.
fn adam_direction(gradient: &Tensor, first: &mut Tensor, second: &mut Tensor, update: &Update<'_>) -> Tensor {
    let config = update.config;
    let corrections = if config.bias_correction {
        let power = i32::try_from(update.updates).unwrap_or(i32::MAX);
        (1.0 - config.beta1.powi(power), 1.0 - config.beta2.powi(power))
    } else {
        (1.0, 1.0)
    };
    let _ = first.lerp_(gradient, 1.0 - config.beta1);
    let mut square = gradient * gradient;
    let _ = square.g_mul_scalar_(1.0 - config.beta2);
    let _ = second.g_mul_scalar_(config.beta2).g_add_(&square);
    // The squares are of no more use: their memory becomes the direction's.
    let mut direction = square;
    direction.copy_(second);
    let _ = direction.sqrt_().g_div_scalar_(corrections.1.sqrt()).g_add_scalar_(config.epsilon);
    let _ = direction.reciprocal_().g_mul_(first).g_div_scalar_(corrections.0);
    direction
}
