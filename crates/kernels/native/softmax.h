// The parts of a softmax: vector loops that give the same bits on every instruction set.
#pragma once

#include "exponential.h"
#include "versions.h"

#include <cmath>
#include <cstdint>

namespace {

// Independent partial sums, so that the loop needs no reordering of additions to be a vector loop.
constexpr int64_t kLanes = 32;

TR_VERSIONS
float greatest(const float* values, int64_t count) {
  float lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = -INFINITY;
  }
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
  }
  float result = -INFINITY;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    result = lanes[lane] > result ? lanes[lane] : result;
  }
  for (; i < count; ++i) {
    result = values[i] > result ? values[i] : result;
  }
  return result;
}

// values[i] = e^(values[i] - greatest); returns their sum.
TR_VERSIONS
double exponentials(float* values, int64_t count, float greatest) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float power = exponential(values[i + lane] - greatest);
      values[i + lane] = power;
      lanes[lane] += power;
    }
  }
  double sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    sum += lanes[lane];
  }
  for (; i < count; ++i) {
    values[i] = exponential(values[i] - greatest);
    sum += values[i];
  }
  return sum;
}

} // namespace
