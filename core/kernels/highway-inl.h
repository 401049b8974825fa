// Highway, and what version 1.0.3 lacks on WASM.

#if defined(BCDNET_HIGHWAY_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef BCDNET_HIGHWAY_INL
#undef BCDNET_HIGHWAY_INL
#else
#define BCDNET_HIGHWAY_INL
#endif

#include "hwy/highway.h"

#if HWY_TARGET == HWY_WASM
HWY_BEFORE_NAMESPACE();
namespace hwy {
namespace HWY_NAMESPACE {

/// The one instruction, which that version still avoids: it goes through memory, byte by byte. Not a template, so that
/// calls with bytes prefer it.
HWY_API Vec128<uint8_t> TableLookupBytes(Vec128<uint8_t> bytes, Vec128<uint8_t> from) {
  return Vec128<uint8_t>{wasm_i8x16_swizzle(bytes.raw, from.raw)};
}

}  // namespace HWY_NAMESPACE
}  // namespace hwy
HWY_AFTER_NAMESPACE();
#endif

#endif  // include guard
