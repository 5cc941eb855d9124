//! Making the native groups.

use std::ffi::CString;
use std::ptr;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use kernels::NativeError;
use tch::Device;

use super::sockets::{self, Socket};
use super::{GroupOptions, Native, WayOut};
use crate::error::GroupError;
use crate::ffi;
use crate::store::KeyValueStore;
use crate::store::bridge::{Bridge, Published, TABLE};

/// Once all members are known to be here, connecting takes milliseconds; a member that dies just then must not cost the
/// others the whole timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn gloo(store: Arc<dyn KeyValueStore>, options: &GroupOptions) -> Result<Native, GroupError> {
    meet(store.as_ref(), options, "here", options.timeout)?;
    let failed = |message| {
        let GroupOptions { rank, world, .. } = *options;
        GroupError::Connect { backend: "gloo", rank, world, message }
    };
    let address = CString::new(options.address.as_str())
        .map_err(|_| GroupError::Argument(format!("{:?} is no address", options.address)))?;
    let published = Published::default();
    let mut group = ptr::null_mut();
    // SAFETY: the bridge is given away; every other pointer lives until the call returns.
    unsafe {
        ffi::check(ffi::tr_group_gloo(
            Bridge::into_raw(store.clone(), published.clone()),
            &TABLE,
            options.rank as i32,
            options.world as i32,
            milliseconds(options.timeout.min(CONNECT_TIMEOUT)),
            milliseconds(options.timeout),
            address.as_ptr(),
            &mut group,
        ))
    }
    .map_err(|NativeError(message)| failed(message))?;
    let mut native =
        Native { group, device: Device::Cpu, way_out: WayOut::Sockets(Vec::new()), watch: OnceLock::new() };
    let connections = connections(&published, options.world).map_err(failed)?;
    native.way_out = WayOut::Sockets(connections);
    // Nobody may be done and gone before the last one has looked at its connections.
    meet(store.as_ref(), options, "connected", options.timeout.min(CONNECT_TIMEOUT))?;
    Ok(native)
}

/// The group's own sockets. A group that could not be aborted later is refused now.
fn connections(published: &Published, world: u32) -> Result<Vec<Socket>, String> {
    if world == 1 {
        return Ok(Vec::new());
    }
    let published = published.lock().unwrap_or_else(PoisonError::into_inner);
    let found = sockets::of_device(&published).map_err(|error| format!("cannot find its own connections: {error}"))?;
    let expected = world as usize - 1;
    if found.len() != expected {
        return Err(format!("found {} connections of its own instead of {expected}", found.len()));
    }
    Ok(found)
}

/// Waits until all members have come so far. It is the store that waits, so that a fenced generation ends it at once.
fn meet(store: &dyn KeyValueStore, options: &GroupOptions, stage: &str, timeout: Duration) -> Result<(), GroupError> {
    let key = |rank: u32| format!("c10d/{stage}/{rank}");
    store
        .set(&key(options.rank), b"1")
        .and_then(|()| store.wait(&(0..options.world).map(key).collect::<Vec<_>>(), timeout))
        .map_err(|source| GroupError::Rendezvous { rank: options.rank, world: options.world, source })
}

#[cfg(feature = "cuda")]
pub(super) fn nccl(store: Arc<dyn KeyValueStore>, options: &GroupOptions, device: usize) -> Result<Native, GroupError> {
    let devices = tch::Cuda::device_count();
    if usize::try_from(devices).is_ok_and(|count| device >= count) {
        let reason = format!("CUDA device {device} was asked for, and this machine shows {devices}");
        return Err(GroupError::Unavailable { backend: "nccl", reason });
    }
    meet(store.as_ref(), options, "here", options.timeout)?;
    let mut group = ptr::null_mut();
    // SAFETY: the bridge is given away; every other pointer lives until the call returns.
    unsafe {
        ffi::check(ffi::tr_group_nccl(
            Bridge::into_raw(store, Published::default()),
            &TABLE,
            options.rank as i32,
            options.world as i32,
            device as i32,
            milliseconds(options.timeout),
            &mut group,
        ))
    }
    .map_err(|NativeError(message)| GroupError::Connect {
        backend: "nccl",
        rank: options.rank,
        world: options.world,
        message,
    })?;
    Ok(Native { group, device: Device::Cuda(device), way_out: WayOut::NcclAbort, watch: OnceLock::new() })
}

#[cfg(not(feature = "cuda"))]
pub(super) fn nccl(_: Arc<dyn KeyValueStore>, _: &GroupOptions, _: usize) -> Result<Native, GroupError> {
    Err(GroupError::Unavailable { backend: "nccl", reason: crate::report::NO_CUDA_FEATURE.to_owned() })
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}
