// The windows of 2 x 2 pixels of which an epilogue wants means: those of a shortcut, which it reads, and those of its
// own map, which it writes.

#if defined(BCDNET_WINDOWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef BCDNET_WINDOWS_INL
#undef BCDNET_WINDOWS_INL
#else
#define BCDNET_WINDOWS_INL
#endif

#include "hwy/highway.h"
#include "kernels/tables.h"

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

/// kScattered: channels that do not lie side by side; kPoolScattered: such, or windows cut off by the border.
enum class From { kNone, kSame, kScattered, kPool, kPoolScattered };

/// The pixels of a call; where the window of a pooled shortcut begins for each, and which window each belongs to.
struct Pixels {
  int begin, count;
  const float* window[kMaxPixels];
  bool right[kMaxPixels], below[kMaxPixels];  // whether the window has a second column, a second row
  float* mean[kMaxPixels];
  bool first[kMaxPixels], last[kMaxPixels];  // of the four of its mean

  Pixels(const EpilogueArgs& a, int begin, int end) : begin(begin), count(end - begin) {
    if (!a.shortcut_avg_pool && a.means == nullptr) return;
    int y = begin / a.out_w, x = begin % a.out_w;
    for (int i = 0; i < count; ++i) {
      if (a.shortcut_avg_pool) {
        window[i] = a.shortcut + (static_cast<size_t>(2 * y) * a.shortcut_w + 2 * x) * a.shortcut_stride;
        right[i] = 2 * x + 1 < a.shortcut_w;
        below[i] = 2 * y + 1 < a.shortcut_h;
      }
      if (a.means != nullptr) {
        mean[i] = a.means + (static_cast<size_t>(y / 2) * (a.out_w / 2) + x / 2) * a.map_stride;
        first[i] = y % 2 == 0 && x % 2 == 0;
        last[i] = y % 2 == 1 && x % 2 == 1;
      }
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

/// The values of P pixels from number `i` of `pixels` on, to the means of their windows: added from 0 on and from left
/// to right, as `Mean` does.
template <int P>
HWY_INLINE void AddToMeans(const Pixels& pixels, int i, size_t channel, const VF (&value)[P][kGroup]) {
  constexpr int kTogether = P > 1 ? 2 : 1;  // a window's pixels of one row
  const DF d;
  for (int p = 0; p < P; p += kTogether) {
    float* mean = pixels.mean[i + p] + channel;
    const bool first = pixels.first[i + p], last = pixels.last[i + p + kTogether - 1];
    for (int k = 0; k < kGroup; ++k) {
      VF sum = first ? hn::Zero(d) : hn::Load(d, mean + k * kFloats);
      for (int q = 0; q < kTogether; ++q) sum = hn::Add(sum, value[p + q][k]);
      hn::Store(last ? hn::Mul(sum, hn::Set(d, 0.25f)) : sum, d, mean + k * kFloats);
    }
  }
}

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();

#endif  // include guard
