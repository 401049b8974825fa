// Real-valued convolution, pooling and the linear layer. Every sum starts at +0 and runs in the order of
// docs/format.md.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "reference/reference.h"

namespace bcdnet::reference {

size_t Conv2dWeightFloats(const ConvShape& s, int groups) {
  return static_cast<size_t>(s.out_c) * s.k_h * s.k_w * (s.in_c / groups);
}

void Conv2dPackWeights(const ConvShape& s, int groups, const float* weight, float* packed) {
  std::memcpy(packed, weight, Conv2dWeightFloats(s, groups) * sizeof(float));
}

void Conv2d(const Conv2dArgs& a, int channel_begin, int channel_end, int pixel_begin, int pixel_end, float* values,
            int value_stride) {
  const ConvShape& s = a.shape;
  const int in_group = s.in_c / a.groups, out_group = s.out_c / a.groups;
  channel_end = std::min(channel_end, s.out_c);
  for (int pixel = pixel_begin; pixel < pixel_end; ++pixel) {
    const int y0 = pixel / s.out_w * s.stride_h - s.pad_h, x0 = pixel % s.out_w * s.stride_w - s.pad_w;
    for (int o = channel_begin; o < channel_end; ++o) {
      const int first = o / out_group * in_group;
      float acc = 0.0f;
      for (int ky = 0; ky < s.k_h; ++ky) {
        for (int kx = 0; kx < s.k_w; ++kx) {
          const int y = y0 + ky, x = x0 + kx;
          if (y < 0 || y >= s.in_h || x < 0 || x >= s.in_w) continue;
          for (int i = 0; i < in_group; ++i) {
            const float w = a.weight[((static_cast<size_t>(o) * s.k_h + ky) * s.k_w + kx) * in_group + i];
            acc = std::fma(w, a.input[y * a.in_row + x * a.in_column + (first + i) * a.in_channel], acc);
          }
        }
      }
      values[static_cast<size_t>(pixel - pixel_begin) * value_stride + o - channel_begin] = acc;
    }
  }
}

void Pool(const PoolArgs& a, int row_begin, int row_end) {
  for (int oy = row_begin; oy < row_end; ++oy) {
    for (int ox = 0; ox < a.out_w; ++ox) {
      const int top = oy * a.stride_h - a.pad_h, left = ox * a.stride_w - a.pad_w;
      const int y0 = std::max(top, 0), y1 = std::min(top + a.k_h, a.in_h);
      const int x0 = std::max(left, 0), x1 = std::min(left + a.k_w, a.in_w);
      const int clipped =
          (std::min(top + a.k_h, a.in_h + a.pad_h) - top) * (std::min(left + a.k_w, a.in_w + a.pad_w) - left);
      const float divisor = static_cast<float>(a.count_include_pad ? clipped : (y1 - y0) * (x1 - x0));
      for (int c = 0; c < a.stride; ++c) {
        float value = a.maximum ? a.input[(static_cast<size_t>(y0) * a.in_w + x0) * a.stride + c] : 0.0f;
        for (int y = y0; y < y1; ++y) {
          for (int x = x0; x < x1; ++x) {
            const float v = a.input[(static_cast<size_t>(y) * a.in_w + x) * a.stride + c];
            if (a.maximum) {
              value = v > value || v != v ? v : value;  // no number once it is none
            } else {
              value = value + v;
            }
          }
        }
        a.output[(static_cast<size_t>(oy) * a.out_w + ox) * a.stride + c] = a.maximum ? value : value / divisor;
      }
    }
  }
}

void GlobalAvgPool(const float* input, int pixels, int stride, int channel_begin, int channel_end, float* out) {
  for (int c = channel_begin; c < channel_end; ++c) {
    double sum = 0.0;
    for (int p = 0; p < pixels; ++p) sum = sum + static_cast<double>(input[static_cast<size_t>(p) * stride + c]);
    out[c] = static_cast<float>(sum / pixels);
  }
}

size_t LinearWeightFloats(int inputs, int outputs) { return static_cast<size_t>(inputs) * PadChannels(outputs); }

void LinearPackWeights(int inputs, int outputs, const float* weight, float* packed) {
  std::memset(packed, 0, LinearWeightFloats(inputs, outputs) * sizeof(float));
  std::memcpy(packed, weight, static_cast<size_t>(inputs) * outputs * sizeof(float));
}

void Linear(const float* input, int inputs, const float* packed, const float* bias, int begin, int end, float* out) {
  for (int o = begin; o < end; ++o) {
    double acc = 0.0;
    for (int i = 0; i < inputs; ++i) {
      acc = acc + static_cast<double>(packed[static_cast<size_t>(o) * inputs + i]) * static_cast<double>(input[i]);
    }
    out[o] = static_cast<float>(bias != nullptr ? acc + static_cast<double>(bias[o]) : acc);
  }
}

}  // namespace bcdnet::reference
