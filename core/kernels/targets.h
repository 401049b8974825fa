// Include first in every file that compiles once per instruction set.
//
// Left out: SVE and RVV, whose vectors have no compile-time size, so that register tiles cannot be arrays of them
// (these CPUs run NEON or SCALAR); SSE2, which has no byte shuffle; kinds of AVX3_DL and NEON, whose code would be the
// same; and EMU128, since SCALAR is the reference's plain loops.
#pragma once

#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS \
  (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | HWY_SSE2 | HWY_AVX3_ZEN4 | HWY_AVX3_SPR | \
   HWY_AVX10_2 | HWY_NEON_BF16)
#include "hwy/detect_targets.h"
// Those that this release of Highway does not know.
#ifndef HWY_SSE2
#define HWY_SSE2 0
#endif
#ifndef HWY_AVX3_ZEN4
#define HWY_AVX3_ZEN4 0
#endif
#ifndef HWY_AVX3_SPR
#define HWY_AVX3_SPR 0
#endif
#ifndef HWY_AVX10_2
#define HWY_AVX10_2 0
#endif
#ifndef HWY_NEON_BF16
#define HWY_NEON_BF16 0
#endif

// Inside HWY_NAMESPACE: whether this pass has vectors at all.
#define BCDNET_VECTORS (HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128)
