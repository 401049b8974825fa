// Real-valued convolution, pooling and the linear layer: lanes are output channels, sums run in the order of
// docs/format.md, one fused multiply-add per term, so every target gives the same bits.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/real.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/fma-inl.h"
#include "kernels/tables.h"
#include "kernels/unroll.h"

#include <algorithm>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
inline constexpr int kFloats = HWY_LANES(float);
inline constexpr int kPanel = 32;  // output channels whose weights lie together: [panel][ky][kx][input channel][32]
inline constexpr int kPanelVectors = kPanel / kFloats;

enum class ConvKind { kPanels, kDepthwise, kPlain };

ConvKind KindOf(const ConvShape& s, int groups) {
  if (groups == 1 || s.out_c / groups % kPanel == 0) return ConvKind::kPanels;
  // A vector that spans groups with several inputs each would have to gather; plain loops do it.
  return groups == s.in_c && groups == s.out_c ? ConvKind::kDepthwise : ConvKind::kPlain;
}

size_t Conv2dWeightFloats(const ConvShape& s, int groups) {
  if (KindOf(s, groups) == ConvKind::kPlain) return reference::Conv2dWeightFloats(s, groups);
  return static_cast<size_t>(PadChannels(s.out_c)) * s.k_h * s.k_w * (s.in_c / groups);
}

void Conv2dPackWeights(const ConvShape& s, int groups, const float* weight, float* packed) {
  if (KindOf(s, groups) == ConvKind::kPlain) return reference::Conv2dPackWeights(s, groups, weight, packed);
  const size_t terms = static_cast<size_t>(s.k_h) * s.k_w * (s.in_c / groups);
  for (int panel = 0; panel < PadChannels(s.out_c); panel += kPanel) {
    for (size_t t = 0; t < terms; ++t) {
      for (int o = panel; o < panel + kPanel; ++o) *packed++ = o < s.out_c ? weight[o * terms + t] : 0.0f;
    }
  }
}

/// One panel for P neighbours in a row, whose windows begin at `input`, `step` apart. `taps` bounds the taps of each:
/// ky0, ky1, kx0, kx1.
template <int P, class Multiply>
HWY_INLINE void PanelTile(const Conv2dArgs& a, const float* weight, const float* input, int64_t step, const int* taps,
                          float* values, int value_stride, Multiply& fma) {
  const DF d;
  const ConvShape& s = a.shape;
  const int depth = s.in_c / a.groups;
  // Half a panel at a time where the whole would not fit the registers.
  constexpr int kVectors = kPanelVectors <= 4 ? kPanelVectors : 4;
  for (int half = 0; half < kPanelVectors; half += kVectors) {
    VF acc[P][kVectors];
    BCDNET_UNROLL
    for (int p = 0; p < P; ++p) {
      BCDNET_UNROLL
      for (int v = 0; v < kVectors; ++v) acc[p][v] = hn::Zero(d);
    }
    for (int ky = taps[0]; ky < taps[1]; ++ky) {
      for (int kx = taps[2]; kx < taps[3]; ++kx) {
        const float* w = weight + static_cast<size_t>(ky * s.k_w + kx) * depth * kPanel + half * kFloats;
        const float* x = input + ky * a.in_row + kx * a.in_column;
        for (int i = 0; i < depth; ++i, w += kPanel, x += a.in_channel) {
          VF wv[kVectors];
          BCDNET_UNROLL
          for (int v = 0; v < kVectors; ++v) wv[v] = hn::Load(d, w + v * kFloats);
          BCDNET_UNROLL
          for (int p = 0; p < P; ++p) {
            const VF xv = hn::Set(d, x[p * step]);
            BCDNET_UNROLL
            for (int v = 0; v < kVectors; ++v) acc[p][v] = fma(wv[v], xv, acc[p][v]);
          }
        }
      }
    }
    BCDNET_UNROLL
    for (int p = 0; p < P; ++p) {
      BCDNET_UNROLL
      for (int v = 0; v < kVectors; ++v)
        hn::Store(acc[p][v], d, values + static_cast<size_t>(p) * value_stride + (half + v) * kFloats);
    }
  }
}

/// The taps of an output pixel inside the map, and where its window starts in the input.
struct Window {
  int taps[4];
  int64_t origin;
  Window(const Conv2dArgs& a, int out_y, int out_x) {
    const ConvShape& s = a.shape;
    const int y = out_y * s.stride_h - s.pad_h, x = out_x * s.stride_w - s.pad_w;
    taps[0] = std::max(0, -y);
    taps[1] = std::min(s.k_h, s.in_h - y);
    taps[2] = std::max(0, -x);
    taps[3] = std::min(s.k_w, s.in_w - x);
    origin = y * a.in_row + x * a.in_column;
  }
};

