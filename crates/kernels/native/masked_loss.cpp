// The head over the vocabulary and its loss in one function: the logits exist once and become their own gradient. What is
// too much to exist at once comes here in parts (src/operators.rs).
#include "direct.h"
#include "product.h"
#include "shim.h"
#include "softmax.h"
#include "versions.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

namespace {

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

// So many rows of the table's gradient are made at a time: half a MiB for a width of 256, which stays in a core's cache.
constexpr int64_t kTileBytes = int64_t{1} << 19;

// errors^T · rows, a tile at a time, into the sum.
void add_product(trireme::DirectPart& part, const at::Tensor& errors, const at::Tensor& rows) {
  const int64_t vocabulary = errors.size(1), width = rows.size(1);
  const int64_t tile = std::max<int64_t>(16, kTileBytes / static_cast<int64_t>(sizeof(float)) / width / 16 * 16);
  const int64_t tiles = (vocabulary + tile - 1) / tile;
  at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    const at::Tensor buffer = at::empty({tile, width}, rows.options());
    for (int64_t index = begin; index < end; ++index) {
      const int64_t start = index * tile, count = std::min(tile, vocabulary - start);
      at::Tensor product = buffer.narrow(0, 0, count);
      at::mm_out(product, errors.narrow(1, start, count).t(), rows);
      part.add(start * width, product.const_data_ptr<float>(), count * width);
    }
  });
}

class MaskedLoss final : public torch::autograd::Function<MaskedLoss> {
 public:
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& rows,
      const at::Tensor& weight,
      const at::Tensor& bias,
      const at::Tensor& labels,
      bool with_gradient) {
    at::Tensor logits = trireme::product_transposed(rows, weight, bias);
    const int64_t count = logits.size(0), vocabulary = logits.size(1);
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
      if (const auto part = trireme::DirectPart::of(weight); part != nullptr) {
        add_product(*part, unscaled, rows.contiguous());
      } else {
        to_weight = unscaled.t().mm(rows);
      }
    }
    if (context->needs_input_grad(2)) {
      to_bias = unscaled.sum(0).mul_(gradients[0]);
    }
    return {to_rows, to_weight, to_bias, at::Tensor(), at::Tensor()};
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
    // Asked here: within `forward` it is always off.
    const bool with_gradient =
        at::GradMode::is_enabled() && (rows->requires_grad() || weight->requires_grad() || bias->requires_grad());
    const auto results = MaskedLoss::apply(*rows, *weight, *bias, *labels, with_gradient);
    *loss = new at::Tensor(results[0]);
    *correct = new at::Tensor(results[1]);
  });
}
