// Where the CPU's tensors lie, and what becomes of memory that they leave.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/core/impl/alloc_cpu.h>

#include <climits>
#include <cstdint>
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
    constexpr size_t kBefore = sizeof(void*); // where the piece begins is told before the data
    void* piece = std::malloc(bytes + kBefore + c10::gAlignment);
    TORCH_CHECK_WITH(OutOfMemoryError, piece != nullptr, "not enough memory: ", bytes, " bytes for a tensor");
    const auto first = reinterpret_cast<uintptr_t>(piece) + kBefore;
    void* data = reinterpret_cast<void*>((first + c10::gAlignment - 1) / c10::gAlignment * c10::gAlignment);
    static_cast<void**>(data)[-1] = piece;
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, &release, c10::Device(c10::kCPU)};
  }

  // oneDNN takes and leaves memory without a DataPtr.
  c10::DeleterFnPtr raw_deleter() const override {
    return &release;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release(void* data) {
    if (data != nullptr) {
      c10::profiledCPUMemoryReporter().Delete(data);
      std::free(static_cast<void**>(data)[-1]);
    }
  }
};

// Before main: whoever has taken memory without a DataPtr must leave it to the same allocator.
__attribute__((constructor)) void align_by_hand() {
  static AlignedByHand allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

} // namespace

extern "C" {

void tr_keep_freed_memory() {
#ifdef __GLIBC__
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
