//! The backward pass of `fast` mode.

use tch::Tensor;

use crate::ffi;
use crate::native::{self, NativeError, pointer};

/// Adds the gradients of a scalar to its leaves' `.grad`, as `Tensor::backward` does.
///
/// Where a leaf has one already, the operators that read the vocabulary's table ([`crate::embedding`],
/// [`crate::masked_loss`]) add their parts to it themselves: no gradient as large as the table waits through the backward
/// pass for the others. On a device, and for a leaf that has none yet, it is autograd that adds.
///
/// # Errors
/// What `Tensor::f_backward` fails with: there is no backward pass of `loss`, or a hook of a leaf failed, as a reduction
/// with a lost peer. The gradients are undefined then.
pub fn backward(loss: &Tensor) -> Result<(), NativeError> {
    // SAFETY: the tensor is live for the length of the call.
    unsafe { native::check(ffi::tr_backward(pointer(loss))) }
}
