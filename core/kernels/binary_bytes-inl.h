// Binary convolution with output channels in byte lanes: the order of the work. The tiles are in binary_tiles-inl.h.
//
// Order of a chunk: one part of one row of taps, at most kMaxSteps steps, for all pixels that have the row inside the
// map, then the next chunk; so a chunk's weights (at most 62 * 4 vectors, 8 KB for 256-bit ones) stay in the first-level
// cache.

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
#include "kernels/binary_tiles-inl.h"
#include "kernels/chunks.h"
#include "kernels/index.h"
#include "kernels/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS

/// Pixels one after the other, each meeting all vectors of the block.
struct ChunkArgs {
  const ConvShape& shape;
  const uint8_t* weights;
  int steps;
  const uint8_t* index;
  size_t pixel_bytes;
  int pixel_begin, pixel_end;
  bool first;
  uint16_t* sums;  // of pixel_begin

  HWY_INLINE TileArgs Tile(const uint8_t* const* a, int pixel) const {
    return {a, weights, steps, first, sums + static_cast<size_t>(pixel - pixel_begin) * kBlockVectors * kBytes};
  }
};

template <class Step, int P, int NV>
void SinglesChunk(const ChunkArgs& c) {
  PixelWalk walk(c.shape, c.pixel_begin);
  const uint8_t* a[P];
  int pixel = c.pixel_begin;
  const auto tiles = [&](auto count) HWY_ATTR {
    for (; pixel + count() <= c.pixel_end; pixel += count()) {
      for (int p = 0; p < count(); ++p) a[p] = c.index + walk.Next() * c.pixel_bytes;
      SinglesTile<Step, count(), NV>(c.Tile(a, pixel));
    }
  };
  tiles(std::integral_constant<int, P>());
  if constexpr (P > 3) tiles(std::integral_constant<int, (P + 1) / 2>());
  if constexpr (P > 2) tiles(std::integral_constant<int, 2>());
  tiles(std::integral_constant<int, 1>());
}

template <int P, int NV>
void PairsChunk(const ChunkArgs& c) {
  constexpr int kBatch = 16;
  PairOffsets offsets[kBatch];
  PixelWalk walk(c.shape, c.pixel_begin);
  const uint8_t* a[2];
  int pixel = c.pixel_begin;
  while (pixel + 2 <= c.pixel_end) {
    const int pairs = std::min(kBatch, (c.pixel_end - pixel) / 2);
    for (int q = 0; q < pairs; ++q) {
      for (const uint8_t*& place : a) place = c.index + walk.Next() * c.pixel_bytes;
      offsets[q].Set(a[0], a[1], c.steps);
    }
    int q = 0;
    for (; q + P / 2 <= pairs; q += P / 2) PairsTile<P, NV>(offsets + q, c.Tile(a, pixel + 2 * q));
    for (; q < pairs; ++q) PairsTile<2, NV>(offsets + q, c.Tile(a, pixel + 2 * q));
    pixel += 2 * pairs;
  }
  if (pixel < c.pixel_end) {
    a[0] = c.index + walk.Next() * c.pixel_bytes;
    SinglesTile<Lookup, 1, NV>(c.Tile(a, pixel));
  }
}

/// How an algorithm goes over its pixels.
template <class Step>
struct Singly {
  static constexpr int kMaxSteps = Step::kMaxSteps, kUnitSteps = 1;
  /// As many as the registers hold.
  static constexpr int Pixels(int nv) {
    constexpr bool kManyRegisters = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64;
    constexpr int kMany[] = {8, 8, 6, 6}, kFew[] = {8, 4, 3, 2};
    return kManyRegisters ? kMany[nv - 1] : kFew[nv - 1];
  }
  template <int NV>
  static void Chunk(const ChunkArgs& c) {
    SinglesChunk<Step, Pixels(NV), NV>(c);
  }
};

struct InPairs {
  static constexpr int kMaxSteps = 60, kUnitSteps = 3;
  template <int NV>
  static void Chunk(const ChunkArgs& c) {
    constexpr int kPixels[] = {8, 4, 2, 2};
    PairsChunk<kPixels[NV - 1], NV>(c);
  }
};

