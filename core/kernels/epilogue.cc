// The epilogue: lanes are channels, 32 of them (one word of bits) for a few pixels at a time, so that what is written
// together lies together and a vector of parameters serves several pixels.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/epilogue.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/fma-inl.h"
#include "kernels/tables.h"
#include "kernels/unroll.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DI = hn::RebindToSigned<DF>;
inline constexpr int kFloats = HWY_LANES(float);
inline constexpr int kMaxPixels = 64;
inline constexpr int kGroup = kChannelPad / kFloats;  // vectors of one word of bits
inline constexpr int kTilePixels = kGroup <= 2 ? 4 : 1;

struct Fill {
  float values[kChannelPad];
  explicit constexpr Fill(float value) : values() {
    for (float& v : values) v = value;
  }
};
alignas(64) constexpr Fill kMinusZeros(-0.0f);

enum class Source { kValues, kSums, kBranchSums };
enum class From { kNone, kSame, kScattered, kPool };

/// The pixels of a call, and where a pooled shortcut lies for each.
struct Pixels {
  int begin, count;
  const float* pooled[kMaxPixels][4];
  int averaged[kMaxPixels];

  Pixels(const EpilogueArgs& a, int begin, int end) : begin(begin), count(end - begin) {
    if (!a.shortcut_avg_pool) return;
    for (int i = 0; i < count; ++i) Pool(a, i, (begin + i) / a.out_w, (begin + i) % a.out_w);
  }

 private:
  void Pool(const EpilogueArgs& a, int i, int y, int x) {
    averaged[i] = 0;
    for (int sy = 2 * y; sy < std::min(2 * y + 2, a.shortcut_h); ++sy) {
      for (int sx = 2 * x; sx < std::min(2 * x + 2, a.shortcut_w); ++sx) {
        pooled[i][averaged[i]++] = a.shortcut + (static_cast<size_t>(sy) * a.shortcut_w + sx) * a.shortcut_stride;
      }
    }
  }
};

/// A vector of a shortcut that is read modulo its channels.
HWY_INLINE VF LoadModulo(const float* pixel, int channel, int channels) {
  HWY_ALIGN float lanes[kFloats];
  for (int i = 0; i < kFloats; ++i) lanes[i] = pixel[(channel + i) % channels];
  return hn::Load(DF(), lanes);
}

/// The 32 channels from `channel` on.
struct Group {
  const float* parameters;
  const float* beta;
  const int32_t* base[kMaxBranches];
  int channel;
  int column;      // of the values and sums
  int shortcut;    // first channel in the shortcut's map
  uint32_t valid;  // bits that are real channels

  Group() = default;
  Group(const EpilogueArgs& a, int channel)
      : parameters(a.parameters + ParameterIndex(0, channel)),
        beta(a.beta != nullptr ? a.beta + channel : nullptr),
        channel(channel),
        column(channel - a.channel_begin),
        shortcut(a.shortcut_duplicate ? channel % a.shortcut_channels : channel) {
    for (int b = 0; b < a.branches; ++b) base[b] = a.base[b] + channel;
    const int left = a.out_c - channel;
    valid = left >= 32 ? ~0u : left > 0 ? (1u << left) - 1 : 0;
  }
};

struct Groups {
  static constexpr int kMax = 8;
  int count = 0;
  Group at[kMax];
  Groups(const EpilogueArgs& a, int channel) {
    for (; channel < a.channel_end && count < kMax; channel += kChannelPad) at[count++] = Group(a, channel);
  }
};

template <class M>
HWY_INLINE uint32_t MaskBits(M mask) {
  uint8_t raw[8];
  hn::StoreMaskBits(DF(), mask, raw);
  if constexpr (kFloats <= 8) return raw[0];
  uint16_t both;  // one move, where putting bytes together takes six
  std::memcpy(&both, raw, sizeof(both));
  return both;
}

HWY_INLINE VF SumTerm(const EpilogueArgs& a, const Group& group, int branch, size_t at, size_t border, int c,
                      VF scale) {
  const DF d;
  const DI di;
  const hn::Rebind<uint16_t, DF> d16;
  const auto n = hn::PromoteTo(di, hn::Load(d16, static_cast<const uint16_t*>(a.counts[branch]) + at));
  const auto base = hn::Load(di, group.base[branch] + border + c);
  return hn::Mul(hn::ConvertTo(d, hn::Sub(base, hn::Add(n, n))), scale);
}

