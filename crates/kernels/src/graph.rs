//! CUDA graphs of parts of a network.

use tch::Tensor;

use crate::native::NativeError;

#[cfg(feature = "cuda")]
pub use recorded::Graph;
#[cfg(not(feature = "cuda"))]
pub use unavailable::Graph;

/// What a part is a function of: its input and, where there is one, the mask of the micro-batch.
type Inputs<'a> = (&'a Tensor, Option<&'a Tensor>);

#[cfg(feature = "cuda")]
mod recorded {
    use super::{Inputs, NativeError, Tensor};
    use std::ffi::{c_char, c_int, c_void};
    use std::ptr;

    use torch_sys::C_tensor;

    use crate::ffi;
    use crate::native::{answer, check, made, pointer};

    /// The launches of a part of a network, recorded once for its forward and once for its backward pass, for inputs of
    /// one shape. Replaying them costs the processor next to nothing, whatever their number.
    pub struct Graph(*mut c_void);

    // SAFETY: what C++ holds belongs to no thread.
    unsafe impl Send for Graph {}

    type Body<'a> = &'a dyn Fn(&Tensor, Option<&Tensor>) -> Tensor;

    impl Graph {
        /// Whether there is any.
        pub const AVAILABLE: bool = true;

        /// Records `body`, which is a function of the inputs and of `leaves`: every tensor that it reads and has not made
        /// itself, parameters and others. They are kept; their values may change in place later. It is run four times;
        /// torch's generator then stands where it stood. `body` must not wait for the device, and nobody may hold on to
        /// autograd's nodes that add up the leaves' gradients, as DDP's reducer does.
        ///
        /// # Errors
        /// If the tensors are on no CUDA device, nothing needs a gradient, or `body` panics or does what cannot be
        /// recorded. Nothing can be computed on the device after that: the process is to end.
        pub fn record(
            (input, mask): Inputs<'_>,
            leaves: &[&Tensor],
            body: impl Fn(&Tensor, Option<&Tensor>) -> Tensor,
        ) -> Result<Self, NativeError> {
            let leaves: Vec<_> = leaves.iter().map(|tensor| pointer(tensor)).collect();
            let mut body: Body<'_> = &body;
            let mut graph = ptr::null_mut();
            // SAFETY: the tensors and `body` live for the length of the call, and `body` is only called within it.
            unsafe {
                check(ffi::tr_graph_record(
                    pointer(input),
                    mask.map_or(ptr::null_mut(), pointer),
                    leaves.as_ptr(),
                    leaves.len(),
                    call_body,
                    (&raw mut body).cast::<c_void>(),
                    &mut graph,
                ))?;
            }
            Ok(Self(graph))
        }

        /// What the part gives for these inputs, differentiable: the bits of the part itself, dropout included, which
        /// follows torch's generator. Its one backward pass must come before the next replay.
        ///
        /// # Panics
        /// If the inputs have other shapes or kinds than those it was recorded with.
        #[track_caller]
        pub fn replay(&self, (input, mask): Inputs<'_>) -> Tensor {
            let mask = mask.map_or(ptr::null_mut(), pointer);
            // SAFETY: the tensors are live for the length of the call.
            let [result] =
                unsafe { made("graph", |[result]| ffi::tr_graph_replay(self.0, pointer(input), mask, result)) };
            result
        }
    }

    impl Drop for Graph {
        fn drop(&mut self) {
            // SAFETY: it is ours, and this is called once.
            unsafe { ffi::tr_graph_free(self.0) }
        }
    }

    /// What C++ calls: no panic may get there.
    unsafe extern "C" fn call_body(
        data: *mut c_void,
        input: *mut C_tensor,
        mask: *mut C_tensor,
        output: *mut *mut C_tensor,
        message: *mut c_char,
        room: usize,
    ) -> c_int {
        // SAFETY: `data` is the `body` of `record`, which waits for this; the tensors are ours.
        let (body, input) = unsafe { (*data.cast::<Body<'_>>(), Tensor::from_ptr(input)) };
        let mask = (!mask.is_null()).then(|| unsafe { Tensor::from_ptr(mask) });
        // SAFETY: these are the caller's.
        unsafe { answer(|| body(&input, mask.as_ref()), output, message, room) }
    }
}

#[cfg(not(feature = "cuda"))]
mod unavailable {
    use super::{Inputs, NativeError, Tensor};

    /// CUDA graphs: not in this build, which lacks the feature `cuda`.
    pub enum Graph {}

    impl Graph {
        /// Whether there is any.
        pub const AVAILABLE: bool = false;

        /// Fails.
        pub fn record(
            _: Inputs<'_>,
            _: &[&Tensor],
            _: impl Fn(&Tensor, Option<&Tensor>) -> Tensor,
        ) -> Result<Self, NativeError> {
            Err(NativeError("CUDA graphs need a build with the cargo feature `cuda` (docs/guide/cuda.md)".to_owned()))
        }

        /// There is none to be called.
        pub fn replay(&self, _: Inputs<'_>) -> Tensor {
            match *self {}
        }
    }
}
