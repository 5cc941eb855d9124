// The rows of a table, whose gradient does not become a table.
#include "direct.h"
#include "shim.h"

#include <ATen/Parallel.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <algorithm>
#include <numeric>

namespace {

// Adds up the gradients of each row of the table in the order of their positions, whatever thread does it.
void add_rows(trireme::DirectPart& part, const at::Tensor& gradient, const at::Tensor& ids) {
  const int64_t count = ids.numel(), width = gradient.size(-1);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  const float* from = gradient.const_data_ptr<float>();
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return id[a] < id[b]; });
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || id[order[i]] != id[order[i - 1]]) {
      starts.push_back(i);
    }
  }
  const auto rows = static_cast<int64_t>(starts.size());
  starts.push_back(count);
  part.begin();
  at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(width);
    for (int64_t row = begin; row < end; ++row) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t i = starts[row]; i < starts[row + 1]; ++i) {
        const float* values = from + order[i] * width;
        for (int64_t column = 0; column < width; ++column) {
          sum[column] += values[column];
        }
      }
      part.add(id[order[starts[row]]] * width, sum.data(), width);
    }
  });
}

class Embedding final : public torch::autograd::Function<Embedding> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& table,
      const at::Tensor& ids) {
    const at::Tensor flat = ids.contiguous();
    context->save_for_backward({table, flat});
    return at::embedding(table, flat);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& table = saved[0];
    const at::Tensor& ids = saved[1];
    if (const auto part = trireme::DirectPart::of(table); part != nullptr) {
      add_rows(*part, gradients[0].contiguous(), ids);
      return {at::Tensor(), at::Tensor()};
    }
    return {at::embedding_dense_backward(gradients[0], ids, table.size(0), -1, false), at::Tensor()};
  }
};

} // namespace

extern "C" char* tr_embedding(at::Tensor* table, at::Tensor* ids, at::Tensor** result) {
  return trireme::guarded([&] { *result = new at::Tensor(Embedding::apply(*table, *ids)); });
}
