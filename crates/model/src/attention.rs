//! Attention and non-linearities, shared by both architectures.

use crate::heads::dropout;
use crate::rows::Rows;
use config::Activation;
use tch::{Device, Kind, Tensor};

/// Which tokens of a micro-batch see each other.
#[derive(Debug)]
pub(crate) enum Sight {
    /// Those of a row of `[batch, length]`. With what is added to the scores: see [`padding_bias`], [`window_bias`].
    Padded(Option<Tensor>),
    /// Those of rows that lie behind one another, within so many positions, or all of a row.
    Rows { rows: Rows, reach: Option<i64> },
}

impl Sight {
    /// Of a batch with or without padding, of a layer with this reach.
    pub fn new(mask: Option<&Tensor>, rows: Option<&Rows>, reach: Option<i64>, length: i64, device: Device) -> Self {
        if let Some(rows) = rows {
            return Self::Rows { rows: rows.shallow_clone(), reach };
        }
        let padding = mask.map(padding_bias);
        // Whoever sees the whole row anyway needs no window.
        let window = reach.filter(|reach| *reach + 1 < length).map(|reach| window_bias(length, reach, device));
        Self::Padded(match (padding, window) {
            (Some(padding), Some(window)) => Some(padding + window),
            (padding, window) => padding.or(window),
        })
    }

    /// For a closure that outlives the micro-batch's forward pass.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Padded(bias) => Self::Padded(bias.as_ref().map(Tensor::shallow_clone)),
            Self::Rows { rows, reach } => Self::Rows { rows: rows.shallow_clone(), reach: *reach },
        }
    }
}

/// [`attend`] of rows without padding: `[1, tokens, heads, head]` three times gives `[1, tokens, heads × head]`.
///
/// The CPU has a kernel for it. Elsewhere attention alone is padded: dense layers, norms and dropout are not.
pub(crate) fn attend_rows(
    [query, key, value]: [&Tensor; 3],
    rows: &Rows,
    reach: Option<i64>,
    dropout_probability: f64,
    train: bool,
) -> Tensor {
    let dropout_probability = if train { dropout_probability } else { 0.0 };
    let size = query.size();
    if query.device() == Device::Cpu {
        let kind = value.kind();
        let [query, key, value] = [query, key, value].map(|part| part.squeeze_dim(0).to_kind(Kind::Float));
        let context = kernels::row_attention(&query, &key, &value, &rows.lengths, reach, dropout_probability);
        return context.to_kind(kind).view([1, size[1], -1]);
    }
    attend_with_padding([query, key, value], rows, reach, dropout_probability, train)
}

/// What [`attend_rows`] does where there is no kernel for it.
fn attend_with_padding(
    parts: [&Tensor; 3],
    rows: &Rows,
    reach: Option<i64>,
    dropout_probability: f64,
    train: bool,
) -> Tensor {
    let padded = parts.map(|part| rows.with_padding(part).transpose(1, 2));
    let [query, key, value] = &padded;
    let length = query.size()[2];
    let Sight::Padded(bias) = Sight::new(rows.mask().as_ref(), None, reach, length, query.device()) else {
        unreachable!("no rows were given")
    };
    let context = attend(query, key, value, bias.as_ref(), dropout_probability, train);
    rows.without_padding(&context)
}

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

/// `[1, 1, length, length]`: 0 within `reach` positions, elsewhere as at padding.
fn window_bias(length: i64, reach: i64, device: Device) -> Tensor {
    let at = Tensor::arange(length, (Kind::Int64, device));
    let beyond = (at.unsqueeze(0) - at.unsqueeze(1)).abs().gt(reach);
    Tensor::zeros([1, 1, length, length], (Kind::Float, device)).masked_fill(&beyond, -1e30)
}

/// The configured non-linearity.
pub(crate) fn activate(input: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Gelu => kernels::gelu(input),
        Activation::GeluNew => input.gelu("tanh"),
        Activation::Relu => input.relu(),
    }
}

/// The first half of each row through the non-linearity, times the second half.
pub(crate) fn gated(input: &Tensor, activation: Activation) -> Tensor {
    if activation == Activation::Gelu {
        return kernels::gated_gelu(input);
    }
    let halves = input.chunk(2, -1);
    activate(&halves[0], activation) * &halves[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Input;

    #[test]
    fn padding_attention_alone_is_the_kernel() {
        tch::manual_seed(1);
        let lengths = [5i64, 12, 1, 9];
        let at = Tensor::arange(12, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let mask = at.lt_tensor(&Tensor::from_slice(&lengths).unsqueeze(1));
        for mask in [Some(mask), None] {
            let rows =
                Rows::of(&Input { ids: Tensor::zeros([4, 12], (Kind::Int64, Device::Cpu)), segments: None, mask });
            let tokens = rows.positions.size()[0];
            let leaf = Tensor::randn([1, tokens, 3, 2, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            for reach in [None, Some(2)] {
                let parts = leaf.unbind(2);
                let parts = [&parts[0], &parts[1], &parts[2]];
                let results =
                    [attend_rows(parts, &rows, reach, 0.0, true), attend_with_padding(parts, &rows, reach, 0.0, true)];
                let gradients = [0, 1].map(|index: usize| {
                    let loss = results[index].square().sum(Kind::Float);
                    Tensor::run_backward(&[loss], &[&leaf], true, false).remove(0)
                });
                for [found, expected] in [&results, &gradients] {
                    assert_eq!(found.size(), expected.size());
                    let off = (found - expected).abs().max().double_value(&[]);
                    assert!(off < 1e-5, "{reach:?}: {off:e}");
                }
            }
        }
    }
}
