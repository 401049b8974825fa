// Include first in every file that compiles once per instruction set.
//
// Left out: SVE and RVV, whose vectors have no compile-time size, so that register tiles cannot be arrays of them
// (these CPUs run NEON or SCALAR); SSE2, which has no byte shuffle; and EMU128, since SCALAR is the reference's plain
// loops.
#pragma once

#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

// Inside HWY_NAMESPACE: whether this pass has vectors at all.
#define BCDNET_VECTORS (HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128)