void ConvPanels(const Conv2dArgs& a, int channel_begin, int channel_end, int pixel_begin, int pixel_end, float* values,
                int value_stride) {
  constexpr int kTile = kPanelVectors <= 2 ? 8 : 3;  // sums, weights and an input in 32 or 16 registers
  const ConvShape& s = a.shape;
  const int depth = s.in_c / a.groups, out_group = s.out_c / a.groups;
  const size_t panel_floats = static_cast<size_t>(kPanel) * s.k_h * s.k_w * depth;
  const int64_t step = s.stride_w * a.in_column;
  // Columns from `inner` to `outer` have all their taps inside the map.
  const int inner = (s.pad_w + s.stride_w - 1) / s.stride_w;
  const int outer = s.in_w + s.pad_w < s.k_w ? 0 : std::min((s.in_w + s.pad_w - s.k_w) / s.stride_w + 1, s.out_w);
  int y = pixel_begin / s.out_w, x = pixel_begin % s.out_w;
  for (int pixel = pixel_begin; pixel < pixel_end;) {
    const Window window(a, y, x);
    const int n = x < inner || x >= outer ? 1 : std::min(outer - x, pixel_end - pixel);
    for (int c = channel_begin; c < channel_end; c += kPanel) {
      const int64_t first = a.groups == 1 ? 0 : static_cast<int64_t>(c / out_group) * depth * a.in_channel;
      const float* input = a.input + window.origin + first;
      const float* weight = a.weight + c / kPanel * panel_floats;
      float* out = values + static_cast<size_t>(pixel - pixel_begin) * value_stride + c - channel_begin;
      int p = 0;
      const auto sure = [](VF x, VF y, VF z) HWY_ATTR { return Fma(DF(), x, y, z); };
      const auto tiles = [&](auto size) HWY_ATTR {
        for (; p + size() <= n; p += size()) {
          const auto tile = [&](auto count, int begin, auto& fma) HWY_ATTR {
            PanelTile<count()>(a, weight, input + begin * step, step, window.taps,
                               out + static_cast<size_t>(begin) * value_stride, value_stride, fma);
          };
          QuickFma quick;
          tile(size, p, quick);
          if (quick.Doubtful()) {
            for (int again = p; again < p + size(); ++again) tile(std::integral_constant<int, 1>(), again, sure);
          }
        }
      };
      tiles(std::integral_constant<int, kTile>());
      if constexpr (kTile > 4) tiles(std::integral_constant<int, 4>());
      tiles(std::integral_constant<int, 2>());
      tiles(std::integral_constant<int, 1>());
    }
    pixel += n;
    x += n;
    if (x == s.out_w) {
      x = 0;
      ++y;
    }
  }
}

/// The inputs of channels c, c + 1, ... at one position: side by side in a map, a plane apart in an image.
HWY_INLINE VF InputLanes(const Conv2dArgs& a, const float* x, int c) {
  const DF d;
  // An image of one pixel has channels side by side too, but none to spare behind the last one.
  if (a.in_channel == 1 && a.in_column > 1) return hn::LoadU(d, x + c);
  alignas(sizeof(float) * kFloats) float lanes[kFloats] = {};
  for (int i = 0; i < kFloats && c + i < a.shape.in_c; ++i) lanes[i] = x[(c + i) * a.in_channel];
  return hn::Load(d, lanes);
}

/// Groups of one channel: the lanes of the input are those of the output.
void ConvDepthwise(const Conv2dArgs& a, int channel_begin, int channel_end, int pixel_begin, int pixel_end,
                   float* values, int value_stride) {
  const DF d;
  const ConvShape& s = a.shape;
  for (int pixel = pixel_begin; pixel < pixel_end; ++pixel) {
    const Window window(a, pixel / s.out_w, pixel % s.out_w);
    float* out = values + static_cast<size_t>(pixel - pixel_begin) * value_stride;
    for (int c = channel_begin; c < channel_end; c += kFloats) {
      const float* weight = a.weight + static_cast<size_t>(c / kPanel) * kPanel * s.k_h * s.k_w + c % kPanel;
      VF acc = hn::Zero(d);
      for (int ky = window.taps[0]; ky < window.taps[1]; ++ky) {
        for (int kx = window.taps[2]; kx < window.taps[3]; ++kx) {
          const VF x = InputLanes(a, a.input + window.origin + ky * a.in_row + kx * a.in_column, c);
          acc = Fma(d, hn::Load(d, weight + (ky * s.k_w + kx) * kPanel), x, acc);
        }
      }
      hn::Store(acc, d, out + c - channel_begin);
    }
  }
}

void Conv2d(const Conv2dArgs& a, int channel_begin, int channel_end, int pixel_begin, int pixel_end, float* values,
            int value_stride) {
  const auto run = [&](auto conv) {
    conv(a, channel_begin, channel_end, pixel_begin, pixel_end, values, value_stride);
  };
  switch (KindOf(a.shape, a.groups)) {
    case ConvKind::kPanels:
      return run(ConvPanels);
    case ConvKind::kDepthwise:
      return run(ConvDepthwise);
    case ConvKind::kPlain:
      return run(reference::Conv2d);
  }
}

