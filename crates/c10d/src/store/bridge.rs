//! The way from `c10d::Store` (C++) into a [`KeyValueStore`] (Rust). No panic crosses it.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{KeyValueStore, StoreError};
use crate::ffi::{self, Slice, StoreTable};

/// What the C++ store calls back into.
pub(crate) struct Bridge {
    store: Arc<dyn KeyValueStore>,
    published: Published,
}

/// The values that this member has published: its listener's address is among them.
pub(crate) type Published = Arc<Mutex<Vec<Vec<u8>>>>;

impl Bridge {
    /// An owning pointer for C++, which gives it back to [`TABLE`]'s `drop`.
    pub(crate) fn into_raw(store: Arc<dyn KeyValueStore>, published: Published) -> *mut c_void {
        Box::into_raw(Box::new(Bridge { store, published })).cast()
    }
}

/// The functions that go with [`Bridge::into_raw`].
pub(crate) static TABLE: StoreTable =
    StoreTable { set, get, add, compare_set, wait, check, remove, count, drop: drop_bridge };

/// Runs one operation: 0 if it went well, else 1 with a message appended to `error`.
fn run<T>(
    this: *mut c_void,
    error: *mut c_void,
    operation: impl FnOnce(&Bridge) -> Result<T, StoreError>,
    give: impl FnOnce(T),
) -> c_int {
    // SAFETY: `this` came from `Bridge::into_raw` and lives until the C++ store calls `drop_bridge`.
    let bridge = unsafe { &*this.cast::<Bridge>() };
    let message = match catch_unwind(AssertUnwindSafe(|| operation(bridge))) {
        Ok(Ok(value)) => {
            give(value);
            return 0;
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("the rendezvous store panicked: {}", panic_text(panic.as_ref())),
    };
    append(error, message.as_bytes());
    1
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "no message",
    }
}

fn append(target: *mut c_void, bytes: &[u8]) {
    // SAFETY: `target` is the byte vector that the shim passed in for this call.
    unsafe { ffi::tr_bytes_append(target, bytes.as_ptr(), bytes.len()) }
}

fn bytes<'a>(slice: Slice) -> &'a [u8] {
    if slice.size == 0 {
        return &[];
    }
    // SAFETY: the shim's slices live as long as the call they are arguments of.
    unsafe { std::slice::from_raw_parts(slice.data, slice.size) }
}

fn text(slice: Slice) -> String {
    String::from_utf8_lossy(bytes(slice)).into_owned()
}

fn texts(slices: *const Slice, count: usize) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: as in `bytes`.
    unsafe { std::slice::from_raw_parts(slices, count) }.iter().map(|slice| text(*slice)).collect()
}

/// c10d says "no timeout" with zero. Nothing of ours waits without end: a day is as good as that.
fn duration(timeout_ms: i64) -> Duration {
    match u64::try_from(timeout_ms) {
        Ok(ms) if ms > 0 => Duration::from_millis(ms),
        _ => Duration::from_secs(24 * 3600),
    }
}

fn put<T>(target: *mut T) -> impl FnOnce(T) {
    // SAFETY: the shim passes a pointer to a local of its own.
    move |value| unsafe { target.write(value) }
}

extern "C" fn set(this: *mut c_void, key: Slice, value: Slice, error: *mut c_void) -> c_int {
    run(
        this,
        error,
        |bridge| {
            bridge.published.lock().unwrap_or_else(PoisonError::into_inner).push(bytes(value).to_vec());
            bridge.store.set(&text(key), bytes(value))
        },
        |()| (),
    )
}

extern "C" fn get(this: *mut c_void, key: Slice, timeout_ms: i64, value: *mut c_void, error: *mut c_void) -> c_int {
    run(this, error, |bridge| bridge.store.get(&text(key), duration(timeout_ms)), |found| append(value, &found))
}

extern "C" fn add(this: *mut c_void, key: Slice, amount: i64, result: *mut i64, error: *mut c_void) -> c_int {
    run(this, error, |bridge| bridge.store.add(&text(key), amount), put(result))
}

extern "C" fn compare_set(
    this: *mut c_void,
    key: Slice,
    expected: Slice,
    desired: Slice,
    value: *mut c_void,
    error: *mut c_void,
) -> c_int {
    run(
        this,
        error,
        |bridge| bridge.store.compare_set(&text(key), bytes(expected), bytes(desired)),
        |found| append(value, &found),
    )
}

extern "C" fn wait(this: *mut c_void, keys: *const Slice, count: usize, timeout_ms: i64, error: *mut c_void) -> c_int {
    run(this, error, |bridge| bridge.store.wait(&texts(keys, count), duration(timeout_ms)), |()| ())
}

extern "C" fn check(
    this: *mut c_void,
    keys: *const Slice,
    count: usize,
    result: *mut c_int,
    error: *mut c_void,
) -> c_int {
    run(this, error, |bridge| bridge.store.check(&texts(keys, count)).map(c_int::from), put(result))
}

extern "C" fn remove(this: *mut c_void, key: Slice, result: *mut c_int, error: *mut c_void) -> c_int {
    run(this, error, |bridge| bridge.store.delete(&text(key)).map(c_int::from), put(result))
}

extern "C" fn count(this: *mut c_void, result: *mut i64, error: *mut c_void) -> c_int {
    run(this, error, |bridge| bridge.store.count(), put(result))
}

extern "C" fn drop_bridge(this: *mut c_void) {
    // SAFETY: called once, by the destructor of the C++ store. A panicking destructor of the user's store must not
    // unwind into C++.
    let bridge = unsafe { Box::from_raw(this.cast::<Bridge>()) };
    if catch_unwind(AssertUnwindSafe(|| drop(bridge))).is_err() {
        tracing::error!("the rendezvous store panicked while it was dropped");
    }
}
