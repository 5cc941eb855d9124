// The fused passes of exact mode: float32 to 64-bit fixed point and back. See src/fixed_point.rs for the contract.
#include "direct.h"
#include "shim.h"
#include "versions.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/types.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <unordered_map>
#include <vector>

namespace {

constexpr int64_t kGrain = 1 << 15;
constexpr int64_t kPiece = 1 << 25; // elements of a device's gradients that are converted at once
constexpr double kLimit = 2251799813685248.0; // 2^51
constexpr double kMagic = 6755399441055744.0; // 1.5 * 2^52: adding it leaves the nearest integer in the low bits

union Bits {
  double value;
  int64_t integer;
};

// The nearest integer to a gradient's element, or 0 and one more in `bad`.
inline int64_t fixed(float gradient, double scale, double limit, int64_t& bad) {
  const Bits magic = {kMagic};
  const double scaled = static_cast<double>(gradient) * scale; // exact: a power of two
  const bool good = std::fabs(scaled) < limit; // false for NaN and infinity too
  Bits shifted;
  shifted.value = scaled + kMagic; // rounds to nearest, ties to even
  const int64_t keep = good ? -1 : 0;
  bad += keep + 1;
  return (shifted.integer - magic.integer) & keep;
}

TR_VERSIONS
int64_t add_range(const float* gradient, int64_t* accumulator, int64_t count, double scale, double limit) {
  int64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    accumulator[i] += fixed(gradient[i], scale, limit, bad);
  }
  return bad;
}

TR_VERSIONS
int64_t store_range(const float* gradient, int64_t* accumulator, int64_t count, double scale, double limit) {
  int64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    accumulator[i] = fixed(gradient[i], scale, limit, bad);
  }
  return bad;
}

TR_VERSIONS
void to_float_range(const int64_t* accumulator, float* gradient, int64_t count, double scale) {
  for (int64_t i = 0; i < count; ++i) {
    // int64 to double, correctly rounded, with instructions that every vector unit has: the upper half as a multiple of
    // 2^32 on top of 2^84, the lower half on top of 2^52; the subtraction is exact and the addition rounds once.
    const uint64_t biased = static_cast<uint64_t>(accumulator[i]) ^ 0x8000000000000000ull;
    Bits upper, lower;
    upper.integer = static_cast<int64_t>((biased >> 32) | 0x4530000000000000ull); // 2^84
    lower.integer = static_cast<int64_t>((biased & 0xffffffffull) | 0x4330000000000000ull); // 2^52
    const double value = (upper.value - 0x1.00000801p84) + lower.value; // 2^84 + 2^63 + 2^52
    gradient[i] = static_cast<float>(value * scale);
  }
}

// Elements `offset..` of what begins with 8-byte integers become 4-byte floats in the same memory. Those of a range that
// ends at twice its start are written where everything has been read already, so a range is done by many threads at once,
// and each is twice as long as the one before.
template <typename Convert>
void in_place(
    const int64_t* from,
    float* into,
    int64_t offset,
    int64_t count,
    double scale,
    const Convert& convert) {
  constexpr int64_t kSmall = 1024;
  int64_t done = 0;
  while (done < count && offset + done < kSmall) {
    float some[kSmall];
    const int64_t length = std::min(count - done, kSmall);
    to_float_range(from + done, some, length, scale);
    std::memcpy(static_cast<void*>(into + done), some, length * sizeof(float));
    done += length;
  }
  while (done < count) {
    const int64_t end = std::min(count, 2 * (offset + done) - offset);
    convert(done, end);
    done = end;
  }
}

void check_accumulator(const at::Tensor& accumulator, int64_t offset, int64_t count) {
  TORCH_CHECK(accumulator.scalar_type() == at::kLong, "the accumulator must hold int64");
  TORCH_CHECK(accumulator.dim() == 1 && accumulator.is_contiguous(), "the accumulator must be flat");
  TORCH_CHECK(
      offset >= 0 && offset + count <= accumulator.numel(),
      "elements ", offset, "..", offset + count, " are outside of an accumulator of ", accumulator.numel());
}

