// A dense layer with its backward pass.
#include "product.h"
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace trireme {
namespace {

using OneDnnLinear = at::Tensor(
    const at::Tensor&,
    const at::Tensor&,
    const std::optional<at::Tensor>&,
    std::string_view,
    c10::List<std::optional<at::Scalar>>,
    std::optional<std::string_view>);

// The operator that torch.compile emits for a dense layer. None where libtorch was built without oneDNN.
const std::optional<c10::TypedOperatorHandle<OneDnnLinear>>& one_dnn_linear() {
  static const auto handle = []() -> std::optional<c10::TypedOperatorHandle<OneDnnLinear>> {
    const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!schema.has_value() || !at::hasMKLDNN()) {
      return std::nullopt;
    }
    return schema->typed<OneDnnLinear>();
  }();
  return handle;
}

class Linear final : public torch::autograd::Function<Linear> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& input,
      const at::Tensor& weight,
      const std::optional<at::Tensor>& bias) {
    const at::Tensor rows = input.reshape({-1, weight.size(1)});
    context->save_for_backward({rows, weight});
    context->saved_data["has_bias"] = bias.has_value();
    auto shape = input.sizes().vec();
    shape.back() = weight.size(0);
    return product_transposed(rows, weight, bias).view(shape);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& rows = saved[0];
    const at::Tensor& weight = saved[1];
    auto shape = gradients[0].sizes().vec();
    shape.back() = weight.size(1);
    const at::Tensor gradient = gradients[0].reshape({-1, weight.size(0)});
    at::Tensor to_input, to_weight, to_bias;
    if (context->needs_input_grad(0)) {
      // Not view(), which keeps its base alive: with two holders GELU could not write into the gradient.
      to_input = at::_unsafe_view(product_transposed(gradient, weight.t()), shape);
    }
    if (context->needs_input_grad(1)) {
      to_weight = gradient.t().mm(rows); // MKL needs no copy of a transposed left side
    }
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2)) {
      to_bias = gradient.sum(0);
    }
    return {to_input, to_weight, to_bias};
  }
};

} // namespace

at::Tensor product_transposed(
    const at::Tensor& left,
    const at::Tensor& right,
    const std::optional<at::Tensor>& bias) {
  const auto& one_dnn = one_dnn_linear();
  const bool fits = left.is_cpu() && left.scalar_type() == at::kFloat && right.scalar_type() == at::kFloat &&
      left.size(0) > 0 && left.size(1) > 0 && right.size(0) > 0;
  if (!one_dnn.has_value() || !fits) {
    return at::linear(left, right, bias);
  }
  return one_dnn->call(left, right, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

} // namespace trireme

extern "C" char* tr_linear(at::Tensor* input, at::Tensor* weight, at::Tensor* bias, at::Tensor** result) {
  return trireme::guarded([&] {
    const std::optional<at::Tensor> offset = bias == nullptr ? std::nullopt : std::optional<at::Tensor>(*bias);
    *result = new at::Tensor(trireme::Linear::apply(*input, *weight, offset));
  });
}
