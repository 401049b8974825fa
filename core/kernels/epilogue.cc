// The epilogue: lanes are channels; a vector's parameters stay in registers for all pixels of the call.
//
// Absent steps are done with parameters that change nothing, exactly: x + (-0) = x and x - (+0) = x for every x (also for
// both zeros), x * 1 = x, and fma(x, m, -0) = x * m, fma(x, 1, a) = x + a. So one loop serves every combination; only the
// source and the kind of shortcut are compiled apart.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/epilogue.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/fma-inl.h"
#include "kernels/tables.h"

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

enum class Source { kValues, kOneBranch, kBranches };
enum class From { kNone, kSame, kPool };

/// What depends on the pixel only.
struct Pixels {
  int count;
  size_t base[kMaxPixels];             // row of the border table
  const float* shortcut[kMaxPixels][4];  // pixels to average
  int averaged[kMaxPixels];
};

Pixels FindPixels(const EpilogueArgs& a, int begin, int end) {
  Pixels pixels;
  pixels.count = end - begin;
  const size_t padded = PadChannels(a.out_c);
  for (int i = 0; i < pixels.count; ++i) {
    const int y = (begin + i) / a.out_w, x = (begin + i) % a.out_w;
    if (a.values == nullptr) pixels.base[i] = (a.row_class[y] + a.column_class[x]) * padded;
    if (a.shortcut == nullptr) continue;
    const auto at = [&](int sy, int sx) { return a.shortcut + (static_cast<size_t>(sy) * a.shortcut_w + sx) * a.shortcut_stride; };
    if (!a.shortcut_avg_pool) {
      pixels.shortcut[i][0] = at(y, x);
      continue;
    }
    int n = 0;
    for (int sy = 2 * y; sy < std::min(2 * y + 2, a.shortcut_h); ++sy) {
      for (int sx = 2 * x; sx < std::min(2 * x + 2, a.shortcut_w); ++sx) pixels.shortcut[i][n++] = at(sy, sx);
    }
    pixels.averaged[i] = n;
  }
  return pixels;
}

/// One vector of a map's pixel from `channel` of the value on, which a duplicated map reads modulo its channels.
HWY_INLINE VF LoadShortcut(const EpilogueArgs& a, const float* pixel, int channel) {
  const DF d;
  if (!a.shortcut_duplicate) return hn::Load(d, pixel + channel);
  const int first = channel % a.shortcut_channels;
  if (first + kFloats <= a.shortcut_channels) return hn::LoadU(d, pixel + first);
  HWY_ALIGN float lanes[kFloats];
  for (int i = 0; i < kFloats; ++i) lanes[i] = pixel[(channel + i) % a.shortcut_channels];
  return hn::Load(d, lanes);
}

/// Bit i of `mask`'s lanes to bits [channel, channel + kFloats) of a pixel, those of padding channels as 0.
template <class M>
HWY_INLINE void StoreBits(M mask, int channel, int channels, uint32_t* pixel) {
  uint8_t raw[8] = {};
  hn::StoreMaskBits(DF(), mask, raw);
  uint32_t bits;
  std::memcpy(&bits, raw, sizeof(bits));
  if (channels - channel < kFloats) bits &= channels > channel ? (1u << (channels - channel)) - 1 : 0;
  uint8_t* bytes = reinterpret_cast<uint8_t*>(pixel) + channel / 8;
  if constexpr (kFloats == 4) {
    *bytes = static_cast<uint8_t>(channel % 8 == 0 ? bits : *bytes | bits << 4);
  } else {
    std::memcpy(bytes, &bits, kFloats / 8);
  }
}

HWY_INLINE VF Parameter(const float* parameter, int channel, float neutral) {
  const DF d;
  return parameter != nullptr ? hn::Load(d, parameter + channel) : hn::Set(d, neutral);
}

