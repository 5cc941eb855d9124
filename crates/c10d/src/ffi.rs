//! The C++ shim's functions (native/*.cpp), exactly as they are. Safe wrappers are in the modules beside this one.

use std::ffi::{CStr, c_char, c_double, c_int, c_void};

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::NativeError;

/// Borrowed bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    pub data: *const u8,
    pub size: usize,
}

/// The Rust side of a `c10d::Store`; see native/store.h.
#[repr(C)]
pub(crate) struct StoreTable {
    pub set: extern "C" fn(*mut c_void, Slice, Slice, *mut c_void) -> c_int,
    pub get: extern "C" fn(*mut c_void, Slice, i64, *mut c_void, *mut c_void) -> c_int,
    pub add: extern "C" fn(*mut c_void, Slice, i64, *mut i64, *mut c_void) -> c_int,
    pub compare_set: extern "C" fn(*mut c_void, Slice, Slice, Slice, *mut c_void, *mut c_void) -> c_int,
    pub wait: extern "C" fn(*mut c_void, *const Slice, usize, i64, *mut c_void) -> c_int,
    pub check: extern "C" fn(*mut c_void, *const Slice, usize, *mut c_int, *mut c_void) -> c_int,
    pub remove: extern "C" fn(*mut c_void, Slice, *mut c_int, *mut c_void) -> c_int,
    pub count: extern "C" fn(*mut c_void, *mut i64, *mut c_void) -> c_int,
    pub drop: extern "C" fn(*mut c_void),
}

/// An opaque `TrGroup`.
#[repr(C)]
pub(crate) struct Group {
    _private: [u8; 0],
}

/// An opaque `c10d::Reducer`.
#[repr(C)]
pub(crate) struct NativeReducer {
    _private: [u8; 0],
}

unsafe extern "C" {
    pub(crate) fn tr_text_free(text: *mut c_char);
    pub(crate) fn tr_bytes_append(bytes: *mut c_void, data: *const u8, size: usize);
    pub(crate) fn tr_group_gloo(
        store: *mut c_void,
        table: *const StoreTable,
        rank: c_int,
        world: c_int,
        connect_timeout_ms: i64,
        timeout_ms: i64,
        address: *const c_char,
        result: *mut *mut Group,
    ) -> *mut c_char;
    #[cfg(feature = "cuda")]
    pub(crate) fn tr_group_nccl(
        store: *mut c_void,
        table: *const StoreTable,
        rank: c_int,
        world: c_int,
        device: c_int,
        timeout_ms: i64,
        result: *mut *mut Group,
    ) -> *mut c_char;
    #[cfg(feature = "cuda")]
    pub(crate) fn tr_nccl_version() -> c_int;
    pub(crate) fn tr_group_all_reduce_sum(group: *mut Group, tensor: *mut C_tensor) -> *mut c_char;
    pub(crate) fn tr_group_broadcast(group: *mut Group, tensor: *mut C_tensor, root: c_int) -> *mut c_char;
    #[cfg(feature = "cuda")]
    pub(crate) fn tr_group_abort(group: *mut Group) -> *mut c_char;
    pub(crate) fn tr_group_free(group: *mut Group) -> *mut c_char;
    pub(crate) fn tr_reducer_new(
        group: *mut Group,
        parameters: *const *mut C_tensor,
        count: usize,
        bucket_bytes: i64,
        compress_bf16: c_int,
        result: *mut *mut NativeReducer,
    ) -> *mut c_char;
    pub(crate) fn tr_reducer_prepare(
        reducer: *mut NativeReducer,
        outputs: *const *mut C_tensor,
        count: usize,
    ) -> *mut c_char;
    pub(crate) fn tr_reducer_free(reducer: *mut NativeReducer) -> *mut c_char;
    pub(crate) fn tr_fixed_point_accumulate(
        gradient: *mut C_tensor,
        accumulator: *mut C_tensor,
        offset: i64,
        fraction_bits: c_int,
        bad: *mut u64,
    ) -> *mut c_char;
    pub(crate) fn tr_fixed_point_to_float(
        accumulator: *mut C_tensor,
        offset: i64,
        gradient: *mut C_tensor,
        fraction_bits: c_int,
    ) -> *mut c_char;
    pub(crate) fn tr_fused_adamw(
        parameters: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        averages: *const *mut C_tensor,
        square_averages: *const *mut C_tensor,
        count: usize,
        step: c_double,
        learning_rate: c_double,
        beta1: c_double,
        beta2: c_double,
        weight_decay: c_double,
        epsilon: c_double,
    ) -> *mut c_char;
    pub(crate) fn tr_libtorch_version() -> *const c_char;
}

/// Turns the shim's answer into a result and frees the message.
///
/// # Safety
/// `message` must be what a function of the shim just returned.
pub(crate) unsafe fn check(message: *mut c_char) -> Result<(), NativeError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a terminated string that is ours to free.
    let text = unsafe { CStr::from_ptr(message).to_string_lossy().into_owned() };
    unsafe { tr_text_free(message) };
    Err(NativeError(text.trim_end().to_owned()))
}

/// tch's tensors are `at::Tensor*`; the shim's functions write through them in place, as tch's own `f_*_` functions do.
pub(crate) fn pointer(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// The same for a list.
pub(crate) fn pointers(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(pointer).collect()
}
