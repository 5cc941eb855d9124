//! torch's own profiler.

use std::ffi::CString;
use std::path::Path;

use crate::ffi;
use crate::native::{NativeError, check};
use tch::Device;

/// Runs `body` and writes what it consisted of, operator by operator and, for a CUDA device, kernel by kernel, as a Chrome
/// trace: `chrome://tracing` and <https://ui.perfetto.dev> show it. One at a time; tracing slows what it watches down.
///
/// # Errors
/// If there is a trace already, or the file cannot be written.
pub fn traced<R>(path: &Path, device: Device, body: impl FnOnce() -> R) -> Result<R, NativeError> {
    let text = path.to_str().and_then(|text| CString::new(text).ok());
    let text = text.ok_or_else(|| NativeError(format!("{} is no UTF-8", path.display())))?;
    // SAFETY: it takes a flag.
    unsafe { check(ffi::tr_trace_begin(device.is_cuda().into())) }?;
    let result = body();
    // SAFETY: the text lives for the length of the call.
    unsafe { check(ffi::tr_trace_end(text.as_ptr())) }?;
    Ok(result)
}
