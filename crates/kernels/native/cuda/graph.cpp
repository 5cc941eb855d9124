// A part of the network whose launches are recorded once, as a CUDA graph for its forward and one for its backward pass, and
// are replayed from then on: a device that computes faster than the processor launches no longer waits for it.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace {

// Runs the part on `input` and, where there is one, `mask`, which it takes over; as in checkpoint.cpp.
using Body = int (*)(void* data, at::Tensor* input, at::Tensor* mask, at::Tensor** output, char* message, size_t room);

// What libtorch and cuBLAS do when they first meet a shape is no part of a recording.
constexpr int kWarmUps = 3;

// While it lives, products are made in the kinds of their factors, as in a backward pass that begins outside of autocast.
class WithoutAutocast {
 public:
  WithoutAutocast() : was_on_(at::autocast::is_autocast_enabled(at::kCUDA)) {
    at::autocast::set_autocast_enabled(at::kCUDA, false);
  }

  ~WithoutAutocast() {
    at::autocast::set_autocast_enabled(at::kCUDA, was_on_);
  }

  WithoutAutocast(const WithoutAutocast&) = delete;
  WithoutAutocast& operator=(const WithoutAutocast&) = delete;

 private:
  bool was_on_;
};

// Whatever is drawn while it lives, the device's generator then stands where it stood.
class KeepsChance {
 public:
  explicit KeepsChance(const at::Device& device) : generator_(at::globalContext().defaultGenerator(device)) {
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    state_ = generator_.get_state();
  }

  ~KeepsChance() {
    try {
      const std::lock_guard<std::mutex> lock(generator_.mutex());
      generator_.set_state(state_);
    } catch (...) { // of a device that is broken, which is told already
    }
  }

  KeepsChance(const KeepsChance&) = delete;
  KeepsChance& operator=(const KeepsChance&) = delete;

 private:
  at::Generator generator_;
  at::Tensor state_;
};

class Recorded final : public torch::CustomClassHolder {
 public:
  Recorded(
      const at::Tensor& input,
      const std::optional<at::Tensor>& mask,
      std::vector<at::Tensor> leaves,
      Body body,
      void* data)
      : leaves_(each_once(std::move(leaves))) {
    const c10::DeviceGuard device(input.device());
    input_ = input.detach().clone().requires_grad_(input.requires_grad());
    if (mask.has_value()) {
      mask_ = mask->clone();
    }
    if (input_.requires_grad()) {
      wanted_.push_back(input_);
    }
    for (const at::Tensor& leaf : leaves_) {
      if (leaf.requires_grad()) {
        wanted_.push_back(leaf);
      }
    }
    TORCH_CHECK(!wanted_.empty(), "nothing in the part needs a gradient");

    const KeepsChance keeps_chance(input.device());
    const at::AutoGradMode with_gradients(true);
    // A recording needs a stream of its own, which waits for what was launched before, as we wait for it.
    c10::cuda::device_synchronize();
    {
      const auto own = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, input.device().index());
      const c10::StreamGuard stream(own.unwrap());
      for (int round = 0; round < kWarmUps; ++round) {
        const at::Tensor output = run(body, data);
        gradients_of(output, at::zeros_like(output));
      }
      c10::cuda::device_synchronize();
      // What was kept for this stream goes back: while it records, the allocator cannot do that.
      c10::cuda::CUDACachingAllocator::emptyCache();
      const auto pool = at::cuda::graph_pool_handle();
      at::Tensor output;
      capture(forward_, pool, [&] { output = run(body, data); });
      outgoing_ = at::zeros_like(output);
      capture(backward_, pool, [&] { gradients_ = gradients_of(output, outgoing_); });
      output_ = output.detach();
    }
    c10::cuda::device_synchronize();
  }

  const std::vector<at::Tensor>& leaves() const {
    return leaves_;
  }

  // The part's output, and the number of this replay.
  std::pair<at::Tensor, int64_t> forward(const at::Tensor& input, const std::optional<at::Tensor>& mask) {
    check_like(input, input_);
    TORCH_CHECK(input.requires_grad() == input_.requires_grad(), "recorded with another need of gradients");
    TORCH_CHECK(mask.has_value() == mask_.has_value(), "recorded with and called without a mask, or the reverse");
    const c10::DeviceGuard device(input.device());
    at::NoGradGuard no_grad;
    input_.detach().copy_(input);
    if (mask.has_value()) {
      check_like(*mask, *mask_);
      mask_->copy_(*mask);
    }
    forward_.replay();
    is_pending_ = true;
    return {output_.clone(), ++replays_};
  }

  // The gradients of what was wanted, in memory that the next replay writes over. Whoever keeps one must copy it, and does:
  // autograd steals no tensor that has another owner.
  const std::vector<at::Tensor>& backward(const at::Tensor& gradient, int64_t replay) {
    TORCH_CHECK(
        is_pending_ && replay == replays_,
        "a recorded part has one backward pass after each forward pass: the tensors of another are written over");
    is_pending_ = false;
    check_like(gradient, outgoing_);
    const c10::DeviceGuard device(gradient.device());
    at::NoGradGuard no_grad;
    outgoing_.copy_(gradient);
    backward_.replay();
    return gradients_;
  }

 private:
  // A parameter that several layers share has one gradient.
  static std::vector<at::Tensor> each_once(std::vector<at::Tensor> leaves) {
    std::vector<at::Tensor> result;
    for (at::Tensor& leaf : leaves) {
      if (std::none_of(result.begin(), result.end(), [&](const at::Tensor& other) { return other.is_same(leaf); })) {
        result.push_back(std::move(leaf));
      }
    }
    return result;
  }

  // Casts of weights that a recording reads must be made in it, and nobody else may read those that it made.
  at::Tensor run(Body body, void* data) const {
    at::autocast::clear_cache();
    at::Tensor* output = nullptr;
    std::array<char, 2048> message{};
    auto* mask = mask_.has_value() ? new at::Tensor(*mask_) : nullptr;
    const int done = body(data, new at::Tensor(input_), mask, &output, message.data(), message.size());
    at::autocast::clear_cache();
    TORCH_CHECK(done != 0, message.data());
    const std::unique_ptr<at::Tensor> owned(output);
    return *owned;
  }

  std::vector<at::Tensor> gradients_of(const at::Tensor& output, const at::Tensor& gradient) const {
    const WithoutAutocast without_autocast;
    return torch::autograd::grad(
        {output}, wanted_, {gradient}, /*retain_graph=*/std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
  }

  static void check_like(const at::Tensor& given, const at::Tensor& recorded) {
    TORCH_CHECK(
        given.sizes() == recorded.sizes() && given.scalar_type() == recorded.scalar_type() &&
            given.device() == recorded.device(),
        "recorded with ", recorded.toString(), recorded.sizes(), " and called with ", given.toString(), given.sizes());
  }

  // Threads of others, such as NCCL's watchdog, may go on asking for events meanwhile.
  //
  // An error that ends the recording is the one to tell. The process is of no use after it: what the allocator and the
  // generator do in a recording may not have ended.
  template <typename F>
  static void capture(at::cuda::CUDAGraph& graph, at::cuda::MempoolId_t pool, const F& launches) {
    graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      launches();
    } catch (...) {
      try {
        graph.capture_end();
      } catch (...) {
      }
      throw;
    }
    graph.capture_end();
  }

  std::vector<at::Tensor> leaves_;
  at::Tensor input_;
  std::optional<at::Tensor> mask_;
  std::vector<at::Tensor> wanted_;
  at::cuda::CUDAGraph forward_;
  at::cuda::CUDAGraph backward_;
  at::Tensor output_;
  at::Tensor outgoing_;
  std::vector<at::Tensor> gradients_;
  int64_t replays_ = 0;
  bool is_pending_ = false;
};

