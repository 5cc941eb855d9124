//! DDP's Reducer: gradients are averaged in buckets while the backward pass is still running (`fast` mode).

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tch::Tensor;

use crate::error::GroupError;
use crate::ffi::{self, NativeReducer, pointers};
use crate::group::{Native, ProcessGroup};

/// What travels on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// The gradients as they are.
    #[default]
    None,
    /// Rounded to bfloat16: half the bytes, 8 bits of precision.
    Bf16,
}

/// Watches the gradients of a set of parameters and averages them over the group.
///
/// - A backward pass without [`Reducer::prepare_for_backward`] only adds to the local `.grad`s, as DDP's `no_sync`.
/// - After `prepare_for_backward`, the next backward pass reduces: when it returns, every `.grad` holds the **average**
///   over the group of everything accumulated in it (multiply by [`ProcessGroup::world`] for the sum). All members
///   must do so together, once a step, and every parameter must take part in that pass.
/// - From then on a `.grad` is a part of a bucket: it is set to zero in place, and cannot be detached in place, as
///   `Tensor::zero_grad` does. It outlives the reducer.
/// - A peer's failure is an error of the backward call. The gradients are then undefined, and the reducer and its group
///   are of no more use: drop both (the reducer's drop removes its hooks from the parameters).
///
/// In a Solo group it does nothing: the average over one member is what is there.
#[derive(Debug)]
pub struct Reducer {
    /// None for Solo. The group outlives the reducer that uses it.
    native: Option<(NonNull<NativeReducer>, Arc<Native>)>,
    /// The C++ reducer counts its buckets here as long as it lives.
    _collectives: Arc<AtomicU64>,
}

// SAFETY: the C++ reducer guards itself with a mutex, since autograd calls it from its own threads.
unsafe impl Send for Reducer {}

impl Reducer {
    /// Hooks into the parameters (leaves that require gradients, the same list in the same order on every member).
    /// Buckets hold about `bucket_bytes`; the first one to be sent is smaller (25 MiB and 1 MiB in DDP).
    pub fn new(
        group: &ProcessGroup,
        parameters: &[Tensor],
        bucket_bytes: usize,
        compression: Compression,
    ) -> Result<Self, GroupError> {
        let collectives = group.collectives_counter();
        let Some(native) = group.native() else { return Ok(Self { native: None, _collectives: collectives }) };
        if parameters.is_empty() || bucket_bytes == 0 {
            return Err(GroupError::Argument("a reducer needs parameters and room for them in a bucket".to_owned()));
        }
        let mut reducer = std::ptr::null_mut();
        // SAFETY: the group and the tensors are live for the length of the call, and the counter, which C++ only ever
        // changes atomically too, outlives the reducer.
        unsafe {
            ffi::check(ffi::tr_reducer_new(
                native.pointer(),
                pointers(parameters).as_ptr(),
                parameters.len(),
                i64::try_from(bucket_bytes).unwrap_or(i64::MAX),
                (compression == Compression::Bf16).into(),
                collectives.as_ptr(),
                &mut reducer,
            ))
        }
        .map_err(|error| GroupError::Collective { operation: "making the reducer", message: error.0 })?;
        let reducer = NonNull::new(reducer).expect("the shim gives a reducer or an error");
        Ok(Self { native: Some((reducer, native.clone())), _collectives: collectives })
    }

    /// Makes the next backward pass, from these outputs, the one that synchronises.
    pub fn prepare_for_backward(&self, outputs: &[Tensor]) -> Result<(), GroupError> {
        let Some((reducer, _)) = &self.native else { return Ok(()) };
        // SAFETY: the reducer is ours and the tensors are live for the length of the call.
        unsafe { ffi::check(ffi::tr_reducer_prepare(reducer.as_ptr(), pointers(outputs).as_ptr(), outputs.len())) }
            .map_err(|error| GroupError::Collective { operation: "preparing the reduction", message: error.0 })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        let Some((reducer, _)) = &self.native else { return };
        // SAFETY: the only owner; nothing uses the pointer afterwards.
        if let Err(error) = unsafe { ffi::check(ffi::tr_reducer_free(reducer.as_ptr())) } {
            tracing::warn!(%error, "could not take the reducer apart");
        }
    }
}
