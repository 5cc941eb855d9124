// The parts of a softmax: vector loops that give the same bits on every instruction set.
#pragma once

#include "versions.h"

#include <cmath>
#include <cstdint>

namespace {

// e^x for x <= 0, to about one unit in the last place: 2^n · e^r with |r| <= ln 2 / 2, the polynomial of Cephes' expf.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float magic = 12582912.0f; // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + magic;
  const float n = shifted - magic;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union {
    int32_t integer;
    float value;
  } power;
  power.integer = (static_cast<int32_t>(n) + 127) << 23;
  return p * power.value;
}

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
