// Dropout whose mask is a function of (key, position) and is computed again in the backward pass instead of stored.
#include "drop.h"
#include "hash.h"
#include "shim.h"
#include "versions.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace {

constexpr int64_t kGrain = 1 << 14;

at::Tensor masked(const at::Tensor& input, double probability, int64_t key) {
  const at::Tensor source = input.contiguous();
  TORCH_CHECK(source.numel() < (int64_t{1} << 32), "dropout of more than 2^32 elements");
  at::Tensor result = at::empty_like(source);
  const auto threshold = static_cast<uint32_t>(probability * 4294967296.0);
  const auto factor = static_cast<float>(1.0 / (1.0 - probability));
  const auto first = static_cast<uint32_t>(key);
  const auto second = static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32);
  const float* from = source.const_data_ptr<float>();
  float* into = result.data_ptr<float>();
  at::parallel_for(0, source.numel(), kGrain, [&](int64_t begin, int64_t end) {
    trireme::drop(
        from + begin, into + begin, static_cast<uint32_t>(begin), end - begin, first, second, threshold, factor);
  });
  return result;
}

class Dropout final : public torch::autograd::Function<Dropout> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& input,
      double probability,
      int64_t key) {
    context->saved_data["probability"] = probability;
    context->saved_data["key"] = key;
    return masked(input, probability, key);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const double probability = context->saved_data["probability"].toDouble();
    const int64_t key = context->saved_data["key"].toInt();
    return {masked(gradients[0], probability, key), at::Tensor(), at::Tensor()};
  }
};

} // namespace

namespace trireme {

// One bit decision for each position: the two halves of the key enter before and between two rounds of the hash. The
// counter has as many bits as the hash, or each vector would be made of two of twice the width.
TR_VERSIONS
void drop(
    const float* from,
    float* into,
    uint32_t begin,
    int64_t count,
    uint32_t first,
    uint32_t second,
    uint32_t threshold,
    float factor) {
  const uint32_t key = begin + first;
  const auto positions = static_cast<uint32_t>(count);
  for (uint32_t i = 0; i < positions; ++i) {
    const uint32_t random = mixed(mixed(i + key) ^ second);
    // All are scaled and the bits of some cleared: with a branch it would be no vector loop.
    union {
      float value;
      uint32_t bits;
    } kept = {from[i] * factor};
    kept.bits &= random >= threshold ? 0xffffffffu : 0u;
    into[i] = kept.value;
  }
}

} // namespace trireme

extern "C" char* tr_dropout(at::Tensor* input, double probability, at::Tensor** result) {
  return trireme::guarded([&] {
    TORCH_CHECK(probability >= 0.0 && probability < 1.0, "a dropout probability of ", probability);
    *result = new at::Tensor(Dropout::apply(*input, probability, trireme::next_key()));
  });
}
