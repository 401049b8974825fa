// Binary convolution with output channels in byte lanes.
//
// One vector of weights holds, for kBytes output channels, a few input channels each: a step. A pixel's activations of
// that step meet it in one or two instructions that leave a count per byte:
//   Lookup: a step is a nibble (4 channels). The weight nibble is the index of a byte shuffle; the table, picked by the
//           activation nibble a from a 256-byte constant, holds popcount(a xor w) for w = 0..15.
//   Octets: a step is a byte (8 channels): xor, then a population count of bytes. For targets that have one.
// Counts add up in 8 bits for as many steps as cannot overflow (Lookup: 62 * 4 = 248, Octets: 31 * 8 = 248, both below
// 256), then in 16 bits, which `supports` bounds: kh kw I <= 65535. A step's weights serve P pixels while they are in
// registers, a table NV vectors.
//
// Order of a chunk: one part of one row of taps, at most kMaxSteps steps, for all pixels, then the next chunk; so a
// chunk's weights (at most 62 * 4 vectors, 8 KB for 256-bit ones) stay in the first-level cache.

#if defined(BCDNET_BINARY_BYTES_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef BCDNET_BINARY_BYTES_INL
#undef BCDNET_BINARY_BYTES_INL
#else
#define BCDNET_BINARY_BYTES_INL
#endif

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/chunks.h"
#include "kernels/index.h"
#include "kernels/kernels.h"

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
template <class Policy, int P, int NV>
HWY_INLINE void SinglesTile(const TileArgs& t) {
  const D8 d;
  V8 acc[P][NV];
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < NV; ++v) acc[p][v] = hn::Zero(d);
  }
  const uint8_t* weights = t.weights;
  for (int s = 0; s < t.steps; ++s) {
    V8 w[NV];
    for (int v = 0; v < NV; ++v) w[v] = hn::Load(d, weights + v * kBytes);
    weights += NV * kBytes;
    for (int p = 0; p < P; ++p) {
      const V8 operand = Policy::Operand(t.a[p] + s);
      for (int v = 0; v < NV; ++v) acc[p][v] = hn::Add(acc[p][v], Policy::Count(operand, w[v]));
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < NV; ++v) t.Write(p, v, acc[p][v]);
  }
}

