//! Attention without padding.

use tch::Tensor;

use crate::ffi;
use crate::native::{made, pointer};

/// Scaled dot-product attention of rows that lie behind one another, each within itself: `[tokens, heads, width]` three
/// times gives the same once more. `lengths` are those of the rows, which make up the tokens. A token sees `reach`
/// positions on either side, or its whole row. Weights are dropped as [`crate::dropout`] drops.
///
/// Neither scores nor weights are kept for the backward pass. What a row comes to does not depend on the rows beside it,
/// nor on the number of threads.
///
/// # Panics
/// If the shapes do not fit, or the tensors are not float32 on the CPU.
#[track_caller]
pub fn row_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    lengths: &[i64],
    reach: Option<i64>,
    dropout: f64,
) -> Tensor {
    assert!(reach.is_none_or(|reach| reach >= 0), "a token sees itself at least");
    // SAFETY: the tensors are live for the length of the call, and so are the lengths.
    let [result] = unsafe {
        made("row_attention", |[result]| {
            ffi::tr_row_attention(
                pointer(query),
                pointer(key),
                pointer(value),
                lengths.as_ptr(),
                lengths.len(),
                reach.unwrap_or(-1),
                dropout,
                result,
            )
        })
    };
    result
}