// Counts elements that no number can stand for; where the gradients are elsewhere it is read only once, at the end.
class Bad {
 public:
  void add(int64_t count) {
    here_ += count;
  }

  void add(const at::Tensor& count) {
    elsewhere_ = elsewhere_.defined() ? elsewhere_ + count : count;
  }

  uint64_t count() const {
    return static_cast<uint64_t>(here_ + (elsewhere_.defined() ? elsewhere_.item<int64_t>() : 0));
  }

 private:
  int64_t here_ = 0;
  at::Tensor elsewhere_;
};

// A leaf whose operators add to the sum themselves has so many parts at most, what comes through autograd included; each
// must stay below its share of the limit, so that the whole does.
constexpr int kParts = 4;

// Where gradients go: `first` means that what is in the accumulator is not read, but replaced.
struct Sum {
  at::Tensor accumulator;
  int fraction_bits;
  bool first;
  Bad bad;

  // The whole gradient of a leaf, or what is left of it after `parts` that were added directly.
  void add(const at::Tensor& gradient, int64_t offset, int64_t count, int parts = 0) {
    const bool first = this->first && parts == 0;
    const double limit = parts == 0 ? kLimit : kLimit / kParts;
    check_accumulator(accumulator, offset, count);
    at::Tensor target = accumulator.narrow(0, offset, count);
    if (!gradient.defined()) { // a parameter that took no part: zero
      if (first) {
        target.zero_();
      }
      return;
    }
    TORCH_CHECK(
        gradient.device() == accumulator.device(),
        "a gradient on ", gradient.device(), " and an accumulator on ", accumulator.device());
    const at::Tensor source = gradient.detach().to(at::kFloat).contiguous();
    TORCH_CHECK(source.numel() == count, "a gradient of ", source.numel(), " elements, not ", count);
    const double scale = std::ldexp(1.0, fraction_bits);
    if (!accumulator.is_cpu()) {
      const at::Tensor scaled = source.view({-1}).to(at::kDouble).mul_(scale);
      const at::Tensor broken = scaled.abs().lt(kLimit).logical_not_(); // NaN and infinity too
      const at::Tensor rounded = scaled.masked_fill_(broken, 0).round_().to(at::kLong);
      first ? target.copy_(rounded) : target.add_(rounded);
      bad.add(broken.sum());
      return;
    }
    const float* from = source.const_data_ptr<float>();
    int64_t* into = target.data_ptr<int64_t>();
    std::atomic<int64_t> total{0};
    at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
      const auto range = first ? store_range : add_range;
      total += range(from + begin, into + begin, end - begin, scale, limit);
    });
    bad.add(total.load());
  }
};

// Is told which leaf has nothing more to come in this backward pass.
struct Done {
  void (*call)(void* data, size_t leaf);
  void* data;

  void operator()(size_t leaf) const {
    call(data, leaf);
  }
};

// A leaf's part of the sum.
class PartOfSum final : public trireme::DirectPart {
 public:
  PartOfSum(int64_t* sum, int64_t elements, double factor, bool first, std::atomic<int64_t>& bad)
      : sum_(sum), elements_(elements), factor_(factor), first_(first), bad_(bad) {}

  void begin() override {
    if (first_) {
      std::fill(sum_, sum_ + elements_, 0);
      first_ = false;
    }
  }

  // Stores, in the first part of a sum that was not begun.
  void add(int64_t start, const float* values, int64_t count) override {
    TORCH_INTERNAL_ASSERT(start >= 0 && start + count <= elements_);
    const auto range = first_ ? store_range : add_range;
    const int64_t bad = range(values, sum_ + start, count, factor_, kLimit / kParts);
    if (bad != 0) {
      bad_ += bad;
    }
  }

