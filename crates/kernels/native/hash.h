// Chance as a function of a position: what dropout's masks are made of.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include <cstdint>
#include <mutex>

namespace trireme {

// Wellons' lowbias32, a 32-bit integer hash with next to no bias (nullprogram.com/blog/2018/07/31).
inline uint32_t mixed(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

// From torch's own generator, so that a manual seed governs these masks too.
inline int64_t next_key() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return static_cast<int64_t>(at::check_generator<at::CPUGeneratorImpl>(generator)->random64());
}

} // namespace trireme
