// Names of what each instruction set adds to its table. Include after foreach_target.h.
#pragma once

#include "hwy/detect_targets.h"
#include "kernels/kernels.h"
#include "reference/reference.h"

// clang-format off
#if HWY_TARGETS & HWY_AVX3_DL
#define BCDNET_AVX3_DL(X) X(N_AVX3_DL, HWY_AVX3_DL, "AVX3_DL")
#else
#define BCDNET_AVX3_DL(X)
#endif
#if HWY_TARGETS & HWY_AVX3
#define BCDNET_AVX3(X) X(N_AVX3, HWY_AVX3, "AVX3")
#else
#define BCDNET_AVX3(X)
#endif
#if HWY_TARGETS & HWY_AVX2
#define BCDNET_AVX2(X) X(N_AVX2, HWY_AVX2, "AVX2")
#else
#define BCDNET_AVX2(X)
#endif
#if HWY_TARGETS & HWY_SSE4
#define BCDNET_SSE4(X) X(N_SSE4, HWY_SSE4, "SSE4")
#else
#define BCDNET_SSE4(X)
#endif
#if HWY_TARGETS & HWY_SSSE3
#define BCDNET_SSSE3(X) X(N_SSSE3, HWY_SSSE3, "SSSE3")
#else
#define BCDNET_SSSE3(X)
#endif
#if HWY_TARGETS & HWY_NEON
#define BCDNET_NEON(X) X(N_NEON, HWY_NEON, "NEON")
#else
#define BCDNET_NEON(X)
#endif
// To newer releases of Highway, NEON means one with AES, which a Raspberry Pi 4, for one, has not.
#if defined(HWY_NEON_WITHOUT_AES) && (HWY_TARGETS & HWY_NEON_WITHOUT_AES)
#define BCDNET_NEON_WITHOUT_AES(X) X(N_NEON_WITHOUT_AES, HWY_NEON_WITHOUT_AES, "NEON_WITHOUT_AES")
#else
#define BCDNET_NEON_WITHOUT_AES(X)
#endif
#if HWY_TARGETS & HWY_WASM
#define BCDNET_WASM(X) X(N_WASM, HWY_WASM, "WASM")
#else
#define BCDNET_WASM(X)
#endif
// clang-format on

/// X(namespace, bit of Highway's, name) for every vector target of this build, best first.
#define BCDNET_TARGETS(X) \
  BCDNET_AVX3_DL(X) BCDNET_AVX3(X) BCDNET_AVX2(X) BCDNET_SSE4(X) BCDNET_SSSE3(X) \
  BCDNET_NEON(X) BCDNET_NEON_WITHOUT_AES(X) BCDNET_WASM(X)

namespace bcdnet {
#define BCDNET_DECLARE(NAMESPACE, BIT, NAME) \
  namespace NAMESPACE {                      \
  void AddBinary(KernelTable& table);        \
  void AddEpilogue(KernelTable& table);      \
  void AddReal(KernelTable& table);          \
  void AddPeak(KernelTable& table);          \
  }
BCDNET_TARGETS(BCDNET_DECLARE)
#undef BCDNET_DECLARE
}  // namespace bcdnet
