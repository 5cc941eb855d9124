// NCCL through libtorch's ProcessGroupNCCL. Only compiled with the cargo feature `cuda`.
#include "group.h"

#include <c10/core/DeviceGuard.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstdlib>
#include <mutex>

namespace {

// A failed collective must come back as an error of the call, not end the process from a watchdog thread: wait() blocks
// until the collective is done, and our AbortHandle is what ends it. A user's own settings win.
void prefer_errors_over_exits() {
  static std::once_flag once;
  std::call_once(once, [] {
    setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
    setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/0);
    setenv("TORCH_NCCL_ENABLE_MONITORING", "0", /*overwrite=*/0);
  });
}

} // namespace

extern "C" {

char* tr_group_nccl(
    void* store_self,
    const TrStoreTable* table,
    int rank,
    int world,
    int device,
    int64_t timeout_ms,
    TrGroup** result) {
  return trireme::guarded([&] {
    const std::chrono::milliseconds timeout(timeout_ms);
    c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<trireme::RustStore>(store_self, *table, timeout);
    prefer_errors_over_exits();
    const c10::Device place(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
    const c10::DeviceGuard guard(place); // not CUDAGuard: its inline code would need libcudart on the link line
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, world, options);
    // Connect now: a peer that cannot be reached is an error here, not in the first step.
    backend->eagerConnectSingleDevice(place);
    *result = new TrGroup{store, backend, c10d::ProcessGroup::BackendType::NCCL, c10::DeviceType::CUDA};
  });
}

// NCCL's own number (22809 is 2.28.9), or 0. Asked through libtorch, so that it is the NCCL that libtorch uses.
int tr_nccl_version() {
  try {
    return c10d::getNcclVersionNumber();
  } catch (...) {
    return 0;
  }
}

} // extern "C"
