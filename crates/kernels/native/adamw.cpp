// torch's fused AdamW, which tch does not bind.
#include "shim.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <torch/types.h>

extern "C" char* tr_fused_adamw(
    at::Tensor* const* parameters,
    at::Tensor* const* gradients,
    at::Tensor* const* averages,
    at::Tensor* const* square_averages,
    size_t count,
    double step,
    double learning_rate,
    double beta1,
    double beta2,
    double weight_decay,
    double epsilon) {
  return trireme::guarded([&] {
    if (count == 0) {
      return;
    }
    at::NoGradGuard no_grad;
    auto own = trireme::collect(parameters, count);
    const at::Tensor counter =
        at::full({}, step, at::TensorOptions().dtype(at::kFloat).device(own[0].device()));
    const std::vector<at::Tensor> steps(count, counter);
    at::_fused_adamw_(
        own,
        trireme::collect(gradients, count),
        trireme::collect(averages, count),
        trireme::collect(square_averages, count),
        /*max_exp_avg_sqs=*/{},
        steps,
        learning_rate,
        beta1,
        beta2,
        weight_decay,
        epsilon,
        /*amsgrad=*/false,
        /*maximize=*/false);
  });
}
