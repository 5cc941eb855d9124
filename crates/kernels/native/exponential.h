// e^x for vector loops; the same bits on every instruction set.
#pragma once

#include "versions.h"

#include <cstdint>

namespace {

// For x <= 0, to about one unit in the last place: 2^n · e^r with |r| <= ln 2 / 2, the polynomial of Cephes' expf.
TR_INLINE float exponential(float x) {
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

} // namespace
