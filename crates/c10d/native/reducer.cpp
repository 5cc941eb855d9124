// DDP's Reducer: gradient buckets reduced while the backward pass is still running.
#include "group.h"

#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <torch/types.h>

namespace {

// Averages in bfloat16: half the bytes on the wire. As libtorch's FP16CompressCommHook, but with float32's range.
class Bf16CompressCommHook final : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    at::Tensor compressed = bucket.getBufferRef().to(at::kBFloat16);
    compressed /= state_->getSize();
    std::vector<at::Tensor> list{compressed};
    auto reduced = state_->allreduce(list)->getFuture();
    at::Tensor target = bucket.getBufferRef();
    return reduced->then(
        [target](c10::ivalue::Future& future) {
          target.copy_(future.value().toTensorVector()[0]);
          return c10::IValue(target);
        },
        reduced->elementType());
  }
};

// What the Reducer waits for, with an outcome that an abort brings about.
class Abortable final : public c10d::Work {
 public:
  explicit Abortable(c10::intrusive_ptr<c10::ivalue::Future> outcome) : outcome_(std::move(outcome)) {}

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    return outcome_;
  }

  bool wait(std::chrono::milliseconds) override {
    outcome_->waitAndThrow();
    return true;
  }

 private:
  c10::intrusive_ptr<c10::ivalue::Future> outcome_;
};

// The group as the Reducer sees it. Counts each bucket where it is sent, as the Rust side counts its own collectives: how
// far a member came tells who holds up the others.
class BucketGroup final : public c10d::ProcessGroup {
 public:
  // Both outlive the reducer.
  BucketGroup(const TrGroup& group, uint64_t* collectives)
      : ProcessGroup(group.store, group.backend->getRank(), group.backend->getSize()),
        waits_(group.waits.get()),
        collectives_(collectives) {}

  c10::intrusive_ptr<c10d::Work> allreduce(
      std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) override {
    __atomic_fetch_add(collectives_, 1, __ATOMIC_RELAXED);
    return abortable(ProcessGroup::allreduce(tensors, options));
  }

  // Of the buckets' order, once, after the first backward pass.
  c10::intrusive_ptr<c10d::Work> broadcast(
      std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    return abortable(ProcessGroup::broadcast(tensors, options));
  }

 private:
  c10::intrusive_ptr<c10d::Work> abortable(c10::intrusive_ptr<c10d::Work> work) {
    if (waits_ == nullptr) {
      return work;
    }
    return c10::make_intrusive<Abortable>(waits_->outcome(work));
  }

  trireme::Waits* waits_; // none with NCCL
  uint64_t* collectives_; // Rust's AtomicU64
};

} // namespace

extern "C" {

char* tr_reducer_new(
    TrGroup* group,
    at::Tensor* const* parameters,
    size_t count,
    int64_t bucket_bytes,
    int compress_bf16,
    uint64_t* collectives,
    c10d::Reducer** result) {
  return trireme::guarded([&] {
    auto own = trireme::collect(parameters, count);
    c10::intrusive_ptr<c10d::ProcessGroup> process_group = c10::make_intrusive<BucketGroup>(*group, collectives);
    process_group->setDefaultBackend(group->type);
    // Where the parameters are: Gloo itself takes CUDA tensors through main memory.
    process_group->setBackend(own.at(0).device().type(), group->type, group->backend);
    const std::vector<bool> sparse(count, false);
    // The first bucket is small so that communication starts early, as in DistributedDataParallel.
    const std::vector<size_t> limits{
        static_cast<size_t>(std::min<int64_t>(c10d::kDefaultFirstBucketBytes, bucket_bytes)),
        static_cast<size_t>(bucket_bytes)};
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(own, limits, sparse));
    // Gradients become ready roughly in the reverse order of the parameters.
    std::reverse(buckets.begin(), buckets.end());
    auto reducer = std::make_unique<c10d::Reducer>(
        own,
        std::move(buckets),
        process_group,
        sparse,
        bucket_bytes,
        /*find_unused_parameters=*/false,
        /*gradient_as_bucket_view=*/true, // gradients and buckets in the same memory
        std::unordered_map<size_t, std::string>{},
        static_cast<int64_t>(limits[0]),
        /*skip_all_reduce_unused_params=*/false,
        /*use_python_reducer=*/false,
        std::vector<int64_t>{});
    if (compress_bf16 != 0) {
      reducer->register_comm_hook(std::make_unique<Bf16CompressCommHook>(process_group));
    }
    *result = reducer.release();
  });
}

char* tr_reducer_prepare(c10d::Reducer* reducer, at::Tensor* const* outputs, size_t count) {
  return trireme::guarded([&] {
    // After the first synchronised backward pass: buckets in the order in which gradients really became ready.
    reducer->rebuild_buckets();
    reducer->prepare_for_backward(trireme::collect(outputs, count));
  });
}

char* tr_reducer_free(c10d::Reducer* reducer) {
  return trireme::guarded([&] {
    reducer->remove_autograd_hooks();
    delete reducer;
  });
}

} // extern "C"
