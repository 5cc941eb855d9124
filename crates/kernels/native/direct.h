// A way past autograd to where a backward pass leaves a leaf's gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

namespace trireme {

// A part of one leaf's gradient on the CPU, which its operator adds itself, piece by piece while the pieces are in the
// cache, instead of handing the whole of it to autograd. Several threads may add to different elements.
class DirectPart {
 public:
  // Of the backward pass that this thread is in. None if it is in none, or if this leaf's gradient has no place in it: then
  // the gradient is autograd's, as ever.
  static std::unique_ptr<DirectPart> of(const at::Tensor& leaf);

  virtual ~DirectPart() = default;

  // To be called before a part is added that does not reach all elements.
  virtual void begin() {}

  // Adds to the elements from `start` on.
  virtual void add(int64_t start, const float* values, int64_t count) = 0;
};

// A backward pass that has a place for parts. This thread is in it for as long as it lives.
class DirectPass {
 public:
  DirectPass();
  virtual ~DirectPass();

  DirectPass(const DirectPass&) = delete;
  DirectPass& operator=(const DirectPass&) = delete;

  // The next part of a leaf on the CPU (float32, contiguous), or none.
  virtual std::unique_ptr<DirectPart> next_part(const at::Tensor& leaf) = 0;

 private:
  DirectPass* outer_;
};

} // namespace trireme
