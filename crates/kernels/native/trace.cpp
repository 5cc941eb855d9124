// torch's own profiler: what a piece of work consists of, operator by operator, as a trace that Chrome and Perfetto show.
#include "shim.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <set>

namespace profiler = torch::profiler::impl;

extern "C" {

char* tr_trace_begin(int cuda) {
  return trireme::guarded([&] {
    std::set<profiler::ActivityType> activities = {profiler::ActivityType::CPU};
    if (cuda != 0) {
      activities.insert(profiler::ActivityType::CUDA);
    }
    const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
  });
}

char* tr_trace_end(const char* path) {
  return trireme::guarded([&] { torch::autograd::profiler::disableProfiler()->save(path); });
}

} // extern "C"
