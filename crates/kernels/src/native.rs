//! The calling convention of the C++ code (native/shim.h), for this crate and for c10d's shim.

use std::ffi::{CStr, c_char};
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tr_text_free(text: *mut c_char);
}

/// A message from libtorch: what its C++ exception said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NativeError(pub String);

/// Turns a shim function's answer into a result and frees the message.
///
/// # Safety
/// `message` must be what a function of a shim just returned.
pub unsafe fn check(message: *mut c_char) -> Result<(), NativeError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a terminated string that is ours to free.
    let text = unsafe { CStr::from_ptr(message).to_string_lossy().into_owned() };
    unsafe { tr_text_free(message) };
    Err(NativeError(text.trim_end().to_owned()))
}

/// tch's tensors are `at::Tensor*`; the shim's functions write through them in place, as tch's own `f_*_` functions do.
pub fn pointer(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// The same for a list.
pub fn pointers(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(pointer).collect()
}

/// Calls a function that makes `N` tensors. Wrong shapes or kinds are a bug of the caller, as with tch's own operators:
/// they panic.
///
/// # Safety
/// If `call` returns no error, it must have filled all places with tensors that are ours.
#[track_caller]
pub(crate) unsafe fn made<const N: usize>(
    name: &str,
    call: impl FnOnce(&mut [*mut C_tensor; N]) -> *mut c_char,
) -> [Tensor; N] {
    let mut results = [ptr::null_mut(); N];
    // SAFETY: the caller vouches for both.
    unsafe {
        if let Err(error) = check(call(&mut results)) {
            panic!("kernels::{name}: {error}");
        }
        results.map(|result| Tensor::from_ptr(result))
    }
}
