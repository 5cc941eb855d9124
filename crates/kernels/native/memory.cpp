// Where the CPU's tensors lie, and what becomes of memory that they leave.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/core/impl/alloc_cpu.h>

#include <climits>
#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

// As libtorch's own, but aligned by hand. glibc looks for an aligned piece in free ones that are larger than it by as much as
// aligning could cost, so never in what a tensor of the same size has left.
class AlignedByHand final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    }
    void* whole = std::malloc(bytes + c10::gAlignment);
    TORCH_CHECK_WITH(OutOfMemoryError, whole != nullptr, "not enough memory: ", bytes, " bytes for a tensor");
    const auto address = reinterpret_cast<uintptr_t>(whole);
    void* data = reinterpret_cast<void*>((address + c10::gAlignment - 1) / c10::gAlignment * c10::gAlignment);
    c10::profiledCPUMemoryReporter().New(whole, bytes);
    return {data, whole, &release, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release(void* whole) {
    if (whole != nullptr) {
      c10::profiledCPUMemoryReporter().Delete(whole);
      std::free(whole);
    }
  }
};

} // namespace

extern "C" {

void tr_keep_freed_memory() {
#ifdef __GLIBC__
  static AlignedByHand allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
#endif
}

void tr_return_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

} // extern "C"
