//! The C++ shim's functions (native/*.cpp), exactly as they are. Safe wrappers are in the modules beside this one.

use std::ffi::{c_char, c_int, c_void};

use torch_sys::C_tensor;

pub(crate) use kernels::native::{check, pointer, pointers};

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
    pub(crate) fn tr_group_reduce_scatter_sum(
        group: *mut Group,
        tensor: *mut C_tensor,
        bounds: *const i64,
    ) -> *mut c_char;
    pub(crate) fn tr_group_all_gather(
        group: *mut Group,
        tensors: *const *mut C_tensor,
        count: usize,
        bounds: *const i64,
    ) -> *mut c_char;
    pub(crate) fn tr_group_broadcast(group: *mut Group, tensor: *mut C_tensor, root: c_int) -> *mut c_char;
    pub(crate) fn tr_group_abort(group: *mut Group) -> *mut c_char;
    pub(crate) fn tr_group_free(group: *mut Group) -> *mut c_char;
    pub(crate) fn tr_reducer_new(
        group: *mut Group,
        parameters: *const *mut C_tensor,
        count: usize,
        bucket_bytes: i64,
        compress_bf16: c_int,
        collectives: *mut u64,
        result: *mut *mut NativeReducer,
    ) -> *mut c_char;
    pub(crate) fn tr_reducer_prepare(
        reducer: *mut NativeReducer,
        outputs: *const *mut C_tensor,
        count: usize,
    ) -> *mut c_char;
    pub(crate) fn tr_reducer_free(reducer: *mut NativeReducer) -> *mut c_char;
    pub(crate) fn tr_libtorch_version() -> *const c_char;
}
