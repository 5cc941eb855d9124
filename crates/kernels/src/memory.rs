//! What becomes of memory that is freed.

use crate::ffi;
use std::env;

/// Environment variables that set malloc's thresholds.
const VARIABLES: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
/// The same within `GLIBC_TUNABLES`.
const TUNABLES: [&str; 2] = ["glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold"];

/// From now on, for the whole process: what is freed stays with it for what comes, until
/// [`return_freed_memory`]. By itself malloc gives large pieces and the end of its heap back to the system, and the next
/// layer gets them again page by page, each of which is cleared. (That a tensor is put where one of its size has been is
/// the part of the allocator in `native/memory.cpp`.)
///
/// Not kept are pieces of more than 1 GiB, before glibc 2.35 of more than 32 MiB, and whole heaps of other threads than the
/// main one.
///
/// Whoever has set malloc's thresholds (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`, or `glibc.malloc.mmap_threshold`
/// and `trim_threshold` in `GLIBC_TUNABLES`) is obeyed. With another C library or malloc than glibc's it does nothing.
pub fn keep_freed_memory() {
    let tunables = env::var("GLIBC_TUNABLES").unwrap_or_default();
    let set =
        VARIABLES.iter().any(|name| env::var_os(name).is_some()) || TUNABLES.iter().any(|name| tunables.contains(name));
    if !set {
        // SAFETY: it takes nothing, and malloc locks itself.
        unsafe { ffi::tr_keep_freed_memory() }
    }
}

/// Gives the system what is free; of the heaps of other threads than the main one, their ends stay.
pub fn return_freed_memory() {
    // SAFETY: as above.
    unsafe { ffi::tr_return_freed_memory() }
}
