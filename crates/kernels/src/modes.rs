//! Modes of libtorch that tch does not bind.

use crate::ffi;
use crate::native::{NativeError, check};
use tch::Device;

/// From now on, for the whole process: operators give the same bits every time, or fail. On CUDA some would take a faster
/// way without that promise; on the CPU none that we use has one.
pub fn deterministic_algorithms() -> Result<(), NativeError> {
    // SAFETY: it takes nothing.
    unsafe { check(ffi::tr_deterministic_algorithms()) }
}

/// Calls `body` with matrix products and attention in bfloat16, from parameters that stay float32; norms, softmax and
/// losses stay float32 too (torch's autocast, of this thread). What it computes is differentiated in the same kinds.
pub fn with_bfloat16<R>(device: Device, body: impl FnOnce() -> R) -> R {
    let on = Autocast::begin(device);
    let result = body();
    drop(on);
    result
}

/// Ends also when the body panics.
struct Autocast {
    cuda: bool,
}

impl Autocast {
    fn begin(device: Device) -> Self {
        let cuda = device.is_cuda();
        // SAFETY: it takes a flag.
        unsafe { check(ffi::tr_autocast_begin(cuda.into())) }.unwrap_or_else(|error| panic!("autocast: {error}"));
        Self { cuda }
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: it takes a flag.
        if let Err(error) = unsafe { check(ffi::tr_autocast_end(self.cuda.into())) } {
            panic!("autocast: {error}");
        }
    }
}

/// Whether this thread is inside of [`with_bfloat16`] on the CPU.
pub(crate) fn takes_bfloat16() -> bool {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { ffi::tr_autocast_is_on() != 0 }
}
