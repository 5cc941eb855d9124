//! Torch's fused AdamW step: one pass over parameter, gradient and both moments.

use tch::Tensor;

use crate::ffi;
use crate::native::{self, NativeError, pointers};

/// The numbers of one AdamW step (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", Algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// The number of this step, counted from 1.
    pub step: u64,
    /// Step size, the schedule's factor included.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Divide the moments by `1 - beta^step`. BERT's own optimizer does not.
    pub bias_correction: bool,
}

/// Updates parameters and both moments in place. All four lists go together; all tensors are float32 on one device.
pub fn fused_adamw(
    parameters: &[Tensor],
    gradients: &[Tensor],
    averages: &[Tensor],
    square_averages: &[Tensor],
    numbers: &AdamW,
) -> Result<(), NativeError> {
    let count = parameters.len();
    if [gradients, averages, square_averages].iter().any(|list| list.len() != count) {
        return Err(NativeError(format!(
            "AdamW got {count} parameters, {} gradients, {} and {} moments",
            gradients.len(),
            averages.len(),
            square_averages.len()
        )));
    }
    // torch has no switch for the correction, but its factor is exactly 1 in the limit.
    let step = if numbers.bias_correction { numbers.step as f64 } else { 1e30 };
    // SAFETY: four lists of `count` live tensors; torch checks shapes, kinds and devices.
    unsafe {
        native::check(ffi::tr_fused_adamw(
            pointers(parameters).as_ptr(),
            pointers(gradients).as_ptr(),
            pointers(averages).as_ptr(),
            pointers(square_averages).as_ptr(),
            count,
            step,
            numbers.learning_rate,
            numbers.beta1,
            numbers.beta2,
            numbers.weight_decay,
            numbers.epsilon,
        ))
    }
}
