#include "image.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>
#include <vector>

namespace bcdnet {
namespace {

constexpr int64_t kMaxResized = int64_t{1} << 26;  // pixels: an image one pixel wide would grow without bound
constexpr int kPrecision = 22;                     // bits of Pillow's fixed-point weights

/// Rows of `width` pixels of `channels` bytes without gaps.
struct Map {
  int width, height, channels;
  std::vector<uint8_t> data;

  Map(int columns, int rows, int depth)
      : width(columns), height(rows), channels(depth), data(size_t{1} * columns * rows * depth) {}
  size_t row_bytes() const { return size_t{1} * width * channels; }
  uint8_t* row(int y) { return data.data() + y * row_bytes(); }
  Pixels pixels() const { return {data.data(), width, height, channels, row_bytes()}; }
};

const uint8_t* Row(const Pixels& pixels, int y) { return pixels.data + y * pixels.stride; }

/// From another number of channels.
Map Convert(const Pixels& pixels, int channels) {
  Map map(pixels.width, pixels.height, channels);
  for (int y = 0; y < pixels.height; ++y) {
    const uint8_t* from = Row(pixels, y);
    uint8_t* to = map.row(y);
    for (int x = 0; x < pixels.width; ++x, from += pixels.channels, to += channels) {
      if (channels == 1) {  // Pillow's luma
        *to = static_cast<uint8_t>((from[0] * 19595 + from[1] * 38470 + from[2] * 7471 + 0x8000) >> 16);
      } else {
        for (int c = 0; c < 3; ++c) to[c] = from[pixels.channels == 1 ? 0 : c];
      }
    }
  }
  return map;
}

double Sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double Bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double Weight(Interpolation filter, double x) {
  if (filter == Interpolation::kBilinear) return std::max(0.0, 1 - std::abs(x));
  if (filter == Interpolation::kBicubic) return Bicubic(x);
  return x >= -3 && x < 3 ? Sinc(x) * Sinc(x / 3) : 0;
}

double Support(Interpolation filter) {
  return filter == Interpolation::kBilinear ? 1 : filter == Interpolation::kBicubic ? 2 : 3;
}

/// The first input position that an output position sees, and the fixed-point weights from there on.
struct Window {
  int first;
  std::vector<int32_t> weights;
  int last() const { return first + static_cast<int>(weights.size()); }
};

Window WindowAt(int position, double scale, int in_size, Interpolation filter) {
  const double stretch = std::max(scale, 1.0), reach = Support(filter) * stretch;
  const double center = (position + 0.5) * scale;
  const int first = std::max(0, static_cast<int>(center - reach + 0.5));
  const int last = std::min(in_size, static_cast<int>(center + reach + 0.5));
  std::vector<double> shares(last - first);
  double sum = 0;
  for (int x = 0; x < last - first; ++x) {
    sum += shares[x] = Weight(filter, (x + first - center + 0.5) * (1 / stretch));
  }
  Window window{first, {}};
  for (const double share : shares) {
    const double normal = sum == 0 ? share : share / sum;
    window.weights.push_back(static_cast<int32_t>(normal * (1 << kPrecision) + (normal < 0 ? -0.5 : 0.5)));
  }
  return window;
}

/// One axis: its size before and after the resize, and the part of the latter that is kept.
struct Axis {
  int in_size, out_size, begin, kept;

  std::vector<Window> Windows(Interpolation filter) const {
    std::vector<Window> windows;
    for (int i = begin; i < begin + kept; ++i) {
      // An axis that keeps its size is not filtered.
      windows.push_back(in_size == out_size ? Window{i, {1 << kPrecision}}
                                            : WindowAt(i, static_cast<double>(in_size) / out_size, in_size, filter));
    }
    return windows;
  }
};

uint8_t Rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecision, 0, 255)); }

constexpr int32_t kHalf = 1 << (kPrecision - 1);

/// The rows from `begin` to `end`; the others stay 0.
Map Horizontally(const Pixels& in, const std::vector<Window>& windows, int begin, int end) {
  Map out(static_cast<int>(windows.size()), in.height, in.channels);
  for (int y = begin; y < end; ++y) {
    uint8_t* to = out.row(y);
    for (const Window& window : windows) {
      const uint8_t* from = Row(in, y) + size_t{1} * window.first * in.channels;
      for (int c = 0; c < in.channels; ++c) {
        int32_t sum = kHalf;
        for (size_t x = 0; x < window.weights.size(); ++x) sum += from[x * in.channels + c] * window.weights[x];
        *to++ = Rounded(sum);
      }
    }
  }
  return out;
}