 private:
  int64_t* sum_;
  int64_t elements_;
  double factor_;
  bool first_;
  std::atomic<int64_t>& bad_;
};

// The leaves have hooks, and parts of theirs a place in the sum, for as long as it lives.
class IntoSum final : public trireme::DirectPass {
 public:
  IntoSum(const std::vector<at::Tensor>& leaves, const int64_t* offsets, Sum& sum, Done done)
      : leaves_(leaves),
        offsets_(offsets),
        sum_(sum),
        done_(done),
        parts_(leaves.size(), 0),
        told_(leaves.size(), false) {
    for (size_t index = 0; index < leaves.size(); ++index) {
      leaves[index].mutable_grad().reset(); // a gradient that is there would be added
      torch::autograd::impl::set_post_acc_grad_hooks(leaves[index], std::make_unique<Hook>(*this, index));
      places_.emplace(leaves[index].unsafeGetTensorImpl(), index);
    }
  }

  ~IntoSum() override {
    for (const at::Tensor& leaf : leaves_) {
      torch::autograd::impl::set_post_acc_grad_hooks(leaf, nullptr);
    }
  }

  std::unique_ptr<trireme::DirectPart> next_part(const at::Tensor& leaf) override {
    const auto found = places_.find(leaf.unsafeGetTensorImpl());
    if (found == places_.end() || parts_[found->second] >= kParts - 1) {
      return nullptr;
    }
    TORCH_INTERNAL_ASSERT(!told_[found->second], "a part of a leaf that was done");
    const int64_t offset = offsets_[found->second], count = leaf.numel();
    check_accumulator(sum_.accumulator, offset, count);
    const bool first = sum_.first && parts_[found->second] == 0;
    ++parts_[found->second];
    int64_t* place = sum_.accumulator.data_ptr<int64_t>() + offset;
    return std::make_unique<PartOfSum>(place, count, std::ldexp(1.0, sum_.fraction_bits), first, bad_);
  }

  // Once the backward pass is over.
  void finish() {
    for (size_t index = 0; index < leaves_.size(); ++index) {
      if (parts_[index] == 0) { // it took no part
        sum_.add({}, offsets_[index], leaves_[index].numel());
      }
      if (!told_[index]) { // nothing of it came through autograd
        done_(index);
      }
    }
    sum_.bad.add(bad_.load());
  }

 private:
  // Called when the gradient of a leaf is there, after all its parts: it goes into the sum while it is in the cache, and
  // is freed.
  class Hook final : public torch::autograd::PostAccumulateGradHook {
   public:
    Hook(IntoSum& pass, size_t index) : pass_(pass), index_(index) {}

    void operator()(const at::Tensor& leaf) override {
      const at::NoGradGuard no_grad;
      pass_.sum_.add(leaf.grad(), pass_.offsets_[index_], leaf.numel(), pass_.parts_[index_]);
      leaf.mutable_grad().reset();
      ++pass_.parts_[index_];
      TORCH_INTERNAL_ASSERT(!pass_.told_[index_], "a leaf's gradient came twice in one pass");
      pass_.told_[index_] = true;
      pass_.done_(index_);
    }

   private:
    IntoSum& pass_;
    size_t index_;
  };

  const std::vector<at::Tensor>& leaves_;
  const int64_t* offsets_;
  Sum& sum_;
  Done done_;
  std::vector<int> parts_; // how many each leaf has had
  std::vector<bool> told_; // that a leaf is done
  std::unordered_map<const c10::TensorImpl*, size_t> places_;
  std::atomic<int64_t> bad_{0};
};

void backward_by_leaf(
    const at::Tensor& loss,
    const std::vector<at::Tensor>& leaves,
    const int64_t* offsets,
    Sum& sum,
    Done done) {
  IntoSum pass(leaves, offsets, sum, done);
  loss.backward();
  const at::NoGradGuard no_grad;
  pass.finish();
}

