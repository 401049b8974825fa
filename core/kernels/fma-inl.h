// a * b + c rounded once, on every target.

#if defined(BCDNET_FMA_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef BCDNET_FMA_INL
#undef BCDNET_FMA_INL
#else
#define BCDNET_FMA_INL
#endif

#include <cmath>

#include "hwy/highway.h"
#include "reference/fma.h"

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS

#if HWY_NATIVE_FMA

struct QuickFma {
  template <class V>
  HWY_INLINE V operator()(V a, V b, V c) const {
    return hwy::HWY_NAMESPACE::MulAdd(a, b, c);
  }
  static constexpr bool Doubtful() { return false; }
};

#else

namespace hn = hwy::HWY_NAMESPACE;

using FmaTag = hn::ScalableTag<float>;
using FmaVec = hn::Vec<FmaTag>;

/// Right for all lanes, at the price of each by itself.
HWY_NOINLINE inline FmaVec FmaByLane(FmaVec a, FmaVec b, FmaVec c) {
  const FmaTag d;
  HWY_ALIGN float lanes[3][HWY_LANES(float)];
  hn::Store(a, d, lanes[0]);
  hn::Store(b, d, lanes[1]);
  hn::Store(c, d, lanes[2]);
  for (size_t i = 0; i < HWY_LANES(float); ++i) lanes[0][i] = reference::FmaInFloat64(lanes[0][i], lanes[1][i], lanes[2][i]);
  return hn::Load(d, lanes[0]);
}

#if HWY_TARGET == HWY_WASM  // where Highway 1.0.3 has no float64

#define BCDNET_FLOAT64 1

struct Doubles {
  v128_t low, high;
};
HWY_INLINE Doubles Widened(FmaVec v) {
  return {wasm_f64x2_promote_low_f32x4(v.raw), wasm_f64x2_promote_low_f32x4(wasm_i64x2_shuffle(v.raw, v.raw, 1, 1))};
}
HWY_INLINE Doubles MulAdd(Doubles a, Doubles b, Doubles c) {
  return {wasm_f64x2_add(wasm_f64x2_mul(a.low, b.low), c.low), wasm_f64x2_add(wasm_f64x2_mul(a.high, b.high), c.high)};
}
HWY_INLINE FmaVec Narrowed(Doubles v) {
  return FmaVec{wasm_i64x2_shuffle(wasm_f32x4_demote_f64x2_zero(v.low), wasm_f32x4_demote_f64x2_zero(v.high), 0, 2)};
}
HWY_INLINE hn::Vec<hn::RebindToUnsigned<FmaTag>> LowWords(Doubles v) {
  return {wasm_i32x4_shuffle(v.low, v.high, 0, 2, 4, 6)};
}

#elif HWY_HAVE_FLOAT64

#define BCDNET_FLOAT64 1

using DoubleTag = hn::Repartition<double, FmaTag>;
struct Doubles {
  hn::Vec<DoubleTag> low, high;
};
HWY_INLINE Doubles Widened(FmaVec v) {
  const DoubleTag d;
  const hn::Half<FmaTag> half;
  return {hn::PromoteTo(d, hn::LowerHalf(half, v)), hn::PromoteTo(d, hn::UpperHalf(half, v))};
}
HWY_INLINE Doubles MulAdd(Doubles a, Doubles b, Doubles c) {
  return {hn::Add(hn::Mul(a.low, b.low), c.low), hn::Add(hn::Mul(a.high, b.high), c.high)};
}
HWY_INLINE FmaVec Narrowed(Doubles v) {
  const hn::Half<FmaTag> half;
  return hn::Combine(FmaTag(), hn::DemoteTo(half, v.high), hn::DemoteTo(half, v.low));
}
HWY_INLINE hn::Vec<hn::RebindToUnsigned<FmaTag>> LowWords(Doubles v) {
  const hn::RebindToUnsigned<FmaTag> d;
  return hn::ConcatEven(d, hn::BitCast(d, v.high), hn::BitCast(d, v.low));
}

#else
#define BCDNET_FLOAT64 0
#endif

/// Multiply-adds of which some may be rounded wrongly, and whether any was in doubt: then all are to be done again, by
/// `Fma`. There is no such instruction. In float64 the product is exact and the sum nearly so; rounding twice differs
/// from rounding once only where the sum ends exactly between two float32, or is tiny.
struct QuickFma {
  using Int = hn::RebindToSigned<FmaTag>;
#if BCDNET_FLOAT64
  hn::Mask<Int> doubt;

  HWY_INLINE QuickFma() : doubt(hn::MaskFromVec(hn::Zero(Int()))) {}
  HWY_INLINE FmaVec operator()(FmaVec a, FmaVec b, FmaVec c) {
    const Int di;
    const hn::RebindToUnsigned<FmaTag> du;
    const Doubles sum = MulAdd(Widened(a), Widened(b), Widened(c));
    const FmaVec result = Narrowed(sum);
    // The 29 bits of a float64 that a float32 lacks are a half and nothing more.
    const auto half = hn::Eq(hn::ShiftLeft<3>(LowWords(sum)), hn::Set(du, 0x80000000u));
    // 0 < |result| <= 2^-126, by one signed comparison; what rounds to zero from float64 does so rightly.
    const auto size = hn::And(hn::BitCast(di, result), hn::Set(di, 0x7FFFFFFF));
    const auto tiny = hn::Lt(hn::Add(size, hn::Set(di, 0x7FFFFFFF)), hn::Set(di, INT32_MIN + 0x00800000));
    doubt = hn::Or(doubt, hn::Or(hn::RebindMask(di, half), tiny));
    return result;
  }
  HWY_INLINE bool Doubtful() const { return HWY_UNLIKELY(!hn::AllFalse(Int(), doubt)); }
#else
  HWY_INLINE FmaVec operator()(FmaVec a, FmaVec b, FmaVec c) const { return FmaByLane(a, b, c); }
  static constexpr bool Doubtful() { return false; }
#endif
};

#undef BCDNET_FLOAT64
#endif  // HWY_NATIVE_FMA

template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Fma(D, V a, V b, V c) {
  QuickFma quick;
  const V result = quick(a, b, c);
#if !HWY_NATIVE_FMA
  if (quick.Doubtful()) return FmaByLane(a, b, c);
#endif
  return result;
}

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
