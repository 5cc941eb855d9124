// A way past autograd into the fixed-point sum of a backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <optional>

namespace trireme {

// A part of one leaf's gradient on the CPU, which its operator adds to the sum itself, piece by piece while the pieces are
// in the cache, instead of handing the whole of it to autograd. Several threads may add to different elements.
class DirectPart {
 public:
  // Of the backward pass of exact mode that this thread is in. None if it is in none, or if this leaf is not in its sum or
  // has had its parts: then the gradient is autograd's, as ever.
  static std::optional<DirectPart> of(const at::Tensor& leaf);

  // Zeros, unless something is there already: for a part that does not reach all elements.
  void begin();

  // Adds to the elements from `start` on, or, in the first part of a sum that was not begun, stores.
  void add(int64_t start, const float* values, int64_t count);

 private:
  DirectPart(int64_t* sum, int64_t elements, double factor, bool first, std::atomic<int64_t>* bad)
      : sum_(sum), elements_(elements), factor_(factor), first_(first), bad_(bad) {}

  int64_t* sum_;
  int64_t elements_;
  double factor_;
  bool first_;
  std::atomic<int64_t>* bad_;
};

} // namespace trireme
