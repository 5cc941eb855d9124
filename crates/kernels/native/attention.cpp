// Attention with dropout of its weights, for which libtorch has no fused kernel on the CPU.
//
// Each head of each sequence is one piece of work: its products, its softmax and its dropout stay in the core's cache, and
// read and write queries, keys, values and their gradients where they are, one beside the other. What is kept for the
// backward pass is the softmax.
#include "drop.h"
#include "hash.h"
#include "shim.h"
#include "softmax.h"
#include "versions.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cmath>

namespace {

TR_VERSIONS
void add(float* values, const float* other, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] += other[i];
  }
}

TR_VERSIONS
void multiply(float* values, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] *= factor;
  }
}

// The gradient of the softmax's result, seen through dropout, becomes that of what it was made of: with weights w and
// d = w after dropout, g becomes g·d - w·sum(g·d). What was dropped is 0 in d, and so adds nothing to either.
TR_VERSIONS
void through_softmax(float* gradient, const float* dropped, const float* weights, int64_t count) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      gradient[i + lane] *= dropped[i + lane];
      lanes[lane] += gradient[i + lane];
    }
  }
  float sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += lanes[lane];
  }
  for (; i < count; ++i) {
    gradient[i] *= dropped[i];
    sum += gradient[i];
  }
  for (i = 0; i < count; ++i) {
    gradient[i] -= weights[i] * sum;
  }
}

struct Shape {
  int64_t batch, length, heads, width;

  // `packed`: [batch, length, 3, heads, width]
  explicit Shape(const at::Tensor& packed)
      : batch(packed.size(0)), length(packed.size(1)), heads(packed.size(3)), width(packed.size(4)) {}

  // One head's queries (0), keys (1) or values (2). [length, width]
  at::Tensor part(const at::Tensor& packed, int64_t which, int64_t unit) const {
    return packed.select(0, unit / heads).select(1, which).select(1, unit % heads);
  }

  // One head of [batch, length, heads × width]. [length, width]
  at::Tensor head(const at::Tensor& joined, int64_t unit) const {
    return joined.select(0, unit / heads).narrow(1, unit % heads * width, width);
  }
};

struct Drop {
  uint32_t first, second, threshold;
  float factor;

  Drop(double probability, int64_t key)
      : first(static_cast<uint32_t>(key)),
        second(static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32)),
        threshold(static_cast<uint32_t>(probability * 4294967296.0)),
        factor(static_cast<float>(1.0 / (1.0 - probability))) {}

  void apply(const float* from, float* into, int64_t begin, int64_t count) const {
    trireme::drop(from, into, static_cast<uint32_t>(begin), count, first, second, threshold, factor);
  }
};

class Attention final : public torch::autograd::Function<Attention> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& input,
      const std::optional<at::Tensor>& bias,
      double probability,
      int64_t key) {
    const at::Tensor packed = input.contiguous();
    const Shape shape(packed);
    const int64_t length = shape.length, square = length * length;
    TORCH_CHECK(shape.batch * shape.heads * square < (int64_t{1} << 32), "dropout of more than 2^32 elements");
    at::Tensor result = at::empty({shape.batch, length, shape.heads * shape.width}, packed.options());
    at::Tensor weights = at::empty({shape.batch * shape.heads, length, length}, packed.options());
    at::Tensor offsets;
    if (bias.has_value()) {
      TORCH_CHECK(bias->numel() == shape.batch * length, "the bias must have one number for each position");
      offsets = bias->contiguous();
    }
    const Drop drop(probability, key);
    const double factor = 1.0 / std::sqrt(static_cast<double>(shape.width));
    at::parallel_for(0, shape.batch * shape.heads, 1, [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView no_autograd;
      at::Tensor dropped = at::empty({length, length}, packed.options());
      for (int64_t unit = begin; unit < end; ++unit) {
        at::Tensor own = weights.select(0, unit);
        at::addmm_out(own, own, shape.part(packed, 0, unit), shape.part(packed, 1, unit).t(), 0, factor);
        float* values = own.data_ptr<float>();
        for (int64_t row = 0; row < length; ++row) {
          float* scores = values + row * length;
          if (offsets.defined()) {
            add(scores, offsets.const_data_ptr<float>() + unit / shape.heads * length, length);
          }
          const double sum = exponentials(scores, length, greatest(scores, length));
          multiply(scores, length, static_cast<float>(1.0 / sum));
        }
        drop.apply(values, dropped.data_ptr<float>(), unit * square, square);
        at::Tensor into = shape.head(result, unit);
        at::mm_out(into, dropped, shape.part(packed, 2, unit));
      }
    });
    context->save_for_backward({packed, weights});
    context->saved_data["probability"] = probability;
    context->saved_data["key"] = key;
    return result;
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor packed = saved[0].detach();
    const at::Tensor& weights = saved[1];
    const Shape shape(packed);
    const int64_t length = shape.length, square = length * length;
    const at::Tensor gradient = gradients[0].contiguous();
    const at::Tensor result = at::empty_like(packed);
    const Drop drop(context->saved_data["probability"].toDouble(), context->saved_data["key"].toInt());
    const double factor = 1.0 / std::sqrt(static_cast<double>(shape.width));
    at::parallel_for(0, shape.batch * shape.heads, 1, [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView no_autograd;
      at::Tensor dropped = at::empty({length, length}, packed.options());
      at::Tensor scores = at::empty({length, length}, packed.options());
      for (int64_t unit = begin; unit < end; ++unit) {
        const float* own = weights.const_data_ptr<float>() + unit * square;
        drop.apply(own, dropped.data_ptr<float>(), unit * square, square);
        const at::Tensor from = shape.head(gradient, unit);
        at::Tensor to_query = shape.part(result, 0, unit), to_key = shape.part(result, 1, unit);
        at::Tensor to_value = shape.part(result, 2, unit);
        at::mm_out(to_value, dropped.t(), from);
        at::mm_out(scores, from, shape.part(packed, 2, unit).t());
        float* values = scores.data_ptr<float>();
        for (int64_t row = 0; row < length; ++row) {
          const int64_t at = row * length;
          through_softmax(values + at, dropped.const_data_ptr<float>() + at, own + at, length);
        }
        at::addmm_out(to_query, to_query, scores, shape.part(packed, 1, unit), 0, factor);
        at::addmm_out(to_key, to_key, scores.t(), shape.part(packed, 0, unit), 0, factor);
      }
    });
    return {result, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

extern "C" char* tr_attention(at::Tensor* packed, at::Tensor* bias, double probability, at::Tensor** result) {
  return trireme::guarded([&] {
    TORCH_CHECK(probability >= 0.0 && probability < 1.0, "a dropout probability of ", probability);
    TORCH_CHECK(packed->dim() == 5 && packed->size(2) == 3, "queries, keys and values must be side by side");
    const std::optional<at::Tensor> offsets = bias == nullptr ? std::nullopt : std::optional<at::Tensor>(*bias);
    *result = new at::Tensor(Attention::apply(*packed, offsets, probability, trireme::next_key()));
  });
}
