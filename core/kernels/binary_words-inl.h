// Binary convolution with output channels in 32-bit lanes, for targets that have a population count of words.
//
// A step is a word: 32 input channels of each output channel of a vector meet the same word of a pixel in three
// instructions (xor, population count, addition). A pixel's word needs no shuffle to reach every lane, and 32-bit sums do
// not run over, so that a tile keeps them in registers through all taps.
//
// Order of the work: a panel of kPanelVectors vectors, all pixels, all taps but the rows outside the map. Weights come
// from the second-level cache, one vector of them for some ten cycles of work.

#if defined(BCDNET_BINARY_WORDS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef BCDNET_BINARY_WORDS_INL
#undef BCDNET_BINARY_WORDS_INL
#else
#define BCDNET_BINARY_WORDS_INL
#endif

#include <algorithm>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/index.h"
#include "kernels/kernels.h"
#include "kernels/unroll.h"

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

struct WordsAlgorithm {
  using D32 = hn::ScalableTag<uint32_t>;
  static constexpr int kLanes = HWY_LANES(uint32_t);
  static constexpr int kPanelVectors = 4, kBlock = 256;

  struct Panel {
    const uint32_t* weights;  // [row][step][vector][lane]
    int rows, steps;          // a row of taps is one stretch of the index, since its taps are neighbours
    const uint32_t* index;
    size_t line;     // words between two rows of taps
    uint16_t* sums;  // [pixel][kBlock], of the panel's channels
  };

  template <int P, int NV>
  static HWY_INLINE void Tile(const Panel& panel, const uint32_t* const* pixels, uint16_t* sums) {
    const D32 d;
    const hn::RebindToSigned<D32> signed_d;
    const hn::Rebind<uint16_t, D32> narrow;
    hn::Vec<D32> acc[P][NV];
    BCDNET_UNROLL
    for (int p = 0; p < P; ++p) {
      BCDNET_UNROLL
      for (int v = 0; v < NV; ++v) acc[p][v] = hn::Zero(d);
    }
    const uint32_t* a[P];
    BCDNET_UNROLL
    for (int p = 0; p < P; ++p) a[p] = pixels[p];
    const uint32_t* weights = panel.weights;
    for (int row = 0; row < panel.rows; ++row) {
      for (int s = 0; s < panel.steps; ++s) {
        hn::Vec<D32> w[NV];
        BCDNET_UNROLL
        for (int v = 0; v < NV; ++v) w[v] = hn::Load(d, weights + v * kLanes);
        weights += NV * kLanes;
        BCDNET_UNROLL
        for (int p = 0; p < P; ++p) {
          const auto word = hn::Set(d, a[p][s]);
          BCDNET_UNROLL
          for (int v = 0; v < NV; ++v) acc[p][v] = hn::Add(acc[p][v], hn::PopulationCount(hn::Xor(word, w[v])));
        }
      }
      BCDNET_UNROLL
      for (int p = 0; p < P; ++p) a[p] += panel.line;
    }
    BCDNET_UNROLL
    for (int p = 0; p < P; ++p) {
      BCDNET_UNROLL
      for (int v = 0; v < NV; ++v) {
        hn::Store(hn::DemoteTo(narrow, hn::BitCast(signed_d, acc[p][v])), narrow, sums + p * kBlock + v * kLanes);
      }
    }
  }

  template <int NV>
  static void Pixels(const ConvShape& s, const Panel& panel, int begin, int end) {
    PixelWalk walk(s, begin);
    const uint32_t* pixels[16 / NV];
    int pixel = begin;
    const auto tiles = [&](auto count) HWY_ATTR {
      for (; pixel + count() <= end; pixel += count()) {
        for (int p = 0; p < count(); ++p) pixels[p] = panel.index + walk.Next() * s.words();
        Tile<count(), NV>(panel, pixels, panel.sums + static_cast<size_t>(pixel - begin) * kBlock);
      }
    };
    tiles(std::integral_constant<int, 16 / NV>());
    tiles(std::integral_constant<int, 2>());
    tiles(std::integral_constant<int, 1>());
  }

