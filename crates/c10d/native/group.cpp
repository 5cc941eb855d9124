#include "group.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <thread>

namespace {

using Works = std::vector<c10::intrusive_ptr<c10d::Work>>;

// Elements that go from one member to another in one message: what is received is added while it is in the cache.
constexpr int64_t kPiece = 1 << 18;

// For Gloo's threads to leave a collective whose connections are shut.
constexpr std::chrono::milliseconds kPatience(2000);

// c10d's flight recorder keeps the last 2,000 collectives of all groups of the process for a dump that Trireme has no
// use for, and its map of groups is changed without a lock: two groups whose first collectives coincide end the process
// (libtorch 2.11.0, FlightRecorder::recordWithResetEnabled). It reads this once, at the first collective; who sets it
// wins. Before main, because setenv races with every getenv of other threads.
__attribute__((constructor)) void without_flight_recorder() {
  setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/0);
}

// What was received onto what is here. By this thread alone: another one may compute meanwhile with all that there are.
void add_received(const at::Tensor& into, const at::Tensor& from) {
  int64_t* const sums = into.data_ptr<int64_t>();
  const int64_t* const values = from.const_data_ptr<int64_t>();
  const int64_t count = from.numel();
  for (int64_t i = 0; i < count; ++i) {
    sums[i] += values[i];
  }
}

// Collectives write into the storage behind autograd's back, as c10d does everywhere: parameters that require gradients
// may be broadcast.
template <typename F>
void in_place(const TrGroup& group, at::Tensor& tensor, const F& collective) {
  at::NoGradGuard no_grad;
  at::Tensor plain = tensor.detach();
  std::vector<at::Tensor> list{plain.contiguous()};
  const c10::intrusive_ptr<c10d::Work> work = collective(list);
  group.waits ? group.waits->collective(work) : static_cast<void>(work->wait());
  if (!plain.is_contiguous()) {
    plain.copy_(list[0]);
  }
}

} // namespace

extern "C" {

char* tr_group_gloo(
    void* store_self,
    const TrStoreTable* table,
    int rank,
    int world,
    int64_t connect_timeout_ms,
    int64_t timeout_ms,
    const char* address,
    TrGroup** result) {
  return trireme::guarded([&] {
    const std::chrono::milliseconds connect_timeout(connect_timeout_ms);
    c10::intrusive_ptr<c10d::Store> store =
        c10::make_intrusive<trireme::RustStore>(store_self, *table, connect_timeout);
    auto options = c10d::ProcessGroupGloo::Options::create(connect_timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address, /*lazyInit=*/false));
    options->threads = 1; // one collective at a time, in the order of the calls
    c10::intrusive_ptr<c10d::Backend> backend =
        c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, options);
    backend->setTimeout(std::chrono::milliseconds(timeout_ms));
    auto group = std::make_unique<TrGroup>();
    *group = TrGroup{store, backend, c10d::ProcessGroup::BackendType::GLOO, c10::DeviceType::CPU};
    group->waits = std::make_unique<trireme::Waits>();
    *result = group.release();
  });
}

char* tr_group_all_reduce_sum(TrGroup* group, at::Tensor* tensor) {
  return trireme::guarded([&] {
    in_place(*group, *tensor, [&](std::vector<at::Tensor>& list) {
      c10d::AllreduceOptions options;
      options.reduceOp = c10d::ReduceOp::SUM;
      return group->backend->allreduce(list, options);
    });
  });
}

char* tr_group_broadcast(TrGroup* group, at::Tensor* tensor, int root) {
  return trireme::guarded([&] {
    in_place(*group, *tensor, [&](std::vector<at::Tensor>& list) {
      c10d::BroadcastOptions options;
      options.rootRank = root;
      options.rootTensor = 0;
      return group->backend->broadcast(list, options);
    });
  });
}

// Every member sends each other member that one's part, and adds what it receives to its own. Part r is
// bounds[r]..bounds[r + 1].
char* tr_group_reduce_scatter_sum(TrGroup* group, at::Tensor* tensor, const int64_t* bounds) {
  return trireme::guarded([&] {
    at::NoGradGuard no_grad;
    at::Tensor whole = tensor->detach();
    const int rank = group->backend->getRank();
    const int world = group->backend->getSize();
    int64_t longest = 0;
    for (int member = 0; member < world; ++member) {
      longest = std::max(longest, bounds[member + 1] - bounds[member]);
    }
    const at::Tensor pieces = at::empty({world, std::min(kPiece, longest)}, whole.options());
    const auto piece = [&](int member, int64_t offset) {
      return std::clamp<int64_t>(bounds[member + 1] - bounds[member] - offset, 0, kPiece);
    };
    Works sent;
    for (int64_t offset = 0; offset < longest; offset += kPiece) {
      const int tag = group->tag++;
      const int64_t own = piece(rank, offset);
      Works received;
      for (int step = 1; step < world; ++step) { // not all to the first one at once
        const int peer = (rank + step) % world;
        if (own > 0) {
          std::vector<at::Tensor> into{pieces[peer].narrow(0, 0, own)};
          received.push_back(group->backend->recv(into, peer, tag));
        }
        if (const int64_t theirs = piece(peer, offset); theirs > 0) {
          std::vector<at::Tensor> from{whole.narrow(0, bounds[peer] + offset, theirs)};
          sent.push_back(group->backend->send(from, peer, tag));
        }
      }
      for (size_t index = 0; index < received.size(); ++index) {
        group->waits->message(received[index]);
        const int peer = (rank + 1 + static_cast<int>(index)) % world;
        add_received(whole.narrow(0, bounds[rank] + offset, own), pieces[peer].narrow(0, 0, own));
      }
    }
    for (const auto& work : sent) {
      group->waits->message(work);
    }
  });
}

// Every member sends its part of each tensor to all others. Each tensor has bounds of its own, one after the other.
char* tr_group_all_gather(TrGroup* group, at::Tensor* const* tensors, size_t count, const int64_t* bounds) {
  return trireme::guarded([&] {
    at::NoGradGuard no_grad;
    const int rank = group->backend->getRank();
    const int world = group->backend->getSize();
    Works works;
    for (size_t index = 0; index < count; ++index, bounds += world + 1) {
      const at::Tensor whole = tensors[index]->detach();
      const int tag = group->tag++;
      const auto part = [&](int member) {
        return whole.narrow(0, bounds[member], bounds[member + 1] - bounds[member]);
      };
      for (int step = 1; step < world; ++step) {
        const int peer = (rank + step) % world;
        std::vector<at::Tensor> into{part(peer)}, from{part(rank)};
        if (into[0].numel() > 0) {
          works.push_back(group->backend->recv(into, peer, tag));
        }
        if (from[0].numel() > 0) {
          works.push_back(group->backend->send(from, peer, tag));
        }
      }
    }
    for (const auto& work : works) {
      group->waits->message(work);
    }
  });
}

// Gloo's connections are shut by the Rust side, before or after this.
char* tr_group_abort(TrGroup* group) {
  return trireme::guarded([&] { group->waits ? group->waits->abort() : group->backend->abort(); });
}

char* tr_group_free(TrGroup* group) {
  return trireme::guarded([&] {
    // The destructor waits for Gloo's threads.
    if (group->waits && !group->waits->settled(kPatience)) {
      std::thread([group] {
        while (!group->waits->settled(std::chrono::minutes(1))) {
        }
        delete group;
      }).detach();
      throw std::runtime_error("Gloo holds on to a collective of it, and keeps its memory until the collective's timeout");
    }
    delete group;
  });
}

} // extern "C"
