// Activation checkpointing (Chen et al. 2016): a part of the network whose inner tensors are not kept, but made again in
// the backward pass. And how to see that: the memory that tensors take.
#include "shim.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

// Runs the part: takes `input` over, and gives a tensor that the caller owns, or 0 and a message.
using Body = int (*)(void* data, at::Tensor* input, at::Tensor** output, char* message, size_t room);

// The part itself, for as long as a backward pass may need it.
class Part final : public torch::CustomClassHolder {
 public:
  Part(Body body, void (*drop)(void*), void* data) : body_(body), drop_(drop), data_(data) {}

  ~Part() override {
    drop_(data_);
  }

  at::Tensor run(const at::Tensor& input) const {
    at::Tensor* output = nullptr;
    std::array<char, 2048> message{};
    const int done = body_(data_, new at::Tensor(input), &output, message.data(), message.size());
    TORCH_CHECK(done != 0, message.data());
    const std::unique_ptr<at::Tensor> owned(output);
    return *owned;
  }

 private:
  Body body_;
  void (*drop_)(void*);
  void* data_;
};

// Where torch's generators stand: the processor's, and the device's where tensors are elsewhere.
struct Chance {
  std::vector<at::Generator> generators;
  std::vector<at::Tensor> states;

  explicit Chance(const at::Device& device) {
    generators.push_back(at::detail::getDefaultCPUGenerator());
    if (!device.is_cpu()) {
      generators.push_back(at::globalContext().defaultGenerator(device));
    }
    for (at::Generator& generator : generators) {
      const std::lock_guard<std::mutex> lock(generator.mutex());
      states.push_back(generator.get_state());
    }
  }

  void restore(const std::vector<at::Tensor>& to) {
    for (size_t index = 0; index < generators.size(); ++index) {
      const std::lock_guard<std::mutex> lock(generators[index].mutex());
      generators[index].set_state(to[index]);
    }
  }
};

// As it was when the part ran first, for as long as it lives: what dropout draws, and in what kind products are made.
class AsBefore {
 public:
  AsBefore(const at::Device& device, const std::vector<at::Tensor>& states, bool autocast, at::ScalarType kind)
      : now_(device), device_(device.type()), autocast_(autocast), was_on_(at::autocast::is_autocast_enabled(device_)) {
    now_.restore(states);
    if (autocast_) {
      at::autocast::set_autocast_dtype(device_, kind);
      at::autocast::set_autocast_enabled(device_, true);
      at::autocast::increment_nesting();
    }
  }

  ~AsBefore() {
    if (autocast_) {
      at::autocast::set_autocast_enabled(device_, was_on_);
      if (at::autocast::decrement_nesting() == 0) {
        at::autocast::clear_cache();
      }
    }
    now_.restore(now_.states);
  }

  AsBefore(const AsBefore&) = delete;
  AsBefore& operator=(const AsBefore&) = delete;

 private:
  Chance now_;
  at::DeviceType device_;
  bool autocast_;
  bool was_on_;
};

// The first input is the part's argument; the others are the leaves that it uses. They are inputs so that their
// gradients come out of here, once each, and are added up and handed to hooks as ever.
class Checkpoint final : public torch::autograd::Function<Checkpoint> {
 public:
  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      at::TensorList inputs,
      const c10::intrusive_ptr<Part>& part) {
    const at::Device device = inputs[0].device();
    context->saved_data["part"] = c10::IValue::make_capsule(part);
    context->saved_data["chance"] = Chance(device).states;
    context->saved_data["autocast"] = at::autocast::is_autocast_enabled(device.type());
    context->saved_data["kind"] = static_cast<int64_t>(at::autocast::get_autocast_dtype(device.type()));
    context->save_for_backward(inputs.vec());
    return part->run(inputs[0]);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context,
      const torch::autograd::variable_list& gradients) {
    auto inputs = context->get_saved_variables();
    const auto capsule = context->saved_data["part"].toCapsule();
    const auto* part = static_cast<const Part*>(capsule.get());
    const at::AutoGradMode with_gradients(true);
    std::vector<at::Tensor> wanted;
    for (size_t index = 0; index < inputs.size(); ++index) {
      if (index == 0) {
        inputs[0] = inputs[0].detach().requires_grad_(context->needs_input_grad(0));
      }
      if (inputs[index].requires_grad()) {
        wanted.push_back(inputs[index]);
      }
    }
    at::Tensor output;
    {
      const AsBefore as_before(
          inputs[0].device(), context->saved_data["chance"].toTensorVector(),
          context->saved_data["autocast"].toBool(), static_cast<at::ScalarType>(context->saved_data["kind"].toInt()));
      output = part->run(inputs[0]);
    }
    const auto made = torch::autograd::grad(
        {output}, wanted, {gradients[0]}, /*retain_graph=*/std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
    torch::autograd::variable_list result(inputs.size() + 1); // none for the part
    size_t next = 0;
    for (size_t index = 0; index < inputs.size(); ++index) {
      if (inputs[index].requires_grad()) {
        result[index] = made[next++];
      }
    }
    return result;
  }
};

// Adds up what this thread's tensors on the processor take.
class Memory final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (device.is_cpu()) {
      now_ += size;
      most_ = std::max(most_, now_);
    }
  }

  bool memoryProfilingEnabled() const override {
    return true;
  }

  int64_t most() const {
    return most_;
  }

 private:
  int64_t now_ = 0;
  int64_t most_ = 0;
};

struct Watch {
  std::shared_ptr<Memory> memory = std::make_shared<Memory>();
  c10::DebugInfoGuard guard{c10::DebugInfoKind::PROFILER_STATE, memory};
};

} // namespace

extern "C" {

char* tr_checkpoint(
    at::Tensor* const* inputs,
    size_t count,
    Body body,
    void (*drop)(void*),
    void* data,
    at::Tensor** result) {
  return trireme::guarded([&] {
    const auto part = c10::make_intrusive<Part>(body, drop, data); // takes the data over, whatever happens
    const std::vector<at::Tensor> all = trireme::collect(inputs, count);
    *result = new at::Tensor(Checkpoint::apply(at::TensorList(all), part));
  });
}

char* tr_memory_begin(void** watch) {
  return trireme::guarded([&] { *watch = new Watch; });
}

// On the thread that began.
void tr_memory_end(void* watch, int64_t* most) {
  const std::unique_ptr<Watch> owned(static_cast<Watch*>(watch));
  *most = owned->memory->most();
}

} // extern "C"
