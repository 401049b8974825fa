// Binary convolution with output channels in byte lanes: the register tiles.
//
// One vector of weights holds, for kBytes output channels, a few input channels each: a step. A pixel's activations of
// that step meet it in one or two instructions that leave a count per byte:
//   Lookup: a step is a nibble (4 channels). The weight nibble is the index of a byte shuffle; the table, picked by the
//           activation nibble a from a 256-byte constant, holds popcount(a xor w) for w = 0..15.
//   Octets: a step is a byte (8 channels): xor, then a population count of bytes. For targets that have one.
// Counts add up in 8 bits for as many steps as cannot overflow (Lookup: 62 * 4 = 248, Octets: 31 * 8 = 248, both below
// 256), then in 16 bits, which `supports` bounds: kh kw I <= 65535.

#if defined(BCDNET_BINARY_TILES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef BCDNET_BINARY_TILES_INL
#undef BCDNET_BINARY_TILES_INL
#else
#define BCDNET_BINARY_TILES_INL
#endif

#include <cstring>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/index.h"
#include "kernels/unroll.h"

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

using D8 = hn::ScalableTag<uint8_t>;
using V8 = hn::Vec<D8>;
inline constexpr int kBytes = HWY_LANES(uint8_t);
inline constexpr int kBlockVectors = 4;
inline constexpr int kMaxNibbles = 62;  // 62 * 4 < 256

struct Lookup {
  static constexpr int kStepsPerWord = 8;
  static constexpr int kMaxSteps = kMaxNibbles;
  static HWY_INLINE V8 Operand(const uint8_t* a) { return hn::LoadDup128(D8(), kDisagreements + *a); }
  static HWY_INLINE V8 Count(V8 table, V8 weights) { return hn::TableLookupBytes(table, weights); }
  /// The nibbles of each word, lowest first, times 16: offsets into kDisagreements.
  static void Expand(const uint32_t* words, int count, uint8_t* steps) {
    const hn::FixedTag<uint8_t, 16> d;
    const auto high = hn::Set(d, 0xF0);
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(words);
    int i = 0;
    for (; i + 16 <= 4 * count; i += 16) {
      const auto octets = hn::LoadU(d, bytes + i);
      const auto low =
          hn::And(hn::BitCast(d, hn::ShiftLeft<4>(hn::BitCast(hn::FixedTag<uint16_t, 8>(), octets))), high);
      hn::StoreU(hn::InterleaveLower(d, low, hn::And(octets, high)), d, steps + 2 * i);
      hn::StoreU(hn::InterleaveUpper(d, low, hn::And(octets, high)), d, steps + 2 * i + 16);
    }
    for (; i < 4 * count; ++i) {
      steps[2 * i] = static_cast<uint8_t>(bytes[i] << 4);
      steps[2 * i + 1] = static_cast<uint8_t>(bytes[i] & 0xF0);
    }
  }
  static uint8_t WeightStep(uint32_t word, int step) { return static_cast<uint8_t>(word >> (4 * step) & 15); }
};

struct Octets {
  static constexpr int kStepsPerWord = 4;
  static constexpr int kMaxSteps = 31;
  static HWY_INLINE V8 Operand(const uint8_t* a) { return hn::Set(D8(), *a); }
  static HWY_INLINE V8 Count(V8 octet, V8 weights) { return hn::PopulationCount(hn::Xor(octet, weights)); }
  static void Expand(const uint32_t* words, int count, uint8_t* steps) {
    std::memcpy(steps, words, 4 * static_cast<size_t>(count));
  }
  static uint8_t WeightStep(uint32_t word, int step) { return static_cast<uint8_t>(word >> (8 * step)); }
};

/// Adds 8-bit counts to 16-bit ones. Even and odd bytes part: byte 2i is output channel i of the vector and byte 2i+1
/// channel i + kBytes/2 (see LaneChannel), so both halves come out in order.
HWY_INLINE void Widen(V8 counts, bool first, uint16_t* sums) {
  const hn::Repartition<uint16_t, D8> d16;
  constexpr int kHalf = kBytes / 2;
  const auto pairs = hn::BitCast(d16, counts);
  auto even = hn::And(pairs, hn::Set(d16, 0xFF));
  auto odd = hn::ShiftRight<8>(pairs);
  if (!first) {
    even = hn::Add(even, hn::Load(d16, sums));
    odd = hn::Add(odd, hn::Load(d16, sums + kHalf));
  }
  hn::Store(even, d16, sums);
  hn::Store(odd, d16, sums + kHalf);
}

/// Output channel, within its vector, of a byte lane.
constexpr int LaneChannel(int lane) { return lane / 2 + lane % 2 * (kBytes / 2); }

/// What a tile works on: P pixels by NV vectors of one chunk.
struct TileArgs {
  const uint8_t* const* a;  // [P], the first step of each pixel
  const uint8_t* weights;   // [step][NV][kBytes]
  int steps;
  bool first;      // of the chunks of these pixels
  uint16_t* sums;  // [P][kBlockVectors][kBytes]

  HWY_INLINE void Write(int p, int v, V8 counts) const {
    Widen(counts, first, sums + (p * kBlockVectors + v) * kBytes);
  }
};

