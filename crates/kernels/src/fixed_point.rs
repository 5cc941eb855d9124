//! Gradients as 64-bit fixed-point integers: the arithmetic of `exact` mode.
//!
//! Integer addition is associative, so a sum of fixed-point gradients has the same bits however it is ordered, grouped
//! or spread over workers. With `b` fraction bits, an element `g` is stored as the integer nearest to `g·2^b` (ties to
//! even); the error of each contribution is at most `2^-(b+1)`, independent of the others.
//!
//! An element that is not finite, or with `|g|·2^b ≥ 2^51`, contributes nothing and is counted: the step must then be
//! skipped everywhere. 4,096 contributions below that limit cannot overflow the 64-bit sum; that bounds the number of
//! slots times micro-batches of a step ([`MAX_CONTRIBUTIONS`]).
//!
//! The operators that read the vocabulary's table ([`crate::embedding`], [`crate::masked_loss`]) add their parts of its
//! gradient to the sum themselves, each rounded by itself. There are four at most, and the limit of each is a quarter.
//!
//! On the CPU each pass is one fused loop over as many threads as torch has; the bits do not depend on that number, nor
//! on the processor's vector instructions.

use std::ffi::c_void;

use tch::Tensor;

use crate::ffi;
use crate::native::{self, NativeError, pointer};

/// How many gradients may be added into one accumulator, over all workers, without a chance of overflow.
pub const MAX_CONTRIBUTIONS: u64 = 4096;

/// Which gradient of a sum it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The sum begins with it: what the accumulator held is forgotten, and need not be cleared before.
    First,
    /// It is added to the sum.
    Later,
}

/// Adds a gradient to `accumulator[offset..][..count]`, or begins the sum with it, and returns how many of its elements
/// could not be represented.
///
/// The accumulator is a flat int64 tensor on the gradient's device. An undefined gradient (of a parameter that took no
/// part in the loss) counts as zeros; other kinds than float32 are converted to it first.
///
/// # Panics
/// If the accumulator is not flat int64, too short, or elsewhere than the gradient, or if the gradient does not have
/// `count` elements: the caller's mistake.
pub fn accumulate(
    gradient: &Tensor,
    accumulator: &Tensor,
    offset: usize,
    count: usize,
    fraction_bits: u32,
    turn: Turn,
) -> u64 {
    let mut bad = 0;
    // SAFETY: the tensors are live for the length of the call; the shim checks bounds and kinds.
    let outcome = unsafe {
        native::check(ffi::tr_fixed_point_accumulate(
            pointer(gradient),
            pointer(accumulator),
            offset as i64,
            count as i64,
            fraction_bits as i32,
            i32::from(turn == Turn::First),
            &mut bad,
        ))
    };
    expect_valid("accumulate", outcome);
    bad
}

/// The backward pass of a scalar, with [`accumulate`] of each leaf's gradient at its offset as soon as it is there: no
/// gradient is kept, and each is read while it is in the cache. A table's gradient comes in parts: see above. The leaves'
/// own `.grad` is forgotten.
///
/// `done` is told the index of each leaf, once, as soon as this pass has nothing more for its place in the sum: on the
/// CPU mostly while the pass goes on, on the thread that it goes on in. It must not panic.
///
/// # Panics
/// As [`accumulate`]; and if there is no backward pass of `loss`.
pub fn backward<F: FnMut(usize)>(
    loss: &Tensor,
    leaves: &[&Tensor],
    offsets: &[usize],
    accumulator: &Tensor,
    fraction_bits: u32,
    turn: Turn,
    mut done: F,
) -> u64 {
    assert_eq!(leaves.len(), offsets.len(), "every leaf has an offset");
    let leaves: Vec<_> = leaves.iter().map(|leaf| pointer(leaf)).collect();
    let offsets: Vec<i64> = offsets.iter().map(|&offset| offset as i64).collect();
    let mut bad = 0;
    // SAFETY: the tensors and `done` are live for the length of the call, which calls `done` from one thread at a time, and
    // there are as many offsets as leaves.
    let outcome = unsafe {
        native::check(ffi::tr_fixed_point_backward(
            pointer(loss),
            leaves.as_ptr(),
            offsets.as_ptr(),
            leaves.len(),
            pointer(accumulator),
            fraction_bits as i32,
            i32::from(turn == Turn::First),
            tell::<F>,
            (&raw mut done).cast::<c_void>(),
            &mut bad,
        ))
    };
    expect_valid("backward", outcome);
    bad
}

/// What C++ calls.
unsafe extern "C" fn tell<F: FnMut(usize)>(done: *mut c_void, leaf: usize) {
    // SAFETY: it is what `backward` made of its closure, which nobody else calls meanwhile.
    unsafe { (*done.cast::<F>())(leaf) }
}

/// Writes the sum at `accumulator[offset..]` into `gradient` (float32, contiguous, same device) as real numbers: each
/// integer times `2^-fraction_bits`, rounded to float32. `gradient` may be the same elements of the accumulator's own
/// memory, seen as float32: then the sums at `offset / 2..(offset + length) / 2` (rounded up) are gone, so that parts are
/// to be taken in ascending order.
///
/// # Panics
/// As [`accumulate`].
pub fn to_float(accumulator: &Tensor, offset: usize, gradient: &Tensor, fraction_bits: u32) {
    // SAFETY: as in `accumulate`.
    let outcome = unsafe {
        native::check(ffi::tr_fixed_point_to_float(
            pointer(accumulator),
            offset as i64,
            pointer(gradient),
            fraction_bits as i32,
        ))
    };
    expect_valid("to_float", outcome);
}

/// Wrong shapes are a bug of the caller, as with slices: not something to handle.
#[track_caller]
fn expect_valid(pass: &str, outcome: Result<(), NativeError>) {
    if let Err(error) = outcome {
        panic!("fixed_point::{pass}: {error}");
    }
}
