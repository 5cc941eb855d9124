// The loop of dropout, for what drops within other loops; the same bits on every instruction set.
#pragma once

#include <cstdint>

namespace trireme {

// into[i] is from[i] times the factor, or 0 where the bit that the key (first, second) gives to position `begin + i` says
// so: see dropout.cpp. Positions are below 2^32.
void drop(
    const float* from,
    float* into,
    uint32_t begin,
    int64_t count,
    uint32_t first,
    uint32_t second,
    uint32_t threshold,
    float factor);

} // namespace trireme
