//! The process group: who takes part, and the collectives they make together.

pub(crate) mod abort;
mod connect;
mod sockets;
mod watch;

use std::ops::Range;
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kernels::NativeError;
use tch::{Device, Kind, Tensor};

use crate::error::GroupError;
use crate::ffi::{self, pointer, pointers};
use crate::store::KeyValueStore;
use abort::AbortHandle;
use sockets::Socket;
use watch::Watch;

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One member, nothing to send: every collective is the identity.
    Solo,
    /// TCP between CPU tensors. Tensors elsewhere go through main memory.
    Gloo,
    /// NVIDIA's library between CUDA tensors, each member with a device of its own; needs the cargo feature `cuda`.
    Nccl {
        /// This member's CUDA device.
        device: usize,
    },
}

/// This member's place in the group.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// This member's rank, from 0.
    pub rank: u32,
    /// The number of members.
    pub world: u32,
    /// How long to wait for the members to arrive, and for any one collective.
    pub timeout: Duration,
    /// Gloo's listener binds this address (a free port of it); peers learn it through the store.
    pub address: String,
}

/// A group of workers that reduce and broadcast tensors together. All members make the same calls in the same order.
///
/// Dropping it closes its connections: peers that are still in a collective with this member get an error. Those that need
/// no more of it have ten seconds to be done.
#[derive(Debug)]
pub struct ProcessGroup {
    rank: u32,
    world: u32,
    collectives: Arc<AtomicU64>,
    /// c10d matches collectives by their order, so two threads must not race for it.
    order: Mutex<()>,
    aborted: Arc<AtomicBool>,
    /// None for Solo.
    native: Option<Arc<Native>>,
}

/// The C++ group and what is needed to end it.
#[derive(Debug)]
pub(crate) struct Native {
    group: *mut ffi::Group,
    device: Device,
    way_out: WayOut,
    /// Gloo's connections are watched as long as there is this.
    watch: OnceLock<Watch>,
}

/// How a stuck collective is ended.
#[derive(Debug)]
enum WayOut {
    /// Gloo has no abort: its connections are shut, and nobody waits any more for what it does not end by itself.
    Sockets(Vec<Socket>),
    #[cfg(feature = "cuda")]
    NcclAbort,
}

// SAFETY: c10d's backends are made to be used from several threads (autograd's, the watchdog's); the order of our own
// calls is kept by `ProcessGroup::order`, and aborting is allowed at any time.
unsafe impl Send for Native {}
unsafe impl Sync for Native {}

impl Native {
    pub(crate) fn pointer(&self) -> *mut ffi::Group {
        self.group
    }

    /// A peer is known to be gone. NCCL does not say.
    fn is_broken(&self) -> bool {
        match &self.way_out {
            WayOut::Sockets(sockets) => sockets.iter().any(Socket::is_broken),
            #[cfg(feature = "cuda")]
            WayOut::NcclAbort => false,
        }
    }

    /// Ends whatever this group is doing, from any thread.
    fn abort(&self) {
        match &self.way_out {
            WayOut::Sockets(sockets) => sockets.iter().for_each(Socket::shut),
            #[cfg(feature = "cuda")]
            WayOut::NcclAbort => {}
        }
        // SAFETY: the group lives as long as `self`.
        if let Err(error) = unsafe { ffi::check(ffi::tr_group_abort(self.group)) } {
            tracing::warn!(%error, "the group's backend refused to abort");
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // The C++ destructor waits for collectives in flight (a Reducer's, after a failed backward pass), and there is
        // nothing left that could need them.
        self.abort();
        // SAFETY: the last owner; nothing uses the pointer afterwards.
        if let Err(error) = unsafe { ffi::check(ffi::tr_group_free(self.group)) } {
            tracing::warn!(%error, "could not take the process group apart");
        }
    }
}

impl ProcessGroup {
    /// Meets the other members through the store and connects to them. All `world` members must call it with the same
    /// store contents; give every group (every generation of a run) a prefix or a store of its own.
    ///
    /// Blocks until all have arrived, at most `options.timeout`; a store that reports an error ends the wait.
    pub fn new(backend: Backend, store: Arc<dyn KeyValueStore>, options: GroupOptions) -> Result<Self, GroupError> {
        let GroupOptions { rank, world, .. } = options;
        if world == 0 || rank >= world {
            return Err(GroupError::Argument(format!("rank {rank} is not among {world} members")));
        }
        if world > i32::MAX as u32 {
            return Err(GroupError::Argument(format!("{world} members are too many")));
        }
        let native = match backend {
            Backend::Solo if world != 1 => {
                return Err(GroupError::Argument(format!("the solo backend has one member, not {world}")));
            }
            Backend::Solo => None,
            Backend::Gloo => Some(Arc::new(connect::gloo(store, &options)?)),
            Backend::Nccl { device } => Some(Arc::new(connect::nccl(store, &options, device)?)),
        };
        if let Some(native) = &native {
            let watch = Watch::of(native).transpose().map_err(|error| GroupError::Connect {
                backend: "gloo",
                rank,
                world,
                message: format!("cannot start the thread that watches its connections: {error}"),
            })?;
            watch.map(|watch| native.watch.set(watch));
        }
        let (collectives, aborted) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        Ok(Self { rank, world, collectives, order: Mutex::new(()), aborted, native })
    }

