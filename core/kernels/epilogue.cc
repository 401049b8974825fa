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
// As many values at a time as half of the registers hold: the steps of one wait for each other.
inline constexpr int kTilePixels = kGroup <= 2 ? 8 : kGroup <= 4 ? 2 : 1;

struct Fill {
  float values[kChannelPad];
  explicit constexpr Fill(float value) : values() {
    for (float& v : values) v = value;
  }
};
alignas(64) constexpr Fill kMinusZeros(-0.0f);

/// kPlain: values that no step before the bits changes.
enum class Source { kPlain, kValues, kSums, kBranchSums };
/// kScattered: channels that do not lie side by side; kPoolScattered: such, or windows cut off by the border.
enum class From { kNone, kSame, kScattered, kPool, kPoolScattered };

/// The pixels of a call, and where the window of a pooled shortcut begins for each.
struct Pixels {
  int begin, count;
  const float* window[kMaxPixels];
  bool right[kMaxPixels], below[kMaxPixels];  // whether the window has a second column, a second row

  Pixels(const EpilogueArgs& a, int begin, int end) : begin(begin), count(end - begin) {
    if (!a.shortcut_avg_pool) return;
    int y = begin / a.out_w, x = begin % a.out_w;
    for (int i = 0; i < count; ++i) {
      window[i] = a.shortcut + (static_cast<size_t>(2 * y) * a.shortcut_w + 2 * x) * a.shortcut_stride;
      right[i] = 2 * x + 1 < a.shortcut_w;
      below[i] = 2 * y + 1 < a.shortcut_h;
      if (++x == a.out_w) {
        x = 0;
        ++y;
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
  const float* gain;
  const float* beta;
  const int32_t* base[kMaxBranches];
  size_t channel;
  size_t column;    // of the values and sums
  size_t shortcut;  // first channel in the shortcut's map
  uint32_t valid;   // bits that are real channels

  Group() = default;
  Group(const EpilogueArgs& a, int channel)
      : parameters(a.parameters + ParameterIndex(0, channel)),
        gain(a.gain != nullptr ? a.gain + channel : nullptr),
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

/// float(base - 2 count) * scale
HWY_INLINE VF Term(const uint16_t* count, const int32_t* base, const float* scale) {
  const DF d;
  const DI di;
  const hn::Rebind<uint16_t, DF> d16;
  const auto n = hn::PromoteTo(di, hn::Load(d16, count));
  return hn::Mul(hn::ConvertTo(d, hn::Sub(hn::Load(di, base), hn::Add(n, n))), hn::Load(d, scale));
}

/// The mean of the window of a pooled shortcut from `window` on.
template <From kFrom>
HWY_INLINE VF Mean(const EpilogueArgs& a, const float* window, bool right, bool below, size_t channel) {
  const DF d;
  const size_t column = a.shortcut_stride, row = static_cast<size_t>(a.shortcut_w) * a.shortcut_stride;
  const auto load = [&](size_t at) HWY_ATTR {
    if constexpr (kFrom == From::kPool) return hn::LoadU(d, window + at + channel);
    return LoadModulo(window + at, static_cast<int>(channel), a.shortcut_channels);
  };
  VF sum = hn::Add(hn::Zero(d), load(0));
  if (right) sum = hn::Add(sum, load(column));
  if (below) sum = hn::Add(sum, load(row));
  if (right && below) sum = hn::Add(sum, load(row + column));
  // 1, 2 or 4 terms: the division is exact as a product.
  return hn::Mul(sum, hn::Set(d, (right ? 0.5f : 1.0f) * (below ? 0.5f : 1.0f)));
}

/// The words of P pixels from `pixel` on.
template <int P>
HWY_INLINE void WriteBits(const EpilogueArgs& a, const Group& group, size_t pixel, const VF (&value)[P][kGroup]) {
  const DF d;
  if (group.valid == 0) return;
  for (int b = 0; b < a.bits_count; ++b) {
    const BitsTarget bits = a.bits[b];
    const float* bias = bits.bias != nullptr ? bits.bias + group.channel : kMinusZeros.values;
    const float* alpha = bits.alpha != nullptr ? bits.alpha + group.channel : nullptr;
    const size_t line = a.word_stride;
    uint32_t* words = bits.words + pixel * line + group.channel / 32;
    for (int p = 0; p < P; ++p) {
      uint32_t word = 0;
      for (int k = 0; k < kGroup; ++k) {
        VF v = hn::Add(value[p][k], hn::Load(d, bias + k * kFloats));
        if (alpha != nullptr) v = hn::Sub(v, hn::Load(d, alpha + k * kFloats));
        word |= MaskBits(hn::Ge(v, hn::Zero(d))) << (k * kFloats);
      }
      words[p * line] = word & group.valid;
    }
  }
}

/// P pixels from number `i` of `pixels` on, whose steps alternate. The group is a copy, so that no store can change it.
template <int P, Source kSource, From kFrom, bool kActivation>
HWY_INLINE void Tile(const EpilogueArgs& a, const Group group, const Pixels& pixels, int i) {
  const DF d;
  const size_t pixel = static_cast<size_t>(pixels.begin) + i, stride = a.value_stride;
  const size_t first = (pixel - a.pixel_begin) * stride + group.column;
  VF value[P][kGroup];
  const auto each = [&](auto step) HWY_ATTR {
    BCDNET_UNROLL
    for (int k = 0; k < kGroup; ++k) {
      BCDNET_UNROLL
      for (int p = 0; p < P; ++p) step(value[p][k], p, k * kFloats);
    }
  };
  const auto parameter = [&](int which, int c)
                             HWY_ATTR { return hn::Load(d, group.parameters + which * kChannelPad + c); };
  if constexpr (kSource == Source::kPlain) {
    each([&](VF& v, int p, int c) HWY_ATTR { v = hn::Load(d, a.values + first + p * stride + c); });
  } else if constexpr (kSource == Source::kValues) {
    each([&](VF& v, int p, int c)
             HWY_ATTR { v = hn::Add(hn::Load(d, a.values + first + p * stride + c), parameter(kConvBias, c)); });
  } else {
    const uint32_t* border = a.border + pixel;
    const auto* counts = static_cast<const uint16_t*>(a.counts[0]) + first;
    each([&](VF& v, int p, int c) HWY_ATTR {
      v = Term(counts + p * stride + c, group.base[0] + border[p] + c, group.parameters + kScale * kChannelPad + c);
    });
    if constexpr (kSource == Source::kBranchSums) {
      for (int b = 1; b < a.branches; ++b) {
        counts = static_cast<const uint16_t*>(a.counts[b]) + first;
        each([&](VF& v, int p, int c) HWY_ATTR {
          v = hn::Add(v, Term(counts + p * stride + c, group.base[b] + border[p] + c,
                              group.parameters + (kScale + b) * kChannelPad + c));
        });
      }
    }
  }
  if (kSource != Source::kPlain && group.gain != nullptr) {
    each([&](VF& v, int, int c) HWY_ATTR { v = hn::Mul(v, hn::Load(d, group.gain + c)); });
  }
  if (kSource != Source::kPlain && group.beta != nullptr) {
    each([&](VF& v, int, int c) HWY_ATTR { v = hn::Add(v, hn::Load(d, group.beta + c)); });
  }
  const float* shortcut = a.shortcut + pixel * a.shortcut_stride;
  const size_t step = a.shortcut_stride;
  each([&](VF& v, int p, int c) HWY_ATTR {
    if constexpr (kSource != Source::kPlain) v = Fma(d, v, parameter(kMul, c), parameter(kAdd, c));
    if constexpr (kFrom == From::kSame) v = hn::Add(v, hn::LoadU(d, shortcut + p * step + group.shortcut + c));
    if constexpr (kFrom == From::kScattered)
      v = hn::Add(v, LoadModulo(shortcut + p * step, group.shortcut + c, a.shortcut_channels));
    if constexpr (kFrom == From::kPool)
      v = hn::Add(v, Mean<kFrom>(a, pixels.window[i + p], true, true, group.shortcut + c));
    if constexpr (kFrom == From::kPoolScattered) {
      v = hn::Add(v,
                  Mean<kFrom>(a, pixels.window[i + p], pixels.right[i + p], pixels.below[i + p], group.shortcut + c));
    }
    if constexpr (kActivation) {
      v = hn::Add(v, parameter(kBiasIn, c));
      v = hn::Add(hn::IfThenElse(hn::Gt(v, hn::Zero(d)), v, hn::Mul(v, parameter(kSlope, c))), parameter(kBiasOut, c));
    }
  });
  if (a.map != nullptr) {
    float* map = a.map + pixel * a.map_stride + group.channel;
    const size_t line = a.map_stride;
    each([&](VF& v, int p, int c) HWY_ATTR { hn::Store(v, d, map + p * line + c); });
  }
  WriteBits<P>(a, group, pixel, value);
}

/// Pixel by pixel, groups within: a pixel's channels lie together in every map. Returns the first pixel left over.
template <int P, Source kSource, From kFrom, bool kActivation>
HWY_INLINE int Tiles(const EpilogueArgs& a, const Groups& groups, const Pixels& pixels, int i) {
  for (; i + P <= pixels.count; i += P) {
    for (int g = 0; g < groups.count; ++g) Tile<P, kSource, kFrom, kActivation>(a, groups.at[g], pixels, i);
  }
  return i;
}

template <Source kSource, From kFrom, bool kActivation>
void Rows(const EpilogueArgs& args, const Pixels& pixels) {
  const EpilogueArgs a = args;  // of its own, so that no store of words can change it
  for (int channel = a.channel_begin; channel < a.channel_end; channel += Groups::kMax * kChannelPad) {
    const Groups groups(a, channel);
    const int rest = Tiles<kTilePixels, kSource, kFrom, kActivation>(a, groups, pixels, 0);
    if constexpr (kTilePixels > 1) Tiles<1, kSource, kFrom, kActivation>(a, groups, pixels, rest);
  }
}

/// Shortcuts that are slow to read keep an activation that changes nothing: its code twice would gain them little.
template <Source kSource, bool kActivation>
void RowsFrom(const EpilogueArgs& a, const Pixels& pixels) {
  const bool scattered = a.shortcut_duplicate && a.shortcut_channels % kChannelPad != 0;
  if (a.shortcut == nullptr) {
    Rows<kSource, From::kNone, kActivation>(a, pixels);
  } else if (a.shortcut_avg_pool) {
    const bool whole = a.shortcut_h % 2 == 0 && a.shortcut_w % 2 == 0;
    whole && !scattered ? Rows<kSource, From::kPool, true>(a, pixels)
                        : Rows<kSource, From::kPoolScattered, true>(a, pixels);
  } else if (scattered) {
    Rows<kSource, From::kScattered, true>(a, pixels);
  } else {
    Rows<kSource, From::kSame, kActivation>(a, pixels);
  }
}

void Epilogue(const EpilogueArgs& a) {
  // The plain algorithm's sums of 32 bits, which few layers have.
  if (a.values == nullptr && a.sum_bytes != sizeof(uint16_t)) return reference::Epilogue(a);
  const bool changed = a.affine || a.activation || a.gain != nullptr || a.beta != nullptr || a.shortcut != nullptr;
  const bool plain = a.values != nullptr && !changed;
  for (int begin = a.pixel_begin; begin < a.pixel_end; begin += kMaxPixels) {
    const Pixels pixels(a, begin, std::min(begin + kMaxPixels, a.pixel_end));
    if (plain) {
      Rows<Source::kPlain, From::kNone, false>(a, pixels);
    } else if (a.values != nullptr) {
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
