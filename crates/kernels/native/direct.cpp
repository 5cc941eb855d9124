// Who is in a backward pass with a place for parts; and the pass whose place is the leaves' own gradients.
#include "direct.h"
#include "shim.h"
#include "versions.h"

namespace {

thread_local trireme::DirectPass* pass_of_this_thread = nullptr;

bool is_plain(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous();
}

TR_VERSIONS
void add_range(const float* values, float* gradient, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    gradient[i] += values[i];
  }
}

class PartOfGradient final : public trireme::DirectPart {
 public:
  explicit PartOfGradient(const at::Tensor& gradient)
      : gradient_(gradient.data_ptr<float>()), elements_(gradient.numel()) {}

  void add(int64_t start, const float* values, int64_t count) override {
    TORCH_INTERNAL_ASSERT(start >= 0 && start + count <= elements_);
    add_range(values, gradient_ + start, count);
  }

 private:
  float* gradient_;
  int64_t elements_;
};

// Parts go into the gradient that a leaf has already. One that has none yet gets what autograd makes.
class IntoGradients final : public trireme::DirectPass {
 public:
  std::unique_ptr<trireme::DirectPart> next_part(const at::Tensor& leaf) override {
    const at::Tensor& gradient = leaf.grad();
    if (!gradient.defined() || !is_plain(gradient) || gradient.sizes() != leaf.sizes()) {
      return nullptr;
    }
    return std::make_unique<PartOfGradient>(gradient);
  }
};

} // namespace

namespace trireme {

DirectPass::DirectPass() : outer_(pass_of_this_thread) {
  pass_of_this_thread = this;
}

DirectPass::~DirectPass() {
  pass_of_this_thread = outer_;
}

std::unique_ptr<DirectPart> DirectPart::of(const at::Tensor& leaf) {
  if (pass_of_this_thread == nullptr || !leaf.is_leaf() || !is_plain(leaf)) {
    return nullptr;
  }
  return pass_of_this_thread->next_part(leaf);
}

} // namespace trireme

extern "C" char* tr_backward(at::Tensor* loss) {
  return trireme::guarded([&] {
    IntoGradients pass;
    loss->backward();
  });
}