/// One pixel's operand meets one vector of weights at a time.
template <class Step, int P, int NV>
HWY_INLINE void SinglesTile(const TileArgs& t) {
  const D8 d;
  V8 acc[P][NV];
  BCDNET_UNROLL
  for (int p = 0; p < P; ++p) {
    BCDNET_UNROLL
    for (int v = 0; v < NV; ++v) acc[p][v] = hn::Zero(d);
  }
  const uint8_t* a[P];
  BCDNET_UNROLL
  for (int p = 0; p < P; ++p) a[p] = t.a[p];
  const uint8_t* weights = t.weights;
  for (int s = 0; s < t.steps; ++s) {
    V8 w[NV];
    BCDNET_UNROLL
    for (int v = 0; v < NV; ++v) w[v] = hn::Load(d, weights + v * kBytes);
    weights += NV * kBytes;
    BCDNET_UNROLL
    for (int p = 0; p < P; ++p) {
      const V8 operand = Step::Operand(a[p] + s);
      BCDNET_UNROLL
      for (int v = 0; v < NV; ++v) acc[p][v] = hn::Add(acc[p][v], Step::Count(operand, w[v]));
    }
  }
  BCDNET_UNROLL
  for (int p = 0; p < P; ++p) {
    BCDNET_UNROLL
    for (int v = 0; v < NV; ++v) t.Write(p, v, acc[p][v]);
  }
}

/// Where the tables of a pair's steps lie in kPairDisagreements.
struct PairOffsets {
  static constexpr int kWords = kBytes / 2;
  HWY_ALIGN uint16_t at[RoundUpTo(kMaxNibbles, kWords)];

  HWY_INLINE void Set(const uint8_t* first, const uint8_t* second, int steps) {
    const hn::Repartition<uint16_t, D8> d16;
    const hn::Rebind<uint8_t, decltype(d16)> half;
    for (int s = 0; s < steps; s += kWords) {
      const auto low = hn::PromoteTo(d16, hn::LoadU(half, first + s));
      const auto high = hn::PromoteTo(d16, hn::LoadU(half, second + s));
      hn::Store(hn::Or(low, hn::ShiftLeft<4>(high)), d16, at + s);
    }
  }
};

/// Two pixels at a time: a table byte holds the first one's count in its low half and the second one's in its high
/// half.
///
/// Three steps add up to at most 12 in each half, so that no half runs over; then the high half is split off and added
/// to `high`, and the whole byte to `raw`, modulo 256: the first pixel's count is raw - 16 high, exact since below 256.
/// So three steps of two pixels take 9 instructions (3 look-ups, 5 additions and masks, 1 shift) for 12.
template <int P, int NV>
HWY_INLINE void PairsTile(const PairOffsets* offsets, const TileArgs& t) {
  const D8 d;
  const hn::Repartition<uint16_t, D8> d16;
  constexpr int kPairs = P / 2;
  V8 raw[kPairs][NV], high[kPairs][NV];
  BCDNET_UNROLL
  for (int q = 0; q < kPairs; ++q) {
    BCDNET_UNROLL
    for (int v = 0; v < NV; ++v) raw[q][v] = high[q][v] = hn::Zero(d);
  }
  const V8 low_half = hn::Set(d, 15);
  const auto steps = [&](int s, auto count) HWY_ATTR {
    constexpr int kCount = count();  // GCC ignores BCDNET_UNROLL, with a warning, where the bound is a call
    const uint8_t* weights = t.weights + static_cast<size_t>(s) * NV * kBytes;
    BCDNET_UNROLL
    for (int q = 0; q < kPairs; ++q) {
      V8 table[kCount];
      BCDNET_UNROLL
      for (int i = 0; i < kCount; ++i) table[i] = hn::LoadDup128(d, kPairDisagreements + offsets[q].at[s + i]);
      BCDNET_UNROLL
      for (int v = 0; v < NV; ++v) {
        V8 sum = hn::TableLookupBytes(table[0], hn::Load(d, weights + v * kBytes));
        BCDNET_UNROLL
        for (int i = 1; i < kCount; ++i) {
          sum = hn::Add(sum, hn::TableLookupBytes(table[i], hn::Load(d, weights + (i * NV + v) * kBytes)));
        }
        raw[q][v] = hn::Add(raw[q][v], sum);
        const auto shifted = hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(d16, sum)));
        high[q][v] = hn::Add(high[q][v], hn::And(shifted, low_half));
      }
    }
  };
  int s = 0;
  for (; s + 3 <= t.steps; s += 3) steps(s, std::integral_constant<int, 3>());
  if (s + 2 == t.steps) steps(s, std::integral_constant<int, 2>());
  if (s + 1 == t.steps) steps(s, std::integral_constant<int, 1>());
  BCDNET_UNROLL
  for (int q = 0; q < kPairs; ++q) {
    BCDNET_UNROLL
    for (int v = 0; v < NV; ++v) {
      const V8 shifted = hn::BitCast(d, hn::ShiftLeft<4>(hn::BitCast(d16, high[q][v])));
      t.Write(2 * q, v, hn::Sub(raw[q][v], hn::AndNot(low_half, shifted)));
      t.Write(2 * q + 1, v, high[q][v]);
    }
  }
}

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
