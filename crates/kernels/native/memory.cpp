// Where the CPU's tensors lie, and what becomes of memory that they leave.
#include "shim.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>

#include <cstdint>
#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

// For an aligned piece glibc takes only free ones that are larger than it by all that aligning could cost, so not what a
// tensor of the same size has left, unless a neighbour is free, too. So this one, unlike libtorch's own, takes a plain
// piece and aligns within it.
class AlignedByHand final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    }
    constexpr size_t kMore = sizeof(void*) + c10::gAlignment; // where the piece begins is told before the data
    void* piece = bytes <= PTRDIFF_MAX - kMore ? std::malloc(bytes + kMore) : nullptr;
    if (piece == nullptr) {
      c10::profiledCPUMemoryReporter().OutOfMemory(bytes);
      TORCH_CHECK_WITH(OutOfMemoryError, false, "not enough memory: ", bytes, " bytes for a tensor");
    }
    const auto first = reinterpret_cast<uintptr_t>(piece) + sizeof(void*);
    void* data = reinterpret_cast<void*>((first + c10::gAlignment - 1) / c10::gAlignment * c10::gAlignment);
    static_cast<void**>(data)[-1] = piece;
    c10::DataPtr result(data, data, &release, c10::Device(c10::kCPU));
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return result;
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

} // namespace

namespace trireme {

void set_cpu_allocator() {
  static AlignedByHand* const allocator = new AlignedByHand; // never deleted: threads may outlive main
  c10::SetCPUAllocator(allocator, /*priority=*/1);
}

} // namespace trireme

extern "C" {

void tr_keep_freed_memory() {
#ifdef __GLIBC__
  // Larger pieces come from the system and go back to it. glibc before 2.35 refuses more than 32 MiB, so that is tried second.
  // The trim threshold alone would keep malloc from raising this one from 128 KiB.
  if (mallopt(M_MMAP_THRESHOLD, 1 << 30) != 0 || mallopt(M_MMAP_THRESHOLD, 32 << 20) != 0) {
    mallopt(M_TRIM_THRESHOLD, -1); // never
  }
#endif
}

void tr_return_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

} // extern "C"
