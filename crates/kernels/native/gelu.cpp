// The Gaussian error linear unit x · Φ(x), also gated by what lies beside it, by one vector loop each way; the same
// bits on every instruction set.
#include "exponential.h"
#include "shim.h"
#include "versions.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

namespace {

constexpr int64_t kGrain = 1 << 14;

// What both loops need of an element.
struct Gauss {
  float below; // Φ(x)
  float power; // e^(-x²/2)
};

// Φ(-|x|) = e^(-x²/2) · P(t) / 2 with t = 1 / (1 + 0.43 · |x| / √2): the form of Abramowitz and Stegun's 7.1.26. P has degree
// 8 and the least greatest relative error, 1e-7; by it small values keep their leading digits.
TR_INLINE Gauss gauss(float x) {
  const float size = std::fabs(x);
  const float t = 1.0f / (1.0f + 0.304055916f * size);
  float p = 0.0737097263f;
  p = p * t - 0.310381174f;
  p = p * t + 0.383719563f;
  p = p * t - 0.0857388377f;
  p = p * t + 0.246851504f;
  p = p * t + 0.204948932f;
  p = p * t + 0.244375795f;
  p = p * t + 0.24251458f;
  const float power = exponential(-0.5f * size * size);
  const float tail = 0.5f * p * t * power;
  return {x > 0.0f ? 1.0f - tail : tail, power};
}

TR_VERSIONS
void forward_range(const float* __restrict from, float* __restrict into, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    into[i] = from[i] * gauss(from[i]).below;
  }
}

// Φ(x) + x · φ(x). Beyond 14 the second is nothing, and the power, which ends at e^-87, would make something of it.
TR_INLINE float slope(float x, const Gauss& found) {
  const float near = x > 14.0f ? 14.0f : (x < -14.0f ? -14.0f : x);
  return found.below + near * found.power * 0.398942280f;
}

// Turns the gradient of the results into that of the inputs.
TR_VERSIONS
void backward_range(const float* __restrict from, float* __restrict gradient, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    gradient[i] *= slope(from[i], gauss(from[i]));
  }
}

// A row is 2 · width numbers: first the inputs, which go through the unit, then the gates, which multiply the result.
TR_VERSIONS
void forward_gated(
    const float* __restrict inputs,
    const float* __restrict gates,
    float* __restrict into,
    int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    into[i] = inputs[i] * gauss(inputs[i]).below * gates[i];
  }
}

TR_VERSIONS
void backward_gated(
    const float* __restrict inputs,
    const float* __restrict gates,
    const float* __restrict gradient,
    float* __restrict to_inputs,
    float* __restrict to_gates,
    int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const Gauss found = gauss(inputs[i]);
    to_inputs[i] = gradient[i] * gates[i] * slope(inputs[i], found);
    to_gates[i] = gradient[i] * (inputs[i] * found.below);
  }
}

class Gelu final : public torch::autograd::Function<Gelu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input) {
    const at::Tensor source = input.contiguous();
    const at::Tensor result = at::empty_like(source);
    const float* from = source.const_data_ptr<float>();
    float* into = result.data_ptr<float>();
    at::parallel_for(0, source.numel(), kGrain, [&](int64_t begin, int64_t end) {
      forward_range(from + begin, into + begin, end - begin);
    });
    context->save_for_backward({source});
    return result;
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "gelu has no second derivative");
    const auto saved = context->get_saved_variables();
    const at::Tensor result = to_be_written(gradients[0]);
    const float* from = saved[0].const_data_ptr<float>();
    float* into = result.data_ptr<float>();
    at::parallel_for(0, result.numel(), kGrain, [&](int64_t begin, int64_t end) {
      backward_range(from + begin, into + begin, end - begin);
    });
    return {result};
  }

 private:
  // The gradient itself if nobody else holds it, or else a copy: pages of fresh memory cost more than this loop.
  static at::Tensor to_be_written(const at::Tensor& gradient) {
    const bool alone = gradient.use_count() == 1 && gradient.storage().use_count() == 1 && gradient.is_contiguous();
    return alone ? gradient : gradient.clone(at::MemoryFormat::Contiguous);
  }
};

class GatedGelu final : public torch::autograd::Function<GatedGelu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input) {
    const at::Tensor source = input.contiguous();
    auto shape = source.sizes().vec();
    const int64_t width = shape.back() /= 2;
    const at::Tensor result = at::empty(shape, source.options());
    const float* from = source.const_data_ptr<float>();
    float* into = result.data_ptr<float>();
    over_rows(result.numel(), width, [&](int64_t row) {
      const float* inputs = from + 2 * row * width;
      forward_gated(inputs, inputs + width, into + row * width, width);
    });
    context->save_for_backward({source});
    return result;
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor gradient = gradients[0].contiguous();
    const at::Tensor result = at::empty_like(saved[0]);
    const int64_t width = gradient.size(-1);
    const float* from = saved[0].const_data_ptr<float>();
    const float* of_result = gradient.const_data_ptr<float>();
    float* into = result.data_ptr<float>();
    over_rows(gradient.numel(), width, [&](int64_t row) {
      const float* inputs = from + 2 * row * width;
      float* to_inputs = into + 2 * row * width;
      backward_gated(inputs, inputs + width, of_result + row * width, to_inputs, to_inputs + width, width);
    });
    return {result};
  }

 private:
  // Calls `body` with each of the rows of so many numbers in all.
  template <typename F>
  static void over_rows(int64_t numbers, int64_t width, const F& body) {
    if (width == 0) {
      return;
    }
    at::parallel_for(0, numbers / width, std::max<int64_t>(1, kGrain / width), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        body(row);
      }
    });
  }
};

} // namespace

extern "C" char* tr_gelu(at::Tensor* input, at::Tensor** result) {
  return trireme::guarded([&] { *result = new at::Tensor(Gelu::apply(*input)); });
}

extern "C" char* tr_gated_gelu(at::Tensor* input, at::Tensor** result) {
  return trireme::guarded([&] { *result = new at::Tensor(GatedGelu::apply(*input)); });
}