    /// This member's rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// The number of members.
    pub fn world(&self) -> u32 {
        self.world
    }

    /// How many collectives were begun so far, each of a [`crate::Reducer`]'s buckets among them.
    pub fn collectives(&self) -> u64 {
        self.collectives.load(Ordering::Relaxed)
    }

    /// The same number for others to read at any time, also while this member is in a collective.
    pub fn collectives_counter(&self) -> Arc<AtomicU64> {
        self.collectives.clone()
    }

    /// Where this group's tensors live: the CPU, or NCCL's device.
    pub fn device(&self) -> Device {
        self.native.as_ref().map_or(Device::Cpu, |native| native.device)
    }

    /// Sums the tensor over all members, in place: float32, bfloat16 or int64.
    pub fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), GroupError> {
        if !matches!(tensor.kind(), Kind::Float | Kind::BFloat16 | Kind::Int64) {
            return Err(GroupError::Argument(format!("cannot all-reduce a tensor of {:?}", tensor.kind())));
        }
        self.collective("all-reduce", from_ref(tensor), |native, tensors| {
            // SAFETY: both pointers are live for the length of the call.
            unsafe { ffi::check(ffi::tr_group_all_reduce_sum(native.group, pointer(&tensors[0]))) }
        })
    }

    /// The first half of a reduction of a flat int64 tensor: afterwards this member has the sums of the
    /// elements that are returned; the others are of no more use. What is then computed from the sums in each member's part
    /// is passed round by [`ProcessGroup::all_gather`], which may take fewer bytes than the sums.
    ///
    /// With NCCL every member has all sums.
    pub fn reduce_scatter_sum(&self, tensor: &Tensor) -> Result<Range<i64>, GroupError> {
        if tensor.kind() != Kind::Int64 {
            return Err(GroupError::Argument(format!("sums are int64, not {:?}", tensor.kind())));
        }
        let Some(bounds) = self.bounds(tensor)? else {
            return self.all_reduce_sum(tensor).map(|()| 0..tensor.size()[0]);
        };
        self.collective("reduce-scatter", from_ref(tensor), |native, tensors| {
            // SAFETY: all pointers are live for the length of the call; there is a bound more than members.
            unsafe { ffi::check(ffi::tr_group_reduce_scatter_sum(native.group, pointer(&tensors[0]), bounds.as_ptr())) }
        })?;
        Ok(bounds[self.rank as usize]..bounds[self.rank as usize + 1])
    }

    /// The second half, of several flat float32 or int64 tensors at once: afterwards every member has every part of each, as
    /// the member left it that has the elements after [`ProcessGroup::reduce_scatter_sum`] of a tensor of the same length.
    pub fn all_gather(&self, tensors: &[Tensor]) -> Result<(), GroupError> {
        let bounds: Option<Vec<_>> = tensors.iter().map(|tensor| self.bounds(tensor)).collect::<Result<_, _>>()?;
        let Some(bounds) = bounds else { return Ok(()) };
        self.collective("all-gather", tensors, |native, tensors| {
            let (count, bounds) = (tensors.len(), bounds.concat());
            // SAFETY: as above, of each tensor.
            unsafe {
                ffi::check(ffi::tr_group_all_gather(native.group, pointers(tensors).as_ptr(), count, bounds.as_ptr()))
            }
        })
    }