  static bool Supports(const ConvShape& s) { return s.inputs() <= 65535; }
  static int BlockChannels(const ConvShape&) { return kBlock; }
  static int Vectors(const ConvShape& s) { return PadChannels(s.out_c) / kLanes; }
  static size_t WeightBytes(const ConvShape& s) {
    return static_cast<size_t>(PadChannels(s.out_c)) * s.k_h * s.k_w * s.words() * sizeof(uint32_t);
  }

  /// [panel][ky][kx][word][vector][lane]
  static void PackWeights(const ConvShape& s, const uint32_t* weights, std::byte* packed) {
    uint32_t* out = reinterpret_cast<uint32_t*>(packed);
    const int words = s.words(), steps = s.k_h * s.k_w * words, vectors = Vectors(s);
    for (int v = 0; v < vectors; v += kPanelVectors) {
      const int first = v * kLanes, last = std::min(v + kPanelVectors, vectors) * kLanes;
      for (int step = 0; step < steps; ++step) {
        for (int o = first; o < last; ++o) *out++ = o < s.out_c ? weights[static_cast<size_t>(o) * steps + step] : 0;
      }
    }
  }

  static uint64_t IndexBytes(const ConvShape& s) {
    return static_cast<uint64_t>(s.padded_h()) * s.padded_w() * s.words() * sizeof(uint32_t);
  }

  static void Expand(const ConvShape& s, const uint32_t* bits, std::byte* index, int row_begin, int row_end) {
    const size_t row = static_cast<size_t>(s.in_w) * s.words();
    ExpandRows(s, reinterpret_cast<uint32_t*>(index), s.words(), row_begin, row_end,
               [&](int y, uint32_t* to) { std::copy_n(bits + y * row, row, to); });
  }

  /// The rows of taps that an output row has inside the map.
  struct Rows {
    int begin, end;
    Rows(const ConvShape& s, int y)
        : begin(std::clamp(s.pad_h - y * s.stride_h, 0, s.k_h)),
          end(std::clamp(s.in_h + s.pad_h - y * s.stride_h, begin, s.k_h)) {}
    bool operator==(const Rows&) const = default;
  };

  static void Accumulate(const ConvShape& s, const std::byte* packed, const std::byte* index, int block,
                         int pixel_begin, int pixel_end, void* sums) {
    const int first = block * (kBlock / kLanes), last = std::min(first + kBlock / kLanes, Vectors(s));
    const int steps = s.k_w * s.words();
    const size_t line = static_cast<size_t>(s.padded_w()) * s.words();
    for (int v = first; v < last; v += kPanelVectors) {
      const int lanes = std::min(kPanelVectors, last - v) * kLanes;
      const uint32_t* weights =
          reinterpret_cast<const uint32_t*>(packed) + static_cast<size_t>(v) * kLanes * s.k_h * steps;
      for (int begin = pixel_begin; begin < pixel_end;) {
        const Rows rows(s, begin / s.out_w);
        int y = begin / s.out_w + 1;
        while (y * s.out_w < pixel_end && Rows(s, y) == rows) ++y;
        const int end = std::min(y * s.out_w, pixel_end);
        const Panel panel{weights + static_cast<size_t>(rows.begin) * steps * lanes,
                          rows.end - rows.begin,
                          steps,
                          reinterpret_cast<const uint32_t*>(index) + rows.begin * line,
                          line,
                          static_cast<uint16_t*>(sums) + static_cast<size_t>(begin - pixel_begin) * kBlock +
                              (v - first) * kLanes};
        lanes == kPanelVectors * kLanes ? Pixels<kPanelVectors>(s, panel, begin, end)
                                        : Pixels<kPanelVectors / 2>(s, panel, begin, end);
        begin = end;
      }
    }
  }

  static BinaryAlgorithm Make() {
    return {"words", Supports, BlockChannels, WeightBytes, PackWeights, IndexBytes, Expand, sizeof(uint16_t), Accumulate};
  }
};

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
