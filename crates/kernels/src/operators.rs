//! Differentiable operators: once, for most have no second derivative on the CPU.

use std::ptr;

use tch::{Device, Kind, Reduction, Tensor};

use crate::checkpoint::checkpoint;
use crate::ffi;
use crate::modes::takes_bfloat16;
use crate::native::{made, pointer, pointers};

/// `input · weightᵀ + bias`: `[…, in]`, `[out, in]` and `[out]` give `[…, out]`.
///
/// # Panics
/// If the shapes do not fit.
#[track_caller]
pub fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    if !is_fast(input) {
        return input.linear(weight, bias);
    }
    let bias = bias.map_or(ptr::null_mut(), pointer);
    // SAFETY: the tensors are live for the length of the call.
    let [result] = unsafe { made("linear", |[result]| ffi::tr_linear(pointer(input), pointer(weight), bias, result)) };
    result
}

/// What the logits of one part take: 256 MiB.
const LOGITS: i64 = 1 << 28;

/// How many rows are worth a part. Each part has a gradient of the whole table beside its logits, as much as `width` rows: of
/// fewer rows than twice that nothing would be saved.
fn rows_of_a_part(vocabulary: i64, width: i64) -> i64 {
    (LOGITS / (vocabulary.max(1) * size_of::<f32>() as i64)).max(2 * width).max(1)
}

/// The summed cross-entropy in nats of `rows · weightᵀ + bias` against `labels`, and how often the label's logit was the
/// greatest: `[n, width]`, `[vocabulary, width]`, `[vocabulary]` and int64 `[n]` give two scalars, float32
/// and int64.
///
/// Logits of more than 256 MiB (or than twice the table, where that is more) never exist whole: see
/// [`masked_loss_in_parts`].
///
/// # Panics
/// If the shapes do not fit, or a label is outside of the vocabulary.
#[track_caller]
pub fn masked_loss(rows: &Tensor, weight: &Tensor, bias: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
    let (vocabulary, width) = weight.size2().unwrap_or_else(|error| panic!("masked_loss: {error}"));
    masked_loss_in_parts(rows, weight, bias, labels, rows_of_a_part(vocabulary, width))
}

/// [`masked_loss`] of at most `most` rows at a time, in parts of about one size. Where there is more than one, no part keeps its
/// logits: the backward pass makes them again, which costs a third more of the head's time, and adds up the parts' gradients of
/// the table.
///
/// # Panics
/// As [`masked_loss`], and if `most` is not positive.
#[track_caller]
pub fn masked_loss_in_parts(
    rows: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    labels: &Tensor,
    most: i64,
) -> (Tensor, Tensor) {
    assert!(most > 0, "parts of {most} rows");
    let count = rows.size()[0];
    assert_eq!(labels.size(), [count], "a label for each row");
    if count <= most {
        return loss_of_part(rows, weight, bias, labels);
    }
    let parts = (count - 1) / most + 1;
    let most = (count - 1) / parts + 1;
    let part = |start: i64| {
        let length = most.min(count - start);
        let labels = labels.narrow(0, start, length);
        let (table, offset) = (weight.shallow_clone(), bias.shallow_clone());
        checkpoint(&rows.narrow(0, start, length), &[weight, bias], move |rows| {
            let (loss, correct) = loss_of_part(rows, &table, &offset, &labels);
            Tensor::stack(&[loss, correct.to_kind(Kind::Float)], 0)
        })
    };
    let parts: Vec<Tensor> = (0..count).step_by(most as usize).map(part).collect();
    let parts = Tensor::stack(&parts, 1);
    let hits = parts.get(1).detach().to_kind(Kind::Int64).sum(Kind::Int64);
    (parts.get(0).sum(Kind::Float), hits)
}

fn loss_of_part(rows: &Tensor, weight: &Tensor, bias: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
    if !is_fast(rows) {
        let logits = rows.linear(weight, Some(bias));
        let loss = logits.cross_entropy_loss::<&Tensor>(labels, None, Reduction::Sum, -100, 0.0);
        let correct = logits.detach().argmax(1, false).eq_tensor(labels).sum(Kind::Int64);
        return (loss, correct);
    }
    // SAFETY: the tensors are live for the length of the call.
    let [loss, correct] = unsafe {
        made("masked_loss", |[loss, correct]| {
            ffi::tr_masked_loss(pointer(rows), pointer(weight), pointer(bias), pointer(labels), loss, correct)
        })
    };
    (loss, correct)
}

