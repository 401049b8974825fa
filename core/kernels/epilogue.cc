// The epilogue: lanes are channels; a vector's parameters stay in registers for all pixels of the call.
//
// Absent steps are done with parameters that change nothing, exactly: x + (-0) = x and x - (+0) = x for every x (also
// for both zeros), x * 1 = x, and fma(x, m, -0) = x * m, fma(x, 1, a) = x + a. So one loop serves every combination;
// only the source and the kind of shortcut are compiled apart.
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
  size_t base[kMaxPixels];               // row of the border table
  const float* shortcut[kMaxPixels][4];  // pixels to average
  int averaged[kMaxPixels];
};

Pixels FindPixels(const EpilogueArgs& a, int begin, int end) {
  Pixels pixels;
  pixels.count = end - begin;
  const size_t padded = PadChannels(a.out_c);
  int y = begin / a.out_w, x = begin % a.out_w;
  for (int i = 0; i < pixels.count; ++i, x = x + 1 == a.out_w ? ++y, 0 : x + 1) {
    if (a.values == nullptr) pixels.base[i] = (a.row_class[y] + a.column_class[x]) * padded;
    if (a.shortcut == nullptr) continue;
    const auto at = [&](int sy, int sx) {
      return a.shortcut + (static_cast<size_t>(sy) * a.shortcut_w + sx) * a.shortcut_stride;
    };
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

/// Where a vector of the value's channels lies in the shortcut's map, which may be read modulo its channels.
struct Column {
  int channels = 0;
  int first = 0;
  bool together = true;  // else the vector runs over the end of the map's channels

  Column(const EpilogueArgs& a, int channel) : channels(a.shortcut_channels), first(channel) {
    if (!a.shortcut_duplicate) return;
    first = channel % channels;
    together = first + kFloats <= channels;
  }

  HWY_INLINE VF Load(const float* pixel) const {
    const DF d;
    if (HWY_LIKELY(together)) return hn::LoadU(d, pixel + first);
    HWY_ALIGN float lanes[kFloats];
    for (int i = 0; i < kFloats; ++i) lanes[i] = pixel[(first + i) % channels];
    return hn::Load(d, lanes);
  }
};

HWY_INLINE VF Parameter(const float* parameter, int channel, float neutral) {
  const DF d;
  return parameter != nullptr ? hn::Load(d, parameter + channel) : hn::Set(d, neutral);
}

/// One bits output for one vector of channels.
struct BitsColumn {
  VF bias, alpha;
  uint8_t* bytes;  // of the first pixel of the map
  size_t stride;   // bytes per pixel
  uint32_t valid;  // lanes that are real channels
  bool high;       // four lanes: the high half of the byte

  BitsColumn(const EpilogueArgs& a, int output, int channel)
      : bias(Parameter(a.bits[output].bias, channel, -0.0f)),
        alpha(Parameter(a.bits[output].alpha, channel, 0.0f)),
        bytes(reinterpret_cast<uint8_t*>(a.bits[output].words) + channel / 8),
        stride(static_cast<size_t>(a.word_stride) * 4),
        valid(a.out_c - channel >= kFloats ? ~0u
              : a.out_c > channel          ? (1u << (a.out_c - channel)) - 1
                                           : 0),
        high(channel % 8 != 0) {}

  HWY_INLINE void Store(VF v, size_t pixel) const {
    const DF d;
    uint8_t raw[8] = {};
    hn::StoreMaskBits(d, hn::Ge(hn::Sub(hn::Add(v, bias), alpha), hn::Zero(d)), raw);
    uint32_t bits;
    std::memcpy(&bits, raw, sizeof(bits));
    bits &= valid;
    uint8_t* to = bytes + pixel * stride;
    if constexpr (kFloats == 4) {
      *to = static_cast<uint8_t>(high ? *to | bits << 4 : bits);
    } else {
      std::memcpy(to, &bits, kFloats / 8);
    }
  }
};

template <Source kSource, From kFrom>
void Rows(const EpilogueArgs& a, const Pixels& pixels, int pixel_begin) {
  const DF d;
  const DI di;
  const VF zero = hn::Zero(d);
  // Copies: the compiler must take it that the stores below change `a`.
  const int count = pixels.count, branches = a.branches, map_stride = a.map_stride;
  const int bits_end = BitWords(a.out_c) * 32;
  const size_t value_stride = a.value_stride;
  for (int c = a.channel_begin; c < a.channel_end; c += kFloats) {
    const VF conv_bias = Parameter(a.conv_bias, c, -0.0f), beta = Parameter(a.beta, c, -0.0f);
    const VF mul = Parameter(a.mul, c, 1.0f), add = Parameter(a.add, c, -0.0f);
    const VF bias_in = Parameter(a.prelu_bias_in, c, -0.0f), slope = Parameter(a.prelu_slope, c, 1.0f);
    const VF bias_out = Parameter(a.prelu_bias_out, c, -0.0f);
    const VF scale = kSource == Source::kValues ? zero : hn::Load(d, a.scale[0] + c);
    const Column column(a, c);
    const int bits_count = c < bits_end ? a.bits_count : 0;
    const BitsColumn bits(a, 0, c);  // not used where there is none
    float* map = a.map == nullptr ? nullptr : a.map + static_cast<size_t>(pixel_begin) * map_stride + c;
    const size_t first = static_cast<size_t>(pixel_begin - a.pixel_begin) * value_stride + c - a.channel_begin;
    const float* values = kSource == Source::kValues ? a.values + first : nullptr;
    const int32_t* counts[kMaxBranches];
    const int32_t* bases[kMaxBranches];
    for (int b = 0; kSource != Source::kValues && b < branches; ++b) {
      counts[b] = a.counts[b] + first;
      bases[b] = a.base[b] + c;
    }
    for (int i = 0; i < count; ++i) {
      VF v;
      if constexpr (kSource == Source::kValues) {
        v = hn::Add(hn::Load(d, values + i * value_stride), conv_bias);
      } else {
        const auto term = [&](int b) HWY_ATTR {
          const auto n = hn::Load(di, counts[b] + i * value_stride);
          return hn::ConvertTo(d, hn::Sub(hn::Load(di, bases[b] + pixels.base[i]), hn::Add(n, n)));
        };
        v = hn::Mul(term(0), scale);
        if constexpr (kSource == Source::kBranches) {
          for (int b = 1; b < branches; ++b) v = hn::Add(v, hn::Mul(term(b), hn::Load(d, a.scale[b] + c)));
        }
      }
      v = Fma(d, hn::Add(v, beta), mul, add);
      if constexpr (kFrom == From::kSame) v = hn::Add(v, column.Load(pixels.shortcut[i][0]));
      if constexpr (kFrom == From::kPool) {
        VF sum = zero;
        const int n = pixels.averaged[i];  // 1, 2 or 4: the division is exact as a product
        for (int k = 0; k < n; ++k) sum = hn::Add(sum, column.Load(pixels.shortcut[i][k]));
        v = hn::Add(v, hn::Mul(sum, hn::Set(d, n == 4 ? 0.25f : n == 2 ? 0.5f : 1.0f)));
      }
      v = hn::Add(v, bias_in);
      v = hn::Add(hn::IfThenElse(hn::Gt(v, zero), v, hn::Mul(v, slope)), bias_out);
      if (map != nullptr) hn::Store(v, d, map + static_cast<size_t>(i) * map_stride);
      if (bits_count > 0) bits.Store(v, static_cast<size_t>(pixel_begin) + i);
      for (int b = 1; b < bits_count; ++b) BitsColumn(a, b, c).Store(v, static_cast<size_t>(pixel_begin) + i);
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
