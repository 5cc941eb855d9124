//! What becomes of memory that is freed.

use crate::ffi;
use std::env;

/// What users tell glibc's malloc by.
const SETTINGS: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
/// Of which these speak of malloc.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.");

/// From now on, for the whole process: what is freed stays with it for what comes, until
/// [`return_freed_memory`]. By itself malloc gives large pieces and the end of its heap back to the system, and the next
/// layer gets them again page by page, each of which is cleared. (That a tensor is put where one of its size has been is
/// the part of `native/memory.cpp`.)
///
/// Whoever has told malloc otherwise (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`, `glibc.malloc.…` in
/// `GLIBC_TUNABLES`) is obeyed. With another C library than glibc it does nothing.
pub fn keep_freed_memory() {
    let tuned = env::var_os(TUNABLES.0).is_some_and(|value| value.to_string_lossy().contains(TUNABLES.1));
    if !tuned && SETTINGS.iter().all(|name| env::var_os(name).is_none()) {
        // SAFETY: it takes nothing, and malloc locks itself.
        unsafe { ffi::tr_keep_freed_memory() }
    }
}

/// Gives the system what is free; of the heaps of other threads than the main one, their ends stay.
pub fn return_freed_memory() {
    // SAFETY: as above.
    unsafe { ffi::tr_return_freed_memory() }
}