/// Sets each element to zero with the given probability and scales the others so that the mean stays. What is dropped
/// follows torch's seed (`tch::manual_seed`) and does not depend on the number of threads.
///
/// # Panics
/// If the probability is not in `0..1`.
#[track_caller]
pub fn dropout(input: &Tensor, probability: f64) -> Tensor {
    if !is_fast(input) {
        return input.dropout(probability, true);
    }
    // SAFETY: the tensor is live for the length of the call.
    let [result] = unsafe { made("dropout", |[result]| ffi::tr_dropout(pointer(input), probability, result)) };
    result
}

/// The Gaussian error linear unit `x · Φ(x)` of each element, in the input's shape. In float32 on the CPU it is right to 1e-6 of
/// itself down to -5 and to 6e-6 down to -13, where it is 1e-37, and has the same bits on every processor.
#[track_caller]
pub fn gelu(input: &Tensor) -> Tensor {
    if !is_fast(input) {
        return input.gelu("none");
    }
    // SAFETY: the tensor is live for the length of the call.
    let [result] = unsafe { made("gelu", |[result]| ffi::tr_gelu(pointer(input), result)) };
    result
}

/// `gelu(a) · b` of `[…, 2 × width]`, whose rows are `a` and then `b`: `[…, width]`.
///
/// # Panics
/// If a row cannot be halved.
#[track_caller]
pub fn gated_gelu(input: &Tensor) -> Tensor {
    let width = input.size().last().copied().unwrap_or(1);
    assert!(width % 2 == 0, "gated_gelu of rows of {width}");
    if !is_fast(input) {
        let halves = input.chunk(2, -1);
        return halves[0].gelu("none") * &halves[1];
    }
    // SAFETY: the tensor is live for the length of the call.
    let [result] = unsafe { made("gated_gelu", |[result]| ffi::tr_gated_gelu(pointer(input), result)) };
    result
}

/// The Euclidean norm of each tensor, `[tensors]`; not differentiable. On a device a few launches for all of them.
///
/// # Panics
/// If there are none, or they are not all on one device.
#[track_caller]
pub fn norms(tensors: &[Tensor]) -> Tensor {
    // SAFETY: the tensors are live for the length of the call.
    let [result] =
        unsafe { made("norms", |[result]| ffi::tr_norms(pointers(tensors).as_ptr(), tensors.len(), result)) };
    result
}

/// Scaled dot-product attention with dropout of its weights: `[batch, length, 3, heads, width]`, queries, keys and values
/// side by side, give `[batch, length, heads × width]`. `bias`, one number for each key, is added to the scores: `batch ×
/// length` of them. What is dropped follows torch's seed, as in [`dropout`].
///
/// # Panics
/// If the shapes do not fit, or the probability is not in `0..1`.
#[track_caller]
pub fn attention(packed: &Tensor, bias: Option<&Tensor>, probability: f64) -> Tensor {
    if !is_fast(packed) {
        let size = packed.size();
        let heads = packed.permute([2, 0, 3, 1, 4]);
        let (query, key, value) = (heads.get(0), heads.get(1), heads.get(2));
        let bias = bias.map(|bias| bias.view([size[0], 1, 1, size[1]]));
        let context = Tensor::scaled_dot_product_attention(&query, &key, &value, bias, probability, false, None, false);
        return context.transpose(1, 2).reshape([size[0], size[1], size[3] * size[4]]);
    }
    let bias = bias.map_or(ptr::null_mut(), pointer);
    // SAFETY: the tensors are live for the length of the call.
    let [result] =
        unsafe { made("attention", |[result]| ffi::tr_attention(pointer(packed), bias, probability, result)) };
    result
}

/// The rows of `table` with these int64 ids, in the ids' shape. Its gradient goes straight into the sum of
/// [`crate::fixed_point::backward`], or into the one that the table has in [`crate::backward`], without ever being a table.
///
/// # Panics
/// If an id is outside of the table.
#[track_caller]
pub fn embedding(table: &Tensor, ids: &Tensor) -> Tensor {
    if !is_fast(table) {
        return Tensor::embedding(table, ids, -1, false, false);
    }
    // SAFETY: the tensors are live for the length of the call.
    let [result] = unsafe { made("embedding", |[result]| ffi::tr_embedding(pointer(table), pointer(ids), result)) };
    result
}

fn is_fast(input: &Tensor) -> bool {
    input.device() == Device::Cpu && input.kind() == Kind::Float && !takes_bfloat16()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_worth_their_gradient_of_the_table() {
        assert_eq!(rows_of_a_part(30_522, 768), 2_198, "256 MiB of logits");
        assert_eq!(rows_of_a_part(250_000, 1_024), 2_048, "twice the table");
    }
}