// The leaves are inputs so that their gradients come out of here, as in checkpoint.cpp.
class Replay final : public torch::autograd::Function<Replay> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& input,
      const std::optional<at::Tensor>& mask,
      at::TensorList leaves,
      const c10::intrusive_ptr<Recorded>& recorded) {
    auto [output, replay] = recorded->forward(input, mask);
    context->saved_data["recorded"] = c10::IValue::make_capsule(recorded);
    context->saved_data["replay"] = replay;
    context->saved_data["input"] = input.requires_grad();
    return output;
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    const auto capsule = context->saved_data["recorded"].toCapsule();
    auto* recorded = static_cast<Recorded*>(capsule.get());
    const auto& made = recorded->backward(gradients[0], context->saved_data["replay"].toInt());
    torch::autograd::variable_list result;
    size_t next = 0;
    result.push_back(context->saved_data["input"].toBool() ? made[next++] : at::Tensor());
    result.emplace_back(); // none for the mask
    for (const at::Tensor& leaf : recorded->leaves()) {
      result.push_back(leaf.requires_grad() ? made[next++] : at::Tensor());
    }
    result.emplace_back(); // none for the recording
    return result;
  }
};

} // namespace

extern "C" {

char* tr_graph_record(
    at::Tensor* input,
    at::Tensor* mask,
    at::Tensor* const* leaves,
    size_t count,
    Body body,
    void* data,
    void** graph) {
  return trireme::guarded([&] {
    TORCH_CHECK(input->is_cuda(), "graphs are recorded of tensors on a CUDA device");
    const auto optional = mask == nullptr ? std::nullopt : std::optional<at::Tensor>(*mask);
    auto recorded = c10::make_intrusive<Recorded>(*input, optional, trireme::collect(leaves, count), body, data);
    *graph = recorded.release();
  });
}

char* tr_graph_replay(void* graph, at::Tensor* input, at::Tensor* mask, at::Tensor** result) {
  return trireme::guarded([&] {
    const auto recorded = c10::intrusive_ptr<Recorded>::reclaim_copy(static_cast<Recorded*>(graph));
    const auto optional = mask == nullptr ? std::nullopt : std::optional<at::Tensor>(*mask);
    *result = new at::Tensor(Replay::apply(*input, optional, at::TensorList(recorded->leaves()), recorded));
  });
}

// A backward pass that is still to come keeps it alive.
void tr_graph_free(void* graph) {
  const auto owned = c10::intrusive_ptr<Recorded>::reclaim(static_cast<Recorded*>(graph));
}

} // extern "C"
