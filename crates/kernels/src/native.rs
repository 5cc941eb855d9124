//! The calling convention of the C++ code (native/shim.h), for this crate and for c10d's shim.

use std::any::Any;
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// What a function that C++ calls does: it gives `body`'s tensor and 1, or the message of its panic and 0.
///
/// # Safety
/// There must be room for a pointer at `output`, whose tensor is the caller's from then on, and for `room` > 0 bytes at
/// `message`.
pub(crate) unsafe fn answer(
    body: impl FnOnce() -> Tensor,
    output: *mut *mut C_tensor,
    message: *mut c_char,
    room: usize,
) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => {
            // SAFETY: the caller vouches for it.
            unsafe { *output = result.as_ptr().cast_mut() };
            std::mem::forget(result);
            1
        }
        Err(panic) => {
            let text = text_of(&*panic).as_bytes();
            let length = text.len().min(room - 1);
            // SAFETY: the caller vouches for the room; the last byte ends the text.
            unsafe {
                ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), message, length);
                *message.add(length) = 0;
            }
            0
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}