// On a device it is launching that costs: neighbours' gradients are laid end to end and converted together.
void backward_by_piece(
    const at::Tensor& loss,
    const std::vector<at::Tensor>& leaves,
    const int64_t* offsets,
    Sum& sum,
    Done done) {
  auto gradients = torch::autograd::grad(
      {loss}, leaves, /*grad_outputs=*/{}, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
  at::NoGradGuard no_grad;
  for (size_t begin = 0; begin < leaves.size();) {
    std::vector<at::Tensor> piece;
    int64_t length = 0;
    size_t end = begin;
    for (; end < leaves.size() && offsets[end] == offsets[begin] + length; ++end) {
      const int64_t count = leaves[end].numel();
      if (length > 0 && length + count > kPiece) {
        break;
      }
      piece.push_back(
          gradients[end].defined() ? gradients[end].reshape({-1}).to(at::kFloat)
                                   : at::zeros({count}, leaves[end].options().dtype(at::kFloat)));
      gradients[end].reset();
      length += count;
    }
    sum.add(piece.size() == 1 ? piece.front() : at::cat(piece), offsets[begin], length);
    begin = end;
  }
  for (size_t index = 0; index < leaves.size(); ++index) {
    done(index);
  }
}

} // namespace

extern "C" {

char* tr_fixed_point_accumulate(
    at::Tensor* gradient,
    at::Tensor* accumulator,
    int64_t offset,
    int64_t count,
    int fraction_bits,
    int first,
    uint64_t* bad) {
  return trireme::guarded([&] {
    at::NoGradGuard no_grad;
    Sum sum{*accumulator, fraction_bits, first != 0, {}};
    sum.add(*gradient, offset, count);
    *bad = sum.bad.count();
  });
}

char* tr_fixed_point_backward(
    at::Tensor* loss,
    at::Tensor* const* leaves,
    const int64_t* offsets,
    size_t count,
    at::Tensor* accumulator,
    int fraction_bits,
    int first,
    void (*done)(void* data, size_t leaf),
    void* data,
    uint64_t* bad) {
  return trireme::guarded([&] {
    const std::vector<at::Tensor> all = trireme::collect(leaves, count);
    Sum sum{*accumulator, fraction_bits, first != 0, {}};
    if (accumulator->is_cpu()) {
      backward_by_leaf(*loss, all, offsets, sum, Done{done, data});
    } else {
      backward_by_piece(*loss, all, offsets, sum, Done{done, data});
    }
    *bad = sum.bad.count();
  });
}

char* tr_fixed_point_to_float(at::Tensor* accumulator, int64_t offset, at::Tensor* gradient, int fraction_bits) {
  return trireme::guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor target = gradient->detach();
    check_accumulator(*accumulator, offset, target.numel());
    const double scale = std::ldexp(1.0, -fraction_bits);
    if (!accumulator->is_cpu()) {
      target.copy_(accumulator->narrow(0, offset, target.numel()).to(at::kDouble).mul(scale).view(target.sizes()));
      return;
    }
    TORCH_CHECK(
        target.is_cpu() && target.scalar_type() == at::kFloat && target.is_contiguous(),
        "the gradient must be contiguous float32 on the accumulator's device");
    const int64_t* from = accumulator->const_data_ptr<int64_t>() + offset;
    float* into = target.data_ptr<float>();
    const auto convert = [&](int64_t first, int64_t last) {
      at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
        to_float_range(from + begin, into + begin, end - begin, scale);
      });
    };
    const void* base = accumulator->const_data_ptr();
    if (target.storage().data() != accumulator->storage().data()) {
      convert(0, target.numel());
      return;
    }
    TORCH_CHECK(
        static_cast<const void*>(into - offset) == base, "gradients in the accumulator's memory must be at its beginning");
    in_place(from, into, offset, target.numel(), scale, convert);
  });
}

} // extern "C"