/// P pixels from number `i` of `pixels` on.
template <int P, Source kSource, From kFrom, bool kActivation>
HWY_INLINE void Tile(const EpilogueArgs& a, const Group& group, const Pixels& pixels, int i) {
  const DF d;
  const VF zero = hn::Zero(d);
  const size_t stride = a.value_stride;
  const size_t pixel = static_cast<size_t>(pixels.begin) + i;
  const size_t first = (pixel - a.pixel_begin) * stride + group.column;
  VF value[P][kGroup];
  BCDNET_UNROLL
  for (int k = 0; k < kGroup; ++k) {
    const int c = k * kFloats;
    const auto parameter = [&](int which) HWY_ATTR { return hn::Load(d, group.parameters + which * kChannelPad + c); };
    for (int p = 0; p < P; ++p) {
      const size_t at = first + p * stride + c;
      VF v;
      if constexpr (kSource == Source::kValues) {
        v = hn::Add(hn::Load(d, a.values + at), parameter(kConvBias));
      } else {
        const size_t border = a.border[pixel + p];
        v = SumTerm(a, group, 0, at, border, c, parameter(kScale));
        if constexpr (kSource != Source::kSums) {
          for (int b = 1; b < a.branches; ++b) {
            v = hn::Add(v, SumTerm(a, group, b, at, border, c, parameter(kScale + b)));
          }
        }
      }
      if (group.beta != nullptr) v = hn::Add(v, hn::Load(d, group.beta + c));
      v = Fma(d, v, parameter(kMul), parameter(kAdd));
      if constexpr (kFrom == From::kSame) {
        v = hn::Add(v, hn::LoadU(d, a.shortcut + (pixel + p) * a.shortcut_stride + group.shortcut + c));
      }
      if constexpr (kFrom == From::kScattered) {
        const float* shortcut = a.shortcut + (pixel + p) * a.shortcut_stride;
        v = hn::Add(v, LoadModulo(shortcut, group.shortcut + c, a.shortcut_channels));
      }
      if constexpr (kFrom == From::kPool) {
        const int n = pixels.averaged[i + p];  // 1, 2 or 4: the division is exact as a product
        VF sum = zero;
        for (int j = 0; j < n; ++j) {
          const float* shortcut = pixels.pooled[i + p][j];
          sum = hn::Add(sum, a.shortcut_duplicate ? LoadModulo(shortcut, group.shortcut + c, a.shortcut_channels)
                                                  : hn::LoadU(d, shortcut + group.shortcut + c));
        }
        v = hn::Add(v, hn::Mul(sum, hn::Set(d, n == 4 ? 0.25f : n == 2 ? 0.5f : 1.0f)));
      }
      if constexpr (kActivation) {
        v = hn::Add(v, parameter(kBiasIn));
        v = hn::Add(hn::IfThenElse(hn::Gt(v, zero), v, hn::Mul(v, parameter(kSlope))), parameter(kBiasOut));
      }
      value[p][k] = v;
    }
  }
  if (a.map != nullptr) {
    for (int p = 0; p < P; ++p) {
      float* to = a.map + (pixel + p) * a.map_stride + group.channel;
      for (int k = 0; k < kGroup; ++k) hn::Store(value[p][k], d, to + k * kFloats);
    }
  }
  if (group.valid == 0) return;
  for (int b = 0; b < a.bits_count; ++b) {
    const BitsTarget& bits = a.bits[b];
    const float* bias = bits.bias != nullptr ? bits.bias + group.channel : kMinusZeros.values;
    for (int p = 0; p < P; ++p) {
      uint32_t word = 0;
      for (int k = 0; k < kGroup; ++k) {
        VF v = hn::Add(value[p][k], hn::Load(d, bias + k * kFloats));
        if (bits.alpha != nullptr) v = hn::Sub(v, hn::Load(d, bits.alpha + group.channel + k * kFloats));
        word |= MaskBits(hn::Ge(v, zero)) << (k * kFloats);
      }
      bits.words[(pixel + p) * a.word_stride + group.channel / 32] = word & group.valid;
    }
  }
}

/// Pixel by pixel, groups within: a pixel's channels lie together in every map.
template <Source kSource, From kFrom, bool kActivation>
void Rows(const EpilogueArgs& args, const Pixels& pixels) {
  const EpilogueArgs a = args;  // of its own, so that no store of words can change it
  for (int channel = a.channel_begin; channel < a.channel_end; channel += Groups::kMax * kChannelPad) {
    const Groups groups(a, channel);
    int i = 0;
    const auto tiles = [&](auto size) HWY_ATTR {
      for (; i + size() <= pixels.count; i += size()) {
        for (int g = 0; g < groups.count; ++g) Tile<size(), kSource, kFrom, kActivation>(a, groups.at[g], pixels, i);
      }
    };
    tiles(std::integral_constant<int, kTilePixels>());
    if constexpr (kTilePixels > 1) tiles(std::integral_constant<int, 1>());
  }
}

/// Shortcuts that are slow to read keep an activation that changes nothing: its code twice would gain them little.
template <Source kSource, bool kActivation>
void RowsFrom(const EpilogueArgs& a, const Pixels& pixels) {
  if (a.shortcut == nullptr) {
    Rows<kSource, From::kNone, kActivation>(a, pixels);
  } else if (a.shortcut_avg_pool) {
    Rows<kSource, From::kPool, true>(a, pixels);
  } else if (a.shortcut_duplicate && a.shortcut_channels % kChannelPad != 0) {
    Rows<kSource, From::kScattered, true>(a, pixels);
  } else {
    Rows<kSource, From::kSame, kActivation>(a, pixels);
  }
}

void Epilogue(const EpilogueArgs& a) {
  // The plain algorithm's sums of 32 bits, which few layers have.
  if (a.values == nullptr && a.sum_bytes != sizeof(uint16_t)) return reference::Epilogue(a);
  for (int begin = a.pixel_begin; begin < a.pixel_end; begin += kMaxPixels) {
    const Pixels pixels(a, begin, std::min(begin + kMaxPixels, a.pixel_end));
    if (a.values != nullptr) {
      RowsFrom<Source::kValues, true>(a, pixels);
    } else if (a.branches > 1) {
      RowsFrom<Source::kBranchSums, true>(a, pixels);
    } else if (a.activation) {
      RowsFrom<Source::kSums, true>(a, pixels);
    } else {
      RowsFrom<Source::kSums, false>(a, pixels);
    }
  }
}

void AddEpilogue(KernelTable& table) { table.epilogue = Epilogue; }

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