Map Vertically(const Pixels& in, const std::vector<Window>& windows) {
  Map out(in.width, static_cast<int>(windows.size()), in.channels);
  std::vector<int32_t> sums(out.row_bytes());
  for (size_t y = 0; y < windows.size(); ++y) {
    std::ranges::fill(sums, kHalf);
    for (int i = windows[y].first; i < windows[y].last(); ++i) {
      const int32_t weight = windows[y].weights[i - windows[y].first];
      const uint8_t* from = Row(in, i);
      for (size_t x = 0; x < sums.size(); ++x) sums[x] += from[x] * weight;
    }
    std::ranges::transform(sums, out.row(static_cast<int>(y)), Rounded);
  }
  return out;
}

std::vector<int> NearestPlaces(const Axis& axis) {
  const double step = static_cast<double>(axis.in_size) / axis.out_size;
  double at = step * 0.5;  // Pillow adds step upon step
  std::vector<int> places;
  for (int i = 0; i < axis.begin + axis.kept; ++i, at += step) {
    if (i >= axis.begin) places.push_back(std::min(static_cast<int>(at), axis.in_size - 1));
  }
  return places;
}

Map Nearest(const Pixels& in, const Axis& columns, const Axis& rows) {
  Map out(columns.kept, rows.kept, in.channels);
  uint8_t* to = out.data.data();
  const std::vector<int> places = NearestPlaces(columns);
  for (const int y : NearestPlaces(rows)) {
    for (const int x : places) to = std::copy_n(Row(in, y) + size_t{1} * x * in.channels, in.channels, to);
  }
  return out;
}

Map Resize(const Pixels& in, const Axis& columns, const Axis& rows, Interpolation filter) {
  if (filter == Interpolation::kNearest) return Nearest(in, columns, rows);
  const std::vector<Window> across = columns.Windows(filter), down = rows.Windows(filter);
  // Each axis rounds to bytes, so that their order shows: this is Pillow 13's.
  const int removed = in.height - rows.out_size;
  if (removed > 0 && removed > 2 * (in.width - columns.out_size)) {
    return Horizontally(Vertically(in, down).pixels(), across, 0, rows.kept);
  }
  return Vertically(Horizontally(in, across, down.front().first, down.back().last()).pixels(), down);
}

/// Python's round: halves to the even neighbour.
int Round(double x) { return static_cast<int>(std::nearbyint(x)); }

/// The size that the whole image is resized to.
void FitAround(const Pixels& pixels, int columns, int rows, int* width, int* height) {
  const bool upright = int64_t{1} * pixels.width * rows <= int64_t{1} * pixels.height * columns;
  // The longer side is cut to a whole number, as torchvision's Resize does.
  const double long_side = upright ? static_cast<double>(int64_t{1} * columns * pixels.height) / pixels.width
                                   : static_cast<double>(int64_t{1} * rows * pixels.width) / pixels.height;
  const bool fits =
      long_side <= kMaxResized && static_cast<int64_t>(long_side) * (upright ? columns : rows) <= kMaxResized;
  if (!fits) throw std::invalid_argument("the image is too long for its width");
  *width = upright ? columns : static_cast<int>(long_side);
  *height = upright ? static_cast<int>(long_side) : rows;
}

}  // namespace

void Prepare(const Pixels& pixels, const Preprocess& preprocess, const Buffer& input, float* out) {
  int width = pixels.width, height = pixels.height;
  if (width != input.width || height != input.height) {
    FitAround(pixels, Round(input.width / preprocess.crop_pct), Round(input.height / preprocess.crop_pct), &width,
              &height);
  }
  const Axis columns{pixels.width, width, Round((width - input.width) / 2.0), input.width};
  const Axis rows{pixels.height, height, Round((height - input.height) / 2.0), input.height};
  const Interpolation filter = preprocess.interpolation;
  const Map map = pixels.channels == input.channels
                      ? Resize(pixels, columns, rows, filter)
                      : Resize(Convert(pixels, input.channels).pixels(), columns, rows, filter);
  for (int c = 0; c < input.channels; ++c) {
    // The same two roundings to float32 as in training: one multiply, one add.
    const float factor = static_cast<float>(1 / (255 * preprocess.std[c]));
    const float offset = static_cast<float>(-preprocess.mean[c] / preprocess.std[c]);
    const size_t positions = size_t{1} * input.height * input.width;
    for (size_t i = 0; i < positions; ++i) *out++ = map.data[i * input.channels + c] * factor + offset;
  }
}

}  // namespace bcdnet
