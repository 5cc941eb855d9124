//! Attention and non-linearities, shared by both architectures.

use crate::heads::dropout;
use config::Activation;
use tch::{Device, Kind, Tensor};

/// Scaled dot-product attention of `[batch, heads, length, head]` tensors; gives `[batch, length, heads × head]`.
/// `bias` is added to the scores: see [`padding_bias`].
pub(crate) fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    bias: Option<&Tensor>,
    dropout_probability: f64,
    train: bool,
) -> Tensor {
    let size = query.size();
    let (batch, heads, length, width) = (size[0], size[1], size[2], size[3]);
    let dropout_probability = if train { dropout_probability } else { 0.0 };
    let context = if dropout_probability > 0.0 && query.device() == Device::Cpu {
        // libtorch has no fused kernel with dropout on the processor; this is what its fallback does, without the
        // detours.
        let mut scores = (query * (width as f64).powf(-0.5)).matmul(&key.transpose(2, 3));
        if let Some(bias) = bias {
            scores += bias;
        }
        dropout(&scores.softmax(-1, Kind::Float), dropout_probability, true).matmul(value)
    } else {
        Tensor::scaled_dot_product_attention(query, key, value, bias, dropout_probability, false, None, false)
    };
    context.transpose(1, 2).reshape([batch, length, heads * width])
}

/// `[batch, 1, 1, length]`: 0 at real tokens; at padding a number so low that softmax gives exactly 0, and finite in
/// bfloat16 too, so that a row of padding alone stays finite.
pub(crate) fn padding_bias(mask: &Tensor) -> Tensor {
    let size = mask.size();
    Tensor::zeros(&size, (Kind::Float, mask.device()))
        .masked_fill(&mask.logical_not(), -1e30)
        .view([size[0], 1, 1, size[1]])
}

/// The configured non-linearity.
pub(crate) fn activate(input: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Gelu => input.gelu("none"),
        Activation::GeluNew => input.gelu("tanh"),
        Activation::Relu => input.relu(),
    }
}
