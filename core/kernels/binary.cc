// The binary convolutions of every instruction set.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/binary.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "kernels/highway-inl.h"
#include "kernels/binary_bytes-inl.h"
#include "kernels/binary_words-inl.h"
#include "kernels/tables.h"

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS

#if HWY_TARGET == HWY_WASM

/// The one that is fastest there, since each makes the module larger.
void AddBinary(KernelTable& table) {
  table.algorithms = {BytesAlgorithm<Lookup, InPairs>::Make("pairs"), reference::PlainAlgorithm()};
}

#else

void AddBinary(KernelTable& table) {
  const BinaryAlgorithm pairs = BytesAlgorithm<Lookup, InPairs>::Make("pairs"),
                        lookup = BytesAlgorithm<Lookup, Singly<Lookup>>::Make("lookup"),
                        octets = BytesAlgorithm<Octets, Singly<Octets>>::Make("octets"),
                        plain = reference::PlainAlgorithm();
  // Where words or bytes have a population count, it beats the look-up (docs/kernels.md).
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3_DL
  table.algorithms = {WordsAlgorithm::Make(), octets, pairs, lookup, plain};
#elif HWY_ARCH_ARM
  table.algorithms = {octets, pairs, lookup, plain};
#else
  table.algorithms = {pairs, lookup, octets, plain};
#endif
}

#endif  // HWY_TARGET == HWY_WASM
#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
