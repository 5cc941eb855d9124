//! Activation checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").

use std::any::Any;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::ffi;
use crate::native::{check, made, pointer};

type Body = Box<dyn Fn(&Tensor) -> Tensor + Send>;

/// `body(input)`, of which only `input` is kept: the backward pass calls `body` once more, with torch's generators where
/// they stood and in the same autocast, and differentiates that. `leaves` are all tensors beside `input` that `body` uses
/// and that need a gradient. Values and gradients are those of `body(input)` to the bit, and leaves get theirs as ever:
/// once, with what other uses of them add, through their hooks. (In autocast, gradients of a leaf that several parts use are
/// added up in float32, where without parts they are added up in bfloat16.)
///
/// # Panics
/// If `body` panics.
#[track_caller]
pub fn checkpoint(input: &Tensor, leaves: &[&Tensor], body: impl Fn(&Tensor) -> Tensor + Send + 'static) -> Tensor {
    let inputs: Vec<_> = [input].iter().chain(leaves).map(|tensor| pointer(tensor)).collect();
    let body: Box<Body> = Box::new(Box::new(body));
    // SAFETY: the tensors are live for the length of the call; the C++ side owns `body` from here on and calls `drop_body`
    // when nobody can call it any more. It is called by one thread at a time.
    let [result] = unsafe {
        made("checkpoint", |[result]| {
            ffi::tr_checkpoint(
                inputs.as_ptr(),
                inputs.len(),
                call_body,
                drop_body,
                Box::into_raw(body).cast::<c_void>(),
                result,
            )
        })
    };
    result
}

/// What C++ calls: no panic may get there.
unsafe extern "C" fn call_body(
    data: *mut c_void,
    input: *mut C_tensor,
    output: *mut *mut C_tensor,
    message: *mut c_char,
    room: usize,
) -> c_int {
    // SAFETY: `data` is what `checkpoint` made of its closure; `input` is ours.
    let (body, input) = unsafe { (&*data.cast::<Body>(), Tensor::from_ptr(input)) };
    match catch_unwind(AssertUnwindSafe(|| body(&input))) {
        Ok(result) => {
            // SAFETY: there is room for one pointer, and the tensor behind it is the caller's from here on.
            unsafe { *output = result.as_ptr().cast_mut() };
            std::mem::forget(result);
            1
        }
        Err(panic) => {
            let text = text_of(&*panic).as_bytes();
            let length = text.len().min(room - 1);
            // SAFETY: there is room for `room` bytes, the last of which ends the text.
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

unsafe extern "C" fn drop_body(data: *mut c_void) {
    // SAFETY: it is what `checkpoint` made of its closure, and this is called once.
    drop(unsafe { Box::from_raw(data.cast::<Body>()) });
}

/// Calls `body`, and tells how many bytes the tensors took at most that this thread made in it, on the CPU. With more
/// threads than one (`tch::set_num_threads`) what others allocate for themselves is not counted.
pub fn peak_memory<R>(body: impl FnOnce() -> R) -> (R, u64) {
    let mut watch = Watch(ptr::null_mut());
    // SAFETY: there is room for a pointer.
    unsafe { check(ffi::tr_memory_begin(&mut watch.0)) }.unwrap_or_else(|error| panic!("peak_memory: {error}"));
    let result = body();
    let most = watch.end();
    (result, most)
}

/// Ends also when the body panics.
struct Watch(*mut c_void);

impl Watch {
    fn end(&mut self) -> u64 {
        let mut most = 0;
        if !self.0.is_null() {
            // SAFETY: it was begun on this thread (a raw pointer is not `Send`) and is ended once.
            unsafe { ffi::tr_memory_end(std::mem::replace(&mut self.0, ptr::null_mut()), &mut most) };
        }
        u64::try_from(most).unwrap_or(0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}
