// The head over the vocabulary and its loss in one function: the logits exist once and become their own gradient.
#include "product.h"
#include "shim.h"
#include "versions.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cmath>

namespace {

// e^x for x <= 0, to about one unit in the last place: 2^n · e^r with |r| <= ln 2 / 2, the polynomial of Cephes' expf.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f; // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + magic;
  const float n = shifted - magic;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union {
    int32_t integer;
    float value;
  } power;
  power.integer = (static_cast<int32_t>(n) + 127) << 23;
  return p * power.value;
}

// Independent partial sums, so that the loop needs no reordering of additions to be a vector loop.
constexpr int64_t kLanes = 32;

TR_VERSIONS
float greatest(const float* values, int64_t count) {
  float lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = -INFINITY;
  }
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
  }
  float result = -INFINITY;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    result = lanes[lane] > result ? lanes[lane] : result;
  }
  for (; i < count; ++i) {
    result = values[i] > result ? values[i] : result;
  }
  return result;
}

// values[i] = e^(values[i] - greatest); returns their sum.
TR_VERSIONS
double exponentials(float* values, int64_t count, float greatest) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float power = exponential(values[i + lane] - greatest);
      values[i + lane] = power;
      lanes[lane] += power;
    }
  }
  double sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += lanes[lane];
  }
  for (; i < count; ++i) {
    values[i] = exponential(values[i] - greatest);
    sum += values[i];
  }
  return sum;
}

TR_VERSIONS
void scale(float* values, int64_t count, float factor) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] *= factor;
  }
}

// One row of logits becomes the gradient of its loss: softmax minus one at the label.
struct Row {
  double loss;
  bool correct;
};

Row cross_entropy(float* logits, int64_t vocabulary, int64_t label, bool with_gradient) {
  const float most = greatest(logits, vocabulary);
  const float of_label = logits[label];
  const double sum = exponentials(logits, vocabulary, most);
  if (with_gradient) {
    scale(logits, vocabulary, static_cast<float>(1.0 / sum));
    logits[label] -= 1.0f;
  }
  return {std::log(sum) + most - of_label, of_label >= most};
}

class MaskedLoss final : public torch::autograd::Function<MaskedLoss> {
 public:
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& rows,
      const at::Tensor& weight,
      const at::Tensor& bias,
      const at::Tensor& labels) {
    at::Tensor logits = trireme::product_transposed(rows, weight, bias);
    const int64_t count = logits.size(0), vocabulary = logits.size(1);
    const bool with_gradient = rows.requires_grad() || weight.requires_grad() || bias.requires_grad();
    std::vector<Row> outcomes(count);
    float* values = logits.data_ptr<float>();
    const at::Tensor flat_labels = labels.contiguous();
    const int64_t* label = flat_labels.const_data_ptr<int64_t>();
    for (int64_t row = 0; row < count; ++row) {
      TORCH_CHECK(
          label[row] >= 0 && label[row] < vocabulary,
          "label ", label[row], " is outside of a vocabulary of ", vocabulary);
    }
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        outcomes[row] = cross_entropy(values + row * vocabulary, vocabulary, label[row], with_gradient);
      }
    });
    double loss = 0;
    int64_t correct = 0;
    for (const Row& outcome : outcomes) {
      loss += outcome.loss;
      correct += outcome.correct;
    }
    context->save_for_backward({rows, weight, logits});
    const at::Tensor hits = at::full({}, correct, at::kLong);
    context->mark_non_differentiable({hits});
    return {at::full({}, loss, at::kFloat), hits};
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& weight = saved[1];
    const at::Tensor& unscaled = saved[2];
    // The factor goes to the small sides of the products, not to rows × vocabulary numbers.
    const at::Tensor rows = saved[0] * gradients[0];
    at::Tensor to_rows, to_weight, to_bias;
    if (context->needs_input_grad(0)) {
      to_rows = trireme::product_transposed(unscaled, weight.t()).mul_(gradients[0]);
    }
    if (context->needs_input_grad(1)) {
      to_weight = unscaled.t().mm(rows);
    }
    if (context->needs_input_grad(2)) {
      to_bias = unscaled.sum(0).mul_(gradients[0]);
    }
    return {to_rows, to_weight, to_bias, at::Tensor()};
  }
};

} // namespace

extern "C" char* tr_masked_loss(
    at::Tensor* rows,
    at::Tensor* weight,
    at::Tensor* bias,
    at::Tensor* labels,
    at::Tensor** loss,
    at::Tensor** correct) {
  return trireme::guarded([&] {
    const auto results = MaskedLoss::apply(*rows, *weight, *bias, *labels);
    *loss = new at::Tensor(results[0]);
    *correct = new at::Tensor(results[1]);
  });
}
