//! The C++ functions (native/*.cpp), exactly as they are. Safe wrappers are in the modules beside this one.

use std::ffi::{c_char, c_double, c_int, c_void};

use torch_sys::C_tensor;

#[cfg(feature = "cuda")]
unsafe extern "C" {
    pub(crate) fn tr_graph_record(
        input: *mut C_tensor,
        mask: *mut C_tensor,
        leaves: *const *mut C_tensor,
        count: usize,
        body: unsafe extern "C" fn(
            *mut c_void,
            *mut C_tensor,
            *mut C_tensor,
            *mut *mut C_tensor,
            *mut c_char,
            usize,
        ) -> c_int,
        data: *mut c_void,
        graph: *mut *mut c_void,
    ) -> *mut c_char;
    pub(crate) fn tr_graph_replay(
        graph: *mut c_void,
        input: *mut C_tensor,
        mask: *mut C_tensor,
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn tr_graph_free(graph: *mut c_void);
}

unsafe extern "C" {
    pub(crate) fn tr_linear(
        input: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn tr_masked_loss(
        rows: *mut C_tensor,
        weight: *mut C_tensor,
        bias: *mut C_tensor,
        labels: *mut C_tensor,
        loss: *mut *mut C_tensor,
        correct: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn tr_dropout(input: *mut C_tensor, probability: c_double, result: *mut *mut C_tensor) -> *mut c_char;
    pub(crate) fn tr_gelu(input: *mut C_tensor, result: *mut *mut C_tensor) -> *mut c_char;
    pub(crate) fn tr_gated_gelu(input: *mut C_tensor, result: *mut *mut C_tensor) -> *mut c_char;
    pub(crate) fn tr_row_attention(
        query: *mut C_tensor,
        key: *mut C_tensor,
        value: *mut C_tensor,
        lengths: *const i64,
        rows: usize,
        reach: i64,
        probability: c_double,
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn tr_checkpoint(
        inputs: *const *mut C_tensor,
        count: usize,
        body: unsafe extern "C" fn(*mut c_void, *mut C_tensor, *mut *mut C_tensor, *mut c_char, usize) -> c_int,
        drop: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn tr_memory_begin(watch: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn tr_memory_end(watch: *mut c_void, most: *mut i64);
    pub(crate) fn tr_attention(
        packed: *mut C_tensor,
        bias: *mut C_tensor,
        probability: c_double,
        result: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn tr_embedding(table: *mut C_tensor, ids: *mut C_tensor, result: *mut *mut C_tensor) -> *mut c_char;
    pub(crate) fn tr_backward(loss: *mut C_tensor) -> *mut c_char;
    pub(crate) fn tr_fixed_point_accumulate(
        gradient: *mut C_tensor,
        accumulator: *mut C_tensor,
        offset: i64,
        count: i64,
        fraction_bits: c_int,
        first: c_int,
        bad: *mut u64,
    ) -> *mut c_char;
    pub(crate) fn tr_fixed_point_backward(
        loss: *mut C_tensor,
        leaves: *const *mut C_tensor,
        offsets: *const i64,
        count: usize,
        accumulator: *mut C_tensor,
        fraction_bits: c_int,
        first: c_int,
        done: unsafe extern "C" fn(*mut c_void, usize),
        data: *mut c_void,
        bad: *mut u64,
    ) -> *mut c_char;
    pub(crate) fn tr_fixed_point_to_float(
        accumulator: *mut C_tensor,
        offset: i64,
        gradient: *mut C_tensor,
        fraction_bits: c_int,
    ) -> *mut c_char;
    pub(crate) fn tr_norms(tensors: *const *mut C_tensor, count: usize, result: *mut *mut C_tensor) -> *mut c_char;
    pub(crate) fn tr_trace_begin(cuda: c_int) -> *mut c_char;
    pub(crate) fn tr_trace_end(path: *const c_char) -> *mut c_char;
    pub(crate) fn tr_keep_freed_memory();
    pub(crate) fn tr_return_freed_memory();
    pub(crate) fn tr_deterministic_algorithms() -> *mut c_char;
    pub(crate) fn tr_autocast_begin(cuda: c_int) -> *mut c_char;
    pub(crate) fn tr_autocast_end(cuda: c_int) -> *mut c_char;
    pub(crate) fn tr_autocast_is_on() -> c_int;
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
}