/// Two pixels at a time: a table byte holds the first one's count in its low half and the second one's in its high half.
///
/// Three steps add up to at most 12 in each half, so that no half runs over; then the high half is split off and added
/// to `high`, and the whole byte to `raw`, modulo 256: the first pixel's count is raw - 16 high, exact since below 256.
/// So three steps of two pixels take 9 instructions (3 look-ups, 5 additions and masks, 1 shift) for 12.
template <int P, int NV>
HWY_INLINE void PairsTile(const TileArgs& t) {
  const D8 d;
  const hn::Repartition<uint16_t, D8> d16;
  const hn::Rebind<uint8_t, decltype(d16)> half;
  constexpr int kPairs = P / 2, kWords = kBytes / 2;
  HWY_ALIGN uint16_t offsets[kPairs][RoundUpTo(kMaxNibbles, kWords)];  // into kPairDisagreements
  for (int q = 0; q < kPairs; ++q) {
    for (int s = 0; s < t.steps; s += kWords) {
      const auto first = hn::PromoteTo(d16, hn::LoadU(half, t.a[2 * q] + s));
      const auto second = hn::PromoteTo(d16, hn::LoadU(half, t.a[2 * q + 1] + s));
      hn::Store(hn::Or(first, hn::ShiftLeft<4>(second)), d16, &offsets[q][s]);
    }
  }
  V8 raw[kPairs][NV], high[kPairs][NV];
  for (int q = 0; q < kPairs; ++q) {
    for (int v = 0; v < NV; ++v) raw[q][v] = high[q][v] = hn::Zero(d);
  }
  const V8 low_half = hn::Set(d, 15);
  const auto steps = [&](int s, auto count) HWY_ATTR {
    const uint8_t* weights = t.weights + static_cast<size_t>(s) * NV * kBytes;
    for (int q = 0; q < kPairs; ++q) {
      V8 table[count()];
      for (int i = 0; i < count(); ++i) table[i] = hn::LoadDup128(d, kPairDisagreements + offsets[q][s + i]);
      for (int v = 0; v < NV; ++v) {
        V8 sum = hn::TableLookupBytes(table[0], hn::Load(d, weights + v * kBytes));
        for (int i = 1; i < count(); ++i) {
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
  for (int q = 0; q < kPairs; ++q) {
    for (int v = 0; v < NV; ++v) {
      const V8 shifted = hn::BitCast(d, hn::ShiftLeft<4>(hn::BitCast(d16, high[q][v])));
      t.Write(2 * q, v, hn::Sub(raw[q][v], hn::AndNot(low_half, shifted)));
      t.Write(2 * q + 1, v, high[q][v]);
    }
  }
}

// The kinds of step. `Pixels`: of a tile of so many vectors, as many as the registers hold.
inline constexpr bool kManyRegisters = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64;
constexpr int SinglesPixels(int nv) {
  constexpr int kMany[] = {8, 8, 6, 6}, kFew[] = {8, 4, 3, 2};
  return kManyRegisters ? kMany[nv - 1] : kFew[nv - 1];
}

struct Lookup {
  static constexpr int kStepsPerWord = 8;
  static constexpr int kMaxSteps = kMaxNibbles, kUnitSteps = 1;
  static HWY_INLINE V8 Operand(const uint8_t* a) { return hn::LoadDup128(D8(), kDisagreements + *a); }
  static HWY_INLINE V8 Count(V8 table, V8 weights) { return hn::TableLookupBytes(table, weights); }
  /// Nibbles as offsets into kDisagreements.
  static void Expand(const uint32_t* words, int count, uint8_t* steps) { ExpandNibbles(words, count, steps); }
  static uint8_t WeightStep(uint32_t word, int step) { return static_cast<uint8_t>(word >> (4 * step) & 15); }
  static constexpr int Pixels(int nv) { return SinglesPixels(nv); }
  template <int P, int NV>
  static HWY_INLINE void Tile(const TileArgs& t) {
    SinglesTile<Lookup, P, NV>(t);
  }
};

struct Pairs : Lookup {
  static constexpr int kMaxSteps = 60, kUnitSteps = 3;
  static constexpr int Pixels(int nv) {
    constexpr int kPixels[] = {8, 4, 2, 2};
    return kPixels[nv - 1];
  }
  template <int P, int NV>
  static HWY_INLINE void Tile(const TileArgs& t) {
    if constexpr (P == 1) {
      SinglesTile<Lookup, P, NV>(t);
    } else {
      PairsTile<P, NV>(t);
    }
  }
};

struct Octets {
  static constexpr int kStepsPerWord = 4;
  static constexpr int kMaxSteps = 31, kUnitSteps = 1;
  static HWY_INLINE V8 Operand(const uint8_t* a) { return hn::Set(D8(), *a); }
  static HWY_INLINE V8 Count(V8 octet, V8 weights) { return hn::PopulationCount(hn::Xor(octet, weights)); }
  static void Expand(const uint32_t* words, int count, uint8_t* steps) {
    for (int i = 0; i < 4 * count; ++i) steps[i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
  }
  static uint8_t WeightStep(uint32_t word, int step) { return static_cast<uint8_t>(word >> (8 * step)); }
  static constexpr int Pixels(int nv) { return SinglesPixels(nv); }
  template <int P, int NV>
  static HWY_INLINE void Tile(const TileArgs& t) {
    SinglesTile<Octets, P, NV>(t);
  }
};

template <class Policy>
struct BytesAlgorithm {
  static bool Supports(const ConvShape& s) { return s.inputs() <= 65535; }
  static int BlockChannels(const ConvShape&) { return kBlockVectors * kBytes; }
  static int Vectors(const ConvShape& s) { return (s.out_c + kBytes - 1) / kBytes; }
  static int StepsPerPixel(const ConvShape& s) { return s.words() * Policy::kStepsPerWord; }
  static size_t WeightBytes(const ConvShape& s) {
    return static_cast<size_t>(Vectors(s)) * kBytes * s.k_h * s.k_w * StepsPerPixel(s);
  }

  /// [block][ky][kx][step][vector of the block][lane]
  static void PackWeights(const ConvShape& s, const uint32_t* weights, std::byte* packed) {
    uint8_t* out = reinterpret_cast<uint8_t*>(packed);
    const int words = s.words(), taps = s.k_h * s.k_w, vectors = Vectors(s);
    for (int block = 0; block < vectors; block += kBlockVectors) {
      const int nv = std::min(kBlockVectors, vectors - block);
      for (int tap = 0; tap < taps; ++tap) {
        for (int word = 0; word < words; ++word) {
          for (int step = 0; step < Policy::kStepsPerWord; ++step) {
            for (int lane = 0; lane < nv * kBytes; ++lane) {
              const int o = block * kBytes + lane / kBytes * kBytes + LaneChannel(lane % kBytes);
              const uint32_t w = o < s.out_c ? weights[(static_cast<size_t>(o) * taps + tap) * words + word] : 0;
              *out++ = Policy::WeightStep(w, step);
            }
          }
        }
      }
    }
  }

  static size_t IndexBytes(const ConvShape& s) {
    return static_cast<size_t>(s.padded_h()) * s.padded_w() * StepsPerPixel(s) + kBytes;  // tiles read whole vectors
  }

  static void Expand(const ConvShape& s, const uint32_t* bits, std::byte* index, int row_begin, int row_end) {
    const size_t pixel = StepsPerPixel(s);
    ExpandRows(s, reinterpret_cast<uint8_t*>(index), pixel, row_begin, row_end, [&](int y, uint8_t* to) {
      Policy::Expand(bits + static_cast<size_t>(y) * s.in_w * s.words(), s.in_w * s.words(), to);
    });
  }

  template <int P, int NV>
  static void Chunk(const ConvShape& s, const uint8_t* weights, int steps, const uint8_t* index, int pixel_begin,
                    int pixel_end, bool first, uint16_t* sums) {
    const size_t pixel_bytes = StepsPerPixel(s);
    PixelWalk walk(s, pixel_begin);
    int pixel = pixel_begin;
    const uint8_t* a[P];
    const auto tiles = [&](auto count) HWY_ATTR {
      for (; pixel + count() <= pixel_end; pixel += count()) {
        for (int p = 0; p < count(); ++p) a[p] = index + walk.Next() * pixel_bytes;
        Policy::template Tile<count(), NV>({a, weights, steps, first, sums});
        sums += static_cast<size_t>(count()) * kBlockVectors * kBytes;
      }
    };
    tiles(std::integral_constant<int, P>());
    if constexpr (P > 2) tiles(std::integral_constant<int, 2>());
    tiles(std::integral_constant<int, 1>());
  }

  static void Accumulate(const ConvShape& s, const std::byte* packed, const std::byte* index, int block,
                         int pixel_begin, int pixel_end, void* sums) {
    const int row_steps = s.k_w * StepsPerPixel(s);  // contiguous in the index, since taps of a row are neighbours
    const int nv = std::min(kBlockVectors, Vectors(s) - block * kBlockVectors);
    const uint8_t* weights = reinterpret_cast<const uint8_t*>(packed) +
                             static_cast<size_t>(block) * kBlockVectors * kBytes * s.k_h * row_steps;
    const Chunks chunks(row_steps, Policy::kMaxSteps, Policy::kUnitSteps);
    for (int ky = 0; ky < s.k_h; ++ky) {
      for (int c = 0; c < chunks.count; ++c) {
        const int begin = chunks.begin(c), steps = chunks.begin(c + 1) - begin;
        const uint8_t* a =
            reinterpret_cast<const uint8_t*>(index) + static_cast<size_t>(ky) * s.padded_w() * StepsPerPixel(s) + begin;
        const bool first = ky == 0 && c == 0;
        const auto run = [&](auto chunk) {
          chunk(s, weights, steps, a, pixel_begin, pixel_end, first, static_cast<uint16_t*>(sums));
        };
        switch (nv) {
          case 1:
            run(Chunk<Policy::Pixels(1), 1>);
            break;
          case 2:
            run(Chunk<Policy::Pixels(2), 2>);
            break;
          case 3:
            run(Chunk<Policy::Pixels(3), 3>);
            break;
          default:
            run(Chunk<Policy::Pixels(4), 4>);
            break;
        }
        weights += static_cast<size_t>(steps) * nv * kBytes;
      }
    }
  }

  static BinaryAlgorithm Make(const char* name) {
    return {name, Supports, BlockChannels, WeightBytes, PackWeights, IndexBytes, Expand, sizeof(uint16_t), Accumulate};
  }
};

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
