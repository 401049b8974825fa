// The binary convolutions of every instruction set.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/binary.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "kernels/highway-inl.h"
#include "kernels/binary_bytes-inl.h"
#include "kernels/tables.h"

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS

/// The first that can. Long sums are left to plain loops.
const BinaryAlgorithm& ChooseBinary(const KernelTable& table, const ConvShape& shape) {
  for (const BinaryAlgorithm& algorithm : table.algorithms) {
    if (algorithm.supports(shape)) return algorithm;
  }
  return table.algorithms.back();
}

#if HWY_TARGET == HWY_WASM

/// The one that is fastest there, since each makes the module larger.
void AddBinary(KernelTable& table) {
  table.algorithms = {BytesAlgorithm<Lookup, Singly<Lookup>>::Make("lookup"), reference::WordsAlgorithm()};
  table.choose = ChooseBinary;
}

#else

void AddBinary(KernelTable& table) {
  // Where bytes have a population count, it beats the look-up (docs/kernels.md).
  constexpr bool kBytePopulationCount = HWY_ARCH_ARM || HWY_TARGET <= HWY_AVX3_DL;
  const BinaryAlgorithm pairs = BytesAlgorithm<Lookup, InPairs>::Make("pairs"),
                        lookup = BytesAlgorithm<Lookup, Singly<Lookup>>::Make("lookup"),
                        octets = BytesAlgorithm<Octets, Singly<Octets>>::Make("octets");
  table.algorithms = kBytePopulationCount ? std::vector{octets, pairs, lookup, reference::WordsAlgorithm()}
                                          : std::vector{pairs, lookup, octets, reference::WordsAlgorithm()};
  table.choose = ChooseBinary;
}

#endif  // HWY_TARGET == HWY_WASM
#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
