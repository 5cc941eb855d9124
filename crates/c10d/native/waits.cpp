#include "waits.h"

#include <stdexcept>
#include <vector>

namespace trireme {

namespace {

// How long Gloo has, once the connections are shut, to say by itself what went wrong.
constexpr std::chrono::milliseconds kGrace(1000);

std::runtime_error given_up() {
  return std::runtime_error("the connections were closed while it was under way");
}

} // namespace

void Waits::message(const c10::intrusive_ptr<c10d::Work>& work) {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    if (state_->aborted) {
      throw given_up();
    }
    state_->messages.insert(work.get());
  }
  struct Forget {
    State& state;
    c10d::Work* work;
    ~Forget() {
      const std::lock_guard<std::mutex> lock(state.mutex);
      state.messages.erase(work);
    }
  } const forget{*state_, work.get()};
  if (!work->wait()) {
    throw given_up();
  }
}

Waits::Future Waits::started(const c10::intrusive_ptr<c10d::Work>& work) {
  const Future future = work->getFuture();
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    ++state_->running;
  }
  future->addCallback(
      [state = state_](c10::ivalue::Future&) {
        const std::lock_guard<std::mutex> lock(state->mutex);
        --state->running;
        state->changed.notify_all();
      },
      /*uses_future=*/false);
  return future;
}

void Waits::collective(const c10::intrusive_ptr<c10d::Work>& work) {
  const Future future = started(work);
  {
    std::unique_lock<std::mutex> lock(state_->mutex);
    const auto done = [&] { return future->completed(); };
    state_->changed.wait(lock, [&] { return done() || state_->aborted; });
    if (!state_->changed.wait_for(lock, kGrace, done)) {
      throw given_up();
    }
  }
  work->wait();
}

Waits::Future Waits::outcome(const c10::intrusive_ptr<c10d::Work>& work) {
  const Future inner = started(work);
  const auto outer = c10::make_intrusive<c10::ivalue::Future>(inner->elementType(), inner->devices());
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    if (!state_->aborted) {
      state_->outcomes.insert(outer.get());
    } else {
      outer->setError(std::make_exception_ptr(given_up()));
    }
  }
  // Who takes it from the set completes it.
  const auto take = [state = state_, outer] {
    const std::lock_guard<std::mutex> lock(state->mutex);
    return state->outcomes.erase(outer.get()) > 0;
  };
  inner->addCallback([take, outer](c10::ivalue::Future& future) {
    if (!take()) {
      return;
    }
    if (future.hasError()) {
      outer->setError(future.exception_ptr());
    } else {
      outer->markCompleted(future.value());
    }
  });
  return outer;
}

void Waits::abort() {
  std::vector<Future> outcomes;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->aborted = true;
    for (c10d::Work* const work : state_->messages) {
      work->abort();
    }
    for (c10::ivalue::Future* const outcome : state_->outcomes) {
      outcomes.push_back(Future::reclaim_copy(outcome));
    }
    state_->outcomes.clear();
    state_->changed.notify_all();
  }
  // Whoever hears of it may call back.
  for (const Future& outcome : outcomes) {
    outcome->setError(std::make_exception_ptr(given_up()));
  }
}

bool Waits::settled(std::chrono::milliseconds patience) const {
  std::unique_lock<std::mutex> lock(state_->mutex);
  return state_->changed.wait_for(lock, patience, [&] { return state_->running == 0; });
}

} // namespace trireme
