// a * b + c rounded once, where there is no instruction for it: on old x86 CPUs, where the C library's is slow, and in
// browsers, where it cannot be trusted.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace bcdnet::reference {

/// In float64, where the product is exact. The sum is rounded to odd: where it is not exact its last bit is made 1, so
/// that the rounding to float32 after it sees on which side of a half it lies.
inline float FmaInFloat64(float a, float b, float c) {
  const double product = static_cast<double>(a) * b, sum = product + c;
  // What the sum lost, exactly (Knuth's two-sum).
  const double part = sum - product;
  const double lost = (product - (sum - part)) + (c - part);
  uint64_t bits;
  std::memcpy(&bits, &sum, sizeof bits);
  if (!(std::abs(lost) > 0.0) || bits % 2 == 1) return static_cast<float>(sum);  // exact, odd or not a number
  // Of an even sum that is too large the odd neighbour is the one below; bits count up with the magnitude.
  bits += std::signbit(lost) == std::signbit(sum) ? 1 : -1;
  double odd;
  std::memcpy(&odd, &bits, sizeof odd);
  return static_cast<float>(odd);
}

}  // namespace bcdnet::reference
