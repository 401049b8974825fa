// The epilogue, one value at a time.
#include <algorithm>
#include <cmath>

#include "reference/reference.h"

namespace bcdnet::reference {
namespace {

float ShortcutValue(const EpilogueArgs& a, int pixel, int channel) {
  const int c = a.shortcut_duplicate ? channel % a.shortcut_channels : channel;
  const auto at = [&](int y, int x) {
    return a.shortcut[(static_cast<size_t>(y) * a.shortcut_w + x) * a.shortcut_stride + c];
  };
  const int y = pixel / a.out_w, x = pixel % a.out_w;
  if (!a.shortcut_avg_pool) return at(y, x);
  float sum = 0.0f;
  int count = 0;
  for (int dy = 0; dy < 2; ++dy) {
    for (int dx = 0; dx < 2; ++dx) {
      if (2 * y + dy >= a.shortcut_h || 2 * x + dx >= a.shortcut_w) continue;
      sum = sum + at(2 * y + dy, 2 * x + dx);
      ++count;
    }
  }
  return sum / static_cast<float>(count);
}

/// Adds one of the four values of a window, in the order in which a pooled shortcut reads them.
void AddToMean(const EpilogueArgs& a, int pixel, int channel, float value) {
  const int y = pixel / a.out_w, x = pixel % a.out_w;
  const size_t window = static_cast<size_t>(y / 2) * (a.out_w / 2) + x / 2;
  float& mean = a.means[window * a.map_stride + channel];
  mean = (y % 2 == 0 && x % 2 == 0 ? 0.0f : mean) + value;
  if (y % 2 == 1 && x % 2 == 1) mean = mean / 4.0f;
}

float Constant(const EpilogueArgs& a, int parameter, int channel) {
  return a.parameters[ParameterIndex(parameter, channel)];
}

float SourceValue(const EpilogueArgs& a, int pixel, int channel) {
  const size_t at = static_cast<size_t>(pixel - a.pixel_begin) * a.value_stride + channel - a.channel_begin;
  if (a.values != nullptr) return a.values[at];
  const auto dot = [&](int b) -> float {
    const size_t base = a.border[pixel] + static_cast<size_t>(channel);
    if (a.sum_bytes == 2) {
      return static_cast<const float*>(a.base[b])[base] - 2.0f * static_cast<const uint16_t*>(a.counts[b])[at];
    }
    return static_cast<float>(static_cast<const int32_t*>(a.base[b])[base] -
                              2 * static_cast<const int32_t*>(a.counts[b])[at]);
  };
  float value = 0.0f;
  for (int b = 0; b < a.branches; ++b) {
    const float term = dot(b) * Constant(a, kScale + b, channel);
    value = b == 0 ? term : value + term;
  }
  return value;
}

}  // namespace

void Epilogue(const EpilogueArgs& a) {
  const int channel_end = std::min(a.channel_end, a.out_c);
  for (int pixel = a.pixel_begin; pixel < a.pixel_end; ++pixel) {
    for (int b = 0; b < a.bits_count; ++b) {
      for (int c = a.channel_begin; c < channel_end; c += 32) {
        a.bits[b].words[static_cast<size_t>(pixel) * a.word_stride + c / 32] = 0;
      }
    }
    for (int c = a.channel_begin; c < channel_end; ++c) {
      float v = SourceValue(a, pixel, c);
      if (a.values != nullptr) v = v + Constant(a, kConvBias, c);
      if (a.gain != nullptr) v = v * a.gain[c];
      if (a.beta != nullptr) v = v + a.beta[c];
      v = std::fma(v, Constant(a, kMul, c), Constant(a, kAdd, c));
      if (a.shortcut != nullptr) v = v + ShortcutValue(a, pixel, c);
      v = v + Constant(a, kBiasIn, c);
      v = (v > 0.0f ? v : v * Constant(a, kSlope, c)) + Constant(a, kBiasOut, c);
      if (a.means != nullptr) AddToMean(a, pixel, c, v);
      if (a.map != nullptr) a.map[static_cast<size_t>(pixel) * a.map_stride + c] = v;
      for (int b = 0; b < a.bits_count; ++b) {
        float t = v;
        if (a.bits[b].bias != nullptr) t = t + a.bits[b].bias[c];
        if (a.bits[b].alpha != nullptr) t = t - a.bits[b].alpha[c];
        if (t >= 0.0f) a.bits[b].words[static_cast<size_t>(pixel) * a.word_stride + c / 32] |= 1u << (c % 32);
      }
    }
  }
}

}  // namespace bcdnet::reference
