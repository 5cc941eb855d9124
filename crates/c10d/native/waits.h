// Waiting for Gloo in a way that an abort ends.
//
// Gloo loses errors: a message that is under way when its connection breaks (taken from the list of those that wait, but
// not yet written or read to its end) is told nothing, and who waits for it waits until the timeout (libtorch 2.11.0,
// gloo's tcp::Pair::signalException). So nobody waits for Gloo alone.
#pragma once

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_set>

namespace trireme {

class Waits {
 public:
  // Waits for one message, sent or received. Throws what it failed with, or that the group was aborted.
  void message(const c10::intrusive_ptr<c10d::Work>& work);

  // The same for a collective of Gloo's own, which a thread of Gloo's carries out.
  void collective(const c10::intrusive_ptr<c10d::Work>& work);

  // Of a collective of Gloo's own: what comes of it, or an error as soon as the group is aborted.
  c10::intrusive_ptr<c10::ivalue::Future> outcome(const c10::intrusive_ptr<c10d::Work>& work);

  // Ends all waits, now and later. The connections are shut already.
  void abort();

  // Whether Gloo's threads are done with all collectives, or are so within that time.
  bool settled(std::chrono::milliseconds patience) const;

 private:
  using Future = c10::intrusive_ptr<c10::ivalue::Future>;

  // Shared with callbacks that may outlive the group.
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool aborted = false;
    int running = 0; // collectives of Gloo's own
    std::unordered_set<c10d::Work*> messages; // each kept by who waits for it
    std::unordered_set<c10::ivalue::Future*> outcomes; // each kept by its callback
  };

  Future started(const c10::intrusive_ptr<c10d::Work>& work);

  std::shared_ptr<State> state_ = std::make_shared<State>();
};

} // namespace trireme
