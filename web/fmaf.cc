// a * b + c rounded once, in place of the C library's: that one cannot change the rounding mode here, and then rounds
// some sums that end between two float32 the wrong way.
#include <cmath>
#include <cstdint>
#include <cstring>

extern "C" float fmaf(float a, float b, float c) {
  // Exact product, sum rounded to odd, then to float32: see FmaRoundedToOdd in core/kernels/fma-inl.h.
  const double product = static_cast<double>(a) * b, sum = product + c;
  const double part = sum - product;
  const double lost = (product - (sum - part)) + (c - part);
  uint64_t bits;
  std::memcpy(&bits, &sum, sizeof(bits));
  if (!(std::fabs(lost) > 0) || bits % 2 == 1) return static_cast<float>(sum);
  bits += std::signbit(lost) == std::signbit(sum) ? 1 : -1;
  double odd;
  std::memcpy(&odd, &bits, sizeof(odd));
  return static_cast<float>(odd);
}