template <Source kSource, From kFrom>
void Rows(const EpilogueArgs& a, const Pixels& pixels, int pixel_begin) {
  const DF d;
  const DI di;
  const VF zero = hn::Zero(d);
  const int word_channels = BitWords(a.out_c) * 32;
  for (int c = a.channel_begin; c < a.channel_end; c += kFloats) {
    const VF conv_bias = Parameter(a.conv_bias, c, -0.0f), beta = Parameter(a.beta, c, -0.0f);
    const VF mul = Parameter(a.mul, c, 1.0f), add = Parameter(a.add, c, -0.0f);
    const VF bias_in = Parameter(a.prelu_bias_in, c, -0.0f), slope = Parameter(a.prelu_slope, c, 1.0f);
    const VF bias_out = Parameter(a.prelu_bias_out, c, -0.0f);
    const VF scale = kSource == Source::kValues ? zero : hn::Load(d, a.scale[0] + c);
    size_t at = static_cast<size_t>(pixel_begin - a.pixel_begin) * a.value_stride + c - a.channel_begin;
    for (int i = 0; i < pixels.count; ++i, at += a.value_stride) {
      VF v;
      if constexpr (kSource == Source::kValues) {
        v = hn::Add(hn::Load(d, a.values + at), conv_bias);
      } else {
        const auto term = [&](int b) HWY_ATTR {
          const auto count = hn::Load(di, a.counts[b] + at);
          const auto base = hn::Load(di, a.base[b] + pixels.base[i] + c);
          return hn::ConvertTo(d, hn::Sub(base, hn::Add(count, count)));
        };
        v = hn::Mul(term(0), scale);
        if constexpr (kSource == Source::kBranches) {
          for (int b = 1; b < a.branches; ++b) v = hn::Add(v, hn::Mul(term(b), hn::Load(d, a.scale[b] + c)));
        }
      }
      v = Fma(d, hn::Add(v, beta), mul, add);
      if constexpr (kFrom == From::kSame) v = hn::Add(v, LoadShortcut(a, pixels.shortcut[i][0], c));
      if constexpr (kFrom == From::kPool) {
        VF sum = zero;
        const int n = pixels.averaged[i];  // 1, 2 or 4: the division is exact as a product
        for (int k = 0; k < n; ++k) sum = hn::Add(sum, LoadShortcut(a, pixels.shortcut[i][k], c));
        v = hn::Add(v, hn::Mul(sum, hn::Set(d, n == 4 ? 0.25f : n == 2 ? 0.5f : 1.0f)));
      }
      v = hn::Add(v, bias_in);
      v = hn::Add(hn::IfThenElse(hn::Gt(v, zero), v, hn::Mul(v, slope)), bias_out);
      const size_t pixel = static_cast<size_t>(pixel_begin + i);
      if (a.map != nullptr) hn::Store(v, d, a.map + pixel * a.map_stride + c);
      if (c >= word_channels) continue;
      for (int b = 0; b < a.bits_count; ++b) {
        const VF t = hn::Sub(hn::Add(v, Parameter(a.bits[b].bias, c, -0.0f)), Parameter(a.bits[b].alpha, c, 0.0f));
        StoreBits(hn::Ge(t, zero), c, a.out_c, a.bits[b].words + pixel * a.word_stride);
      }
    }
  }
}

template <Source kSource>
void RowsFrom(const EpilogueArgs& a, const Pixels& pixels, int pixel_begin) {
  if (a.shortcut == nullptr) {
    Rows<kSource, From::kNone>(a, pixels, pixel_begin);
  } else if (a.shortcut_avg_pool) {
    Rows<kSource, From::kPool>(a, pixels, pixel_begin);
  } else {
    Rows<kSource, From::kSame>(a, pixels, pixel_begin);
  }
}

void Epilogue(const EpilogueArgs& a) {
  for (int begin = a.pixel_begin; begin < a.pixel_end; begin += kMaxPixels) {
    const Pixels pixels = FindPixels(a, begin, std::min(begin + kMaxPixels, a.pixel_end));
    if (a.values != nullptr) {
      RowsFrom<Source::kValues>(a, pixels, begin);
    } else if (a.branches == 1) {
      RowsFrom<Source::kOneBranch>(a, pixels, begin);
    } else {
      RowsFrom<Source::kBranches>(a, pixels, begin);
    }
  }
}

void AddEpilogue(KernelTable& table) { table.epilogue = Epilogue; }

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