template <class Step, class Walk>
struct BytesAlgorithm {
  static bool Supports(const ConvShape& s) { return s.inputs() <= 65535; }
  static int BlockChannels(const ConvShape&) { return kBlockVectors * kBytes; }
  static int Vectors(const ConvShape& s) { return (s.out_c + kBytes - 1) / kBytes; }
  static int StepsPerPixel(const ConvShape& s) { return s.words() * Step::kStepsPerWord; }
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
          for (int step = 0; step < Step::kStepsPerWord; ++step) {
            for (int lane = 0; lane < nv * kBytes; ++lane) {
              const int o = block * kBytes + lane / kBytes * kBytes + LaneChannel(lane % kBytes);
              const uint32_t w = o < s.out_c ? weights[(static_cast<size_t>(o) * taps + tap) * words + word] : 0;
              *out++ = Step::WeightStep(w, step);
            }
          }
        }
      }
    }
  }

  static uint64_t IndexBytes(const ConvShape& s) {
    return static_cast<uint64_t>(s.padded_h()) * s.padded_w() * StepsPerPixel(s) + kBytes;  // tiles read whole vectors
  }

  static void Expand(const ConvShape& s, const uint32_t* bits, std::byte* index, int row_begin, int row_end) {
    const size_t pixel = StepsPerPixel(s);
    ExpandRows(s, reinterpret_cast<uint8_t*>(index), pixel, row_begin, row_end, [&](int y, uint8_t* to) {
      Step::Expand(bits + static_cast<size_t>(y) * s.in_w * s.words(), s.in_w * s.words(), to);
    });
  }

  static void Accumulate(const ConvShape& s, const std::byte* packed, const std::byte* index, int block,
                         int pixel_begin, int pixel_end, void* sums) {
    const size_t pixel_bytes = StepsPerPixel(s);
    const int row_steps = s.k_w * StepsPerPixel(s);  // contiguous in the index, since taps of a row are neighbours
    const int nv = std::min(kBlockVectors, Vectors(s) - block * kBlockVectors);
    const uint8_t* weights = reinterpret_cast<const uint8_t*>(packed) +
                             static_cast<size_t>(block) * kBlockVectors * kBytes * s.k_h * row_steps;
    const Chunks chunks(row_steps, Walk::kMaxSteps, Walk::kUnitSteps);
    constexpr int kPixelSums = kBlockVectors * kBytes;
    for (int ky = 0; ky < s.k_h; ++ky) {
      const RowsOfTap rows(s, ky);
      const int first_pixel = std::clamp(rows.begin * s.out_w, pixel_begin, pixel_end);
      const int last_pixel = std::clamp(rows.end * s.out_w, first_pixel, pixel_end);
      // Pixels that do not have the first row begin at zero.
      if (ky == 0 && last_pixel - first_pixel < pixel_end - pixel_begin) {
        std::memset(sums, 0, static_cast<size_t>(pixel_end - pixel_begin) * kPixelSums * sizeof(uint16_t));
      }
      uint16_t* row_sums = static_cast<uint16_t*>(sums) + static_cast<size_t>(first_pixel - pixel_begin) * kPixelSums;
      for (int c = 0; c < chunks.count; ++c) {
        const int begin = chunks.begin(c), steps = chunks.begin(c + 1) - begin;
        const uint8_t* a =
            reinterpret_cast<const uint8_t*>(index) + static_cast<size_t>(ky) * s.padded_w() * StepsPerPixel(s) + begin;
        const bool first = ky == 0 && c == 0;
        const ChunkArgs chunk{s, weights, steps, a, pixel_bytes, first_pixel, last_pixel, first, row_sums};
        switch (nv) {
          case 1:
            Walk::template Chunk<1>(chunk);
            break;
          case 2:
            Walk::template Chunk<2>(chunk);
            break;
          case 3:
            Walk::template Chunk<3>(chunk);
            break;
          default:
            Walk::template Chunk<4>(chunk);
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
