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

#if HWY_TARGET == HWY_WASM

HWY_INLINE v128_t LowLanes(v128_t v) { return wasm_f64x2_promote_low_f32x4(v); }
HWY_INLINE v128_t HighLanes(v128_t v) { return wasm_f64x2_promote_low_f32x4(wasm_i64x2_shuffle(v, v, 1, 1)); }
HWY_INLINE v128_t Narrow(v128_t low, v128_t high) {
  return wasm_i64x2_shuffle(wasm_f32x4_demote_f64x2_zero(low), wasm_f32x4_demote_f64x2_zero(high), 0, 2);
}

/// Right for all lanes, and seldom needed: kept out of the loops.
HWY_NOINLINE inline v128_t CarefulFma(v128_t a, v128_t b, v128_t c) {
  alignas(16) float lanes[3][4];
  wasm_v128_store(lanes[0], a);
  wasm_v128_store(lanes[1], b);
  wasm_v128_store(lanes[2], c);
  for (int i = 0; i < 4; ++i) lanes[0][i] = reference::FmaInFloat64(lanes[0][i], lanes[1][i], lanes[2][i]);
  return wasm_v128_load(lanes[0]);
}

/// There is no such instruction. In float64 the product is exact and the sum nearly so; rounding twice differs from
/// rounding once only where the sum ends exactly between two float32, or is tiny: those few are done again.
template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Fma(D, V a, V b, V c) {
  const v128_t sum_low = wasm_f64x2_add(wasm_f64x2_mul(LowLanes(a.raw), LowLanes(b.raw)), LowLanes(c.raw));
  const v128_t sum_high = wasm_f64x2_add(wasm_f64x2_mul(HighLanes(a.raw), HighLanes(b.raw)), HighLanes(c.raw));
  const v128_t mask = wasm_i64x2_const_splat(0x1FFFFFFF), half = wasm_i64x2_const_splat(0x10000000);
  const v128_t halves = wasm_v128_or(wasm_i64x2_eq(wasm_v128_and(sum_low, mask), half),
                                     wasm_i64x2_eq(wasm_v128_and(sum_high, mask), half));
  const v128_t result = Narrow(sum_low, sum_high);
  const v128_t tiny = wasm_f32x4_le(wasm_f32x4_abs(result), wasm_f32x4_const_splat(1.17549435e-38f));
  if (HWY_LIKELY(!wasm_v128_any_true(wasm_v128_or(halves, tiny)))) return V{result};
  return V{CarefulFma(a.raw, b.raw, c.raw)};
}

#else

template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Fma(D d, V a, V b, V c) {
#if HWY_NATIVE_FMA
  static_cast<void>(d);
  return hwy::HWY_NAMESPACE::MulAdd(a, b, c);
#else
  // Machines without the instruction: lane by lane, which takes a quarter of the time of the C library's in software.
  HWY_ALIGN float lanes[3][HWY_LANES(float)];
  hwy::HWY_NAMESPACE::Store(a, d, lanes[0]);
  hwy::HWY_NAMESPACE::Store(b, d, lanes[1]);
  hwy::HWY_NAMESPACE::Store(c, d, lanes[2]);
  for (size_t i = 0; i < HWY_LANES(float); ++i) lanes[0][i] = reference::FmaInFloat64(lanes[0][i], lanes[1][i], lanes[2][i]);
  return hwy::HWY_NAMESPACE::Load(d, lanes[0]);
#endif
}

#endif  // HWY_TARGET == HWY_WASM
#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