    /// Where each member's part begins, and the end; none where each has all.
    fn bounds(&self, tensor: &Tensor) -> Result<Option<Vec<i64>>, GroupError> {
        let size = tensor.size();
        if size.len() != 1 || !tensor.is_contiguous() || !matches!(tensor.kind(), Kind::Float | Kind::Int64) {
            return Err(GroupError::Argument(format!("a flat tensor is needed, not {size:?} of {:?}", tensor.kind())));
        }
        let in_parts = self.native.as_deref().is_some_and(|native| matches!(native.way_out, WayOut::Sockets(_)));
        let bound = |member: u32| (i128::from(size[0]) * i128::from(member) / i128::from(self.world)) as i64;
        Ok(in_parts.then(|| (0..=self.world).map(bound).collect()))
    }

    /// Overwrites the tensor with `root`'s, in place. Shape and kind must be the same everywhere.
    pub fn broadcast(&self, tensor: &Tensor, root: u32) -> Result<(), GroupError> {
        if root >= self.world {
            return Err(GroupError::Argument(format!("root {root} is not among {} members", self.world)));
        }
        self.collective("broadcast", from_ref(tensor), |native, tensors| {
            // SAFETY: both pointers are live for the length of the call.
            unsafe { ffi::check(ffi::tr_group_broadcast(native.group, pointer(&tensors[0]), root as i32)) }
        })
    }

    /// Every member's value, in rank order.
    pub fn all_gather_i64(&self, value: i64) -> Result<Vec<i64>, GroupError> {
        let mut values = vec![0; self.world as usize];
        values[self.rank as usize] = value;
        let tensor = Tensor::from_slice(&values).to_device(self.device());
        self.all_reduce_sum(&tensor)?; // everyone else has a zero there
        Vec::<i64>::try_from(&tensor.to_device(Device::Cpu)).map_err(|error: tch::TchError| GroupError::Collective {
            operation: "all-gather",
            message: error.to_string(),
        })
    }

    /// Returns once every member has called it.
    pub fn barrier(&self) -> Result<(), GroupError> {
        self.all_gather_i64(0).map(drop)
    }

    /// Whether the members can still be there: an error if the group was aborted, or if a Gloo peer's connection is
    /// closed, as it is when its process dies. Costs a system call a peer and waits for nothing, so that a long
    /// computation can ask now and then instead of learning it in its next collective. Peers are told.
    pub fn check(&self) -> Result<(), GroupError> {
        const OPERATION: &str = "the group";
        if self.aborted.load(Ordering::SeqCst) {
            return Err(GroupError::Aborted { operation: OPERATION });
        }
        match self.native.as_deref() {
            Some(native) if native.is_broken() => {
                native.abort();
                Err(GroupError::Collective { operation: OPERATION, message: "a peer closed its connection".into() })
            }
            _ => Ok(()),
        }
    }

    /// A handle that ends this group's collectives from another thread.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle::new(self.aborted.clone(), self.native.as_ref())
    }

    /// The C++ group; None for Solo.
    pub(crate) fn native(&self) -> Option<&Arc<Native>> {
        self.native.as_ref()
    }

    /// Runs it on the tensors, or, where the backend does not reach a tensor's device, on a copy that it does.
    fn collective(
        &self,
        operation: &'static str,
        tensors: &[Tensor],
        run: impl FnOnce(&Native, &[Tensor]) -> Result<(), NativeError>,
    ) -> Result<(), GroupError> {
        let _in_order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.aborted.load(Ordering::SeqCst) {
            return Err(GroupError::Aborted { operation });
        }
        self.collectives.fetch_add(1, Ordering::Relaxed);
        let Some(native) = self.native.as_deref() else { return Ok(()) };
        let near: Vec<Tensor> = tensors.iter().map(|tensor| tensor.detach().to_device(native.device)).collect();
        let Err(NativeError(message)) = run(native, &near) else {
            for (tensor, copy) in tensors.iter().zip(&near).filter(|(tensor, _)| tensor.device() != native.device) {
                tensor.detach().copy_(copy);
            }
            return Ok(());
        };
        if self.aborted.load(Ordering::SeqCst) {
            return Err(GroupError::Aborted { operation });
        }
        // A peer that still waits for us, and not for the member that failed, must learn of it now.
        native.abort();
        Err(GroupError::Collective { operation, message })
    }
}
