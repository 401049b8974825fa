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

struct Lookup {
  static constexpr int kStepsPerWord = 8;
  static constexpr int kMaxSteps = 62;
  static HWY_INLINE V8 Operand(const uint8_t* a) { return hn::LoadDup128(D8(), kDisagreements + *a); }
  static HWY_INLINE V8 Count(V8 table, V8 weights) { return hn::TableLookupBytes(table, weights); }
  /// Nibbles as offsets into kDisagreements.
  static void Expand(const uint32_t* words, int count, uint8_t* steps) { ExpandNibbles(words, count, steps); }
  static uint8_t WeightStep(uint32_t word, int step) { return static_cast<uint8_t>(word >> (4 * step) & 15); }
};

struct Octets {
  static constexpr int kStepsPerWord = 4;
  static constexpr int kMaxSteps = 31;
  static HWY_INLINE V8 Operand(const uint8_t* a) { return hn::Set(D8(), *a); }
  static HWY_INLINE V8 Count(V8 octet, V8 weights) { return hn::PopulationCount(hn::Xor(octet, weights)); }
  static void Expand(const uint32_t* words, int count, uint8_t* steps) {
    for (int i = 0; i < 4 * count; ++i) steps[i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
  }
  static uint8_t WeightStep(uint32_t word, int step) { return static_cast<uint8_t>(word >> (8 * step)); }
};

/// Adds 8-bit counts to 16-bit ones, and at the last chunk writes 32-bit ones. Even and odd bytes part: byte 2i is
/// output channel i of the vector and byte 2i+1 channel i + kBytes/2 (see LaneChannel), so both halves come out in
/// order.
HWY_INLINE void Widen(V8 counts, bool first, bool last, uint16_t* partial, int32_t* sums) {
  const hn::Repartition<uint16_t, D8> d16;
  const hn::Repartition<int32_t, D8> d32;
  const hn::Half<decltype(d16)> half;
  constexpr int kHalf = kBytes / 2, kQuarter = kBytes / 4;
  const auto pairs = hn::BitCast(d16, counts);
  auto even = hn::And(pairs, hn::Set(d16, 0xFF));
  auto odd = hn::ShiftRight<8>(pairs);
  if (!first) {
    even = hn::Add(even, hn::Load(d16, partial));
    odd = hn::Add(odd, hn::Load(d16, partial + kHalf));
  }
  if (!last) {
    hn::Store(even, d16, partial);
    hn::Store(odd, d16, partial + kHalf);
    return;
  }
  hn::Store(hn::PromoteTo(d32, hn::LowerHalf(half, even)), d32, sums);
  hn::Store(hn::PromoteTo(d32, hn::UpperHalf(half, even)), d32, sums + kQuarter);
  hn::Store(hn::PromoteTo(d32, hn::LowerHalf(half, odd)), d32, sums + 2 * kQuarter);
  hn::Store(hn::PromoteTo(d32, hn::UpperHalf(half, odd)), d32, sums + 3 * kQuarter);
}

/// Output channel, within its vector, of a byte lane.
constexpr int LaneChannel(int lane) { return lane / 2 + lane % 2 * (kBytes / 2); }

/// One chunk for P pixels and NV vectors.
template <class Policy, int P, int NV>
HWY_INLINE void BytesTile(const uint8_t* const* a, const uint8_t* weights, int steps, bool first, bool last,
                          uint16_t* partial, int32_t* sums, int sums_stride) {
  const D8 d;
  V8 acc[P][NV];
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < NV; ++v) acc[p][v] = hn::Zero(d);
  }
  for (int s = 0; s < steps; ++s) {
    V8 w[NV];
    for (int v = 0; v < NV; ++v) w[v] = hn::Load(d, weights + v * kBytes);
    weights += NV * kBytes;
    for (int p = 0; p < P; ++p) {
      const V8 operand = Policy::Operand(a[p] + s);
      for (int v = 0; v < NV; ++v) acc[p][v] = hn::Add(acc[p][v], Policy::Count(operand, w[v]));
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < NV; ++v) {
      Widen(acc[p][v], first, last, partial + (p * NV + v) * kBytes,
            sums + static_cast<size_t>(p) * sums_stride + v * kBytes);
    }
  }
}

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
    return static_cast<size_t>(s.padded_h()) * s.padded_w() * StepsPerPixel(s);
  }

  static void Expand(const ConvShape& s, const uint32_t* bits, std::byte* index, int row_begin, int row_end) {
    const size_t pixel = StepsPerPixel(s);
    ExpandRows(s, reinterpret_cast<uint8_t*>(index), pixel, row_begin, row_end, [&](int y, uint8_t* to) {
      Policy::Expand(bits + static_cast<size_t>(y) * s.in_w * s.words(), s.in_w * s.words(), to);
    });
  }

  static size_t ScratchBytes(const ConvShape&, int pixels) {
    return static_cast<size_t>(pixels) * kBlockVectors * kBytes * sizeof(uint16_t);
  }

  template <int P, int NV>
  static void Chunk(const ConvShape& s, const uint8_t* weights, int steps, const uint8_t* index, int pixel_begin,
                    int pixel_end, bool first, bool last, uint16_t* partial, int32_t* sums, int sums_stride) {
    const size_t pixel_bytes = StepsPerPixel(s);
    PixelWalk walk(s, pixel_begin);
    int pixel = pixel_begin;
    const uint8_t* a[P];
    const auto next = [&](int count) {
      for (int p = 0; p < count; ++p) a[p] = index + walk.Next() * pixel_bytes;
    };
    for (; pixel + P <= pixel_end; pixel += P) {
      next(P);
      BytesTile<Policy, P, NV>(a, weights, steps, first, last, partial, sums, sums_stride);
      partial += static_cast<size_t>(P) * NV * kBytes;
      sums += static_cast<size_t>(P) * sums_stride;
    }
    for (; pixel < pixel_end; ++pixel) {
      next(1);
      BytesTile<Policy, 1, NV>(a, weights, steps, first, last, partial, sums, sums_stride);
      partial += static_cast<size_t>(NV) * kBytes;
      sums += sums_stride;
    }
  }

  static void Accumulate(const ConvShape& s, const std::byte* packed, const std::byte* index, int block,
                         int pixel_begin, int pixel_end, std::byte* scratch, int32_t* sums, int sums_stride) {
    const int row_steps = s.k_w * StepsPerPixel(s);  // contiguous in the index, since taps of a row are neighbours
    const int nv = std::min(kBlockVectors, Vectors(s) - block * kBlockVectors);
    const uint8_t* weights = reinterpret_cast<const uint8_t*>(packed) +
                             static_cast<size_t>(block) * kBlockVectors * kBytes * s.k_h * row_steps;
    const Chunks chunks(row_steps, Policy::kMaxSteps);
    for (int ky = 0; ky < s.k_h; ++ky) {
      for (int c = 0; c < chunks.count; ++c) {
        const int begin = chunks.begin(c), steps = chunks.begin(c + 1) - begin;
        const uint8_t* a =
            reinterpret_cast<const uint8_t*>(index) + static_cast<size_t>(ky) * s.padded_w() * StepsPerPixel(s) + begin;
        const bool first = ky == 0 && c == 0, last = ky == s.k_h - 1 && c == chunks.count - 1;
        uint16_t* partial = reinterpret_cast<uint16_t*>(scratch);
        const auto run = [&](auto chunk) {
          chunk(s, weights, steps, a, pixel_begin, pixel_end, first, last, partial, sums, sums_stride);
        };
        // Pixels per tile: as many as the registers hold beside the weights and a table.
        constexpr bool kManyRegisters = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64;
        switch (nv) {
          case 1:
            run(Chunk<8, 1>);
            break;
          case 2:
            run(Chunk < kManyRegisters ? 8 : 4, 2 >);
            break;
          case 3:
            run(Chunk < kManyRegisters ? 6 : 3, 3 >);
            break;
          default:
            run(Chunk < kManyRegisters ? 6 : 2, 4 >);
            break;
        }
        weights += static_cast<size_t>(steps) * nv * kBytes;
      }
    }
  }

  static BinaryAlgorithm Make(const char* name) {
    return {name, Supports, BlockChannels, WeightBytes, PackWeights, IndexBytes, Expand, ScratchBytes, Accumulate};
  }
};

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
