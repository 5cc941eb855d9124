#include "group.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <cstdlib>

namespace {

// c10d's flight recorder keeps the last 2,000 collectives of all groups of the process for a dump that Trireme has no
// use for, and its map of groups is changed without a lock: two groups whose first collectives coincide end the process
// (libtorch 2.11.0, FlightRecorder::recordWithResetEnabled). It reads this once, at the first collective; who sets it
// wins. Before main, because setenv races with every getenv of other threads.
__attribute__((constructor)) void without_flight_recorder() {
  setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/0);
}

// Collectives write into the storage behind autograd's back, as c10d does everywhere: parameters that require gradients
// may be broadcast.
template <typename F>
void in_place(at::Tensor& tensor, const F& collective) {
  at::NoGradGuard no_grad;
  at::Tensor plain = tensor.detach();
  if (plain.is_contiguous()) {
    std::vector<at::Tensor> list{plain};
    collective(list)->wait();
    return;
  }
  std::vector<at::Tensor> list{plain.contiguous()};
  collective(list)->wait();
  plain.copy_(list[0]);
}

} // namespace

extern "C" {

char* tr_group_gloo(
    void* store_self,
    const TrStoreTable* table,
    int rank,
    int world,
    int64_t connect_timeout_ms,
    int64_t timeout_ms,
    const char* address,
    TrGroup** result) {
  return trireme::guarded([&] {
    const std::chrono::milliseconds connect_timeout(connect_timeout_ms);
    c10::intrusive_ptr<c10d::Store> store =
        c10::make_intrusive<trireme::RustStore>(store_self, *table, connect_timeout);
    auto options = c10d::ProcessGroupGloo::Options::create(connect_timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address, /*lazyInit=*/false));
    options->threads = 1; // one collective at a time, in the order of the calls
    c10::intrusive_ptr<c10d::Backend> backend =
        c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options);
    backend->setTimeout(std::chrono::milliseconds(timeout_ms));
    *result = new TrGroup{store, backend, c10d::ProcessGroup::BackendType::GLOO, c10::DeviceType::CPU};
  });
}

char* tr_group_all_reduce_sum(TrGroup* group, at::Tensor* tensor) {
  return trireme::guarded([&] {
    in_place(*tensor, [&](std::vector<at::Tensor>& list) {
      c10d::AllreduceOptions options;
      options.reduceOp = c10d::ReduceOp::SUM;
      return group->backend->allreduce(list, options);
    });
  });
}

char* tr_group_broadcast(TrGroup* group, at::Tensor* tensor, int root) {
  return trireme::guarded([&] {
    in_place(*tensor, [&](std::vector<at::Tensor>& list) {
      c10d::BroadcastOptions options;
      options.rootRank = root;
      options.rootTensor = 0;
      return group->backend->broadcast(list, options);
    });
  });
}

// Only NCCL has an abort of its own; see the Rust side for Gloo's.
char* tr_group_abort(TrGroup* group) {
  return trireme::guarded([&] { group->backend->abort(); });
}

char* tr_group_free(TrGroup* group) {
  return trireme::guarded([&] { delete group; });
}

} // extern "C"
