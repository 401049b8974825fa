// a * b + c rounded once, on every target.

#if defined(BCDNET_FMA_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef BCDNET_FMA_INL
#undef BCDNET_FMA_INL
#else
#define BCDNET_FMA_INL
#endif

#include <cmath>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS

template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Fma(D d, V a, V b, V c) {
#if HWY_NATIVE_FMA
  static_cast<void>(d);
  return hwy::HWY_NAMESPACE::MulAdd(a, b, c);
#else
  // Machines without the instruction: the C library's, lane by lane.
  HWY_ALIGN float lanes[3][HWY_LANES(float)];
  hwy::HWY_NAMESPACE::Store(a, d, lanes[0]);
  hwy::HWY_NAMESPACE::Store(b, d, lanes[1]);
  hwy::HWY_NAMESPACE::Store(c, d, lanes[2]);
  for (size_t i = 0; i < HWY_LANES(float); ++i) lanes[0][i] = std::fma(lanes[0][i], lanes[1][i], lanes[2][i]);
  return hwy::HWY_NAMESPACE::Load(d, lanes[0]);
#endif
}

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