void Pool(const PoolArgs& a, int row_begin, int row_end) {
  const DF d;
  for (int oy = row_begin; oy < row_end; ++oy) {
    for (int ox = 0; ox < a.out_w; ++ox) {
      const int top = oy * a.stride_h - a.pad_h, left = ox * a.stride_w - a.pad_w;
      const int y0 = std::max(top, 0), y1 = std::min(top + a.k_h, a.in_h);
      const int x0 = std::max(left, 0), x1 = std::min(left + a.k_w, a.in_w);
      const int clipped =
          (std::min(top + a.k_h, a.in_h + a.pad_h) - top) * (std::min(left + a.k_w, a.in_w + a.pad_w) - left);
      const VF divisor = hn::Set(d, static_cast<float>(a.count_include_pad ? clipped : (y1 - y0) * (x1 - x0)));
      const auto at = [&](int y, int x) { return a.input + (static_cast<size_t>(y) * a.in_w + x) * a.stride; };
      float* out = a.output + (static_cast<size_t>(oy) * a.out_w + ox) * a.stride;
      for (int c = 0; c < a.stride; c += kFloats) {
        VF value = a.maximum ? hn::Load(d, at(y0, x0) + c) : hn::Zero(d);
        for (int y = y0; y < y1; ++y) {
          for (int x = x0; x < x1; ++x) {
            const VF v = hn::Load(d, at(y, x) + c);
            const auto next = [&] { return hn::IfThenElse(hn::Or(hn::Gt(v, value), hn::IsNaN(v)), v, value); };
            value = a.maximum ? next() : hn::Add(value, v);
          }
        }
        hn::Store(a.maximum ? value : hn::Div(value, divisor), d, out + c);
      }
    }
  }
}

#if HWY_HAVE_FLOAT64  // else the plain loops of core/reference

/// Sums and divides in float64 and rounds once at the end.
void GlobalAvgPool(const float* input, int pixels, int stride, int channel_begin, int channel_end, float* out) {
  const hn::Repartition<double, DF> dd;
  const hn::Half<DF> half;
  constexpr int kDoubles = kFloats / 2, kVectors = kPanel / kDoubles;
  for (int c = channel_begin; c < channel_end; c += kPanel) {
    hn::Vec<decltype(dd)> sum[kVectors];
    for (auto& v : sum) v = hn::Zero(dd);
    for (int p = 0; p < pixels; ++p) {
      const float* pixel = input + static_cast<size_t>(p) * stride + c;
      for (int v = 0; v < kVectors; ++v)
        sum[v] = hn::Add(sum[v], hn::PromoteTo(dd, hn::Load(half, pixel + v * kDoubles)));
    }
    const auto count = hn::Set(dd, static_cast<double>(pixels));
    for (int v = 0; v < kVectors; ++v)
      hn::Store(hn::DemoteTo(half, hn::Div(sum[v], count)), half, out + c + v * kDoubles);
  }
}

/// [panel][input][32 outputs]
void LinearPackWeights(int inputs, int outputs, const float* weight, float* packed) {
  for (int panel = 0; panel < PadChannels(outputs); panel += kPanel) {
    for (int i = 0; i < inputs; ++i) {
      for (int o = panel; o < panel + kPanel; ++o)
        *packed++ = o < outputs ? weight[static_cast<size_t>(o) * inputs + i] : 0.0f;
    }
  }
}

/// Sums in float64, where a product of two float32 is exact: fused or not is the same.
void Linear(const float* input, int inputs, const float* packed, const float* bias, int begin, int end, float* out) {
  const hn::Repartition<double, DF> dd;
  const hn::Half<DF> half;
  constexpr int kDoubles = kFloats / 2, kVectors = kPanel / kDoubles;
  for (int o = begin; o < end; o += kPanel) {
    const float* w = packed + static_cast<size_t>(o) * inputs;
    hn::Vec<decltype(dd)> acc[kVectors];
    for (auto& v : acc) v = hn::Zero(dd);
    for (int i = 0; i < inputs; ++i, w += kPanel) {
      const auto x = hn::Set(dd, static_cast<double>(input[i]));
      for (int v = 0; v < kVectors; ++v)
        acc[v] = hn::MulAdd(hn::PromoteTo(dd, hn::Load(half, w + v * kDoubles)), x, acc[v]);
    }
    for (int v = 0; v < kVectors; ++v) {
      if (bias != nullptr) acc[v] = hn::Add(acc[v], hn::PromoteTo(dd, hn::Load(half, bias + o + v * kDoubles)));
      hn::Store(hn::DemoteTo(half, acc[v]), half, out + o + v * kDoubles);
    }
  }
}

#endif  // HWY_HAVE_FLOAT64

void AddReal(KernelTable& table) {
  table.conv2d_weight_floats = Conv2dWeightFloats;
  table.conv2d_pack_weights = Conv2dPackWeights;
  table.conv2d = Conv2d;
  table.pool = Pool;
#if HWY_HAVE_FLOAT64
  table.global_avg_pool = GlobalAvgPool;
  table.linear_pack_weights = LinearPackWeights;
  table.linear = Linear;
#endif
}

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
