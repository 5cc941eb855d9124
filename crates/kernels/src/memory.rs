//! What becomes of memory that tensors leave.

use crate::ffi;
use std::env;

/// What users tell glibc's malloc by.
const SETTINGS: [&str; 3] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"];

/// From now on, for the whole process: what tensors leave stays with it for those that come, until
/// [`return_freed_memory`]. By itself malloc gives large pieces and the end of its heap back to the system, and the next
/// layer gets them again page by page, each of which is cleared. (That a tensor is put where one of its size has been is
/// the part of `native/memory.cpp`.)
///
/// Whoever has told malloc otherwise (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`, `GLIBC_TUNABLES` in the
/// environment) is obeyed. With another C library than glibc it does nothing.
pub fn keep_freed_memory() {
    if SETTINGS.iter().all(|name| env::var_os(name).is_none()) {
        // SAFETY: it takes nothing, and malloc locks itself.
        unsafe { ffi::tr_keep_freed_memory() }
    }
}

/// Gives the system what no tensor has any more.
pub fn return_freed_memory() {
    // SAFETY: as above.
    unsafe { ffi::tr_return_freed_memory() }
}
