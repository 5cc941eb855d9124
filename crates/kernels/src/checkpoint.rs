//! Activation checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::ffi;
use crate::native::{answer, check, made, pointer};

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
    // SAFETY: these are the caller's.
    unsafe { answer(|| body(&input), output, message, room) }
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
