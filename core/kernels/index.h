// How the kernels walk over the zero-padded input, in one place for all algorithms.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace bcdnet {

/// kDisagreements[16 a + w] = popcount(a xor w).
inline constexpr auto MakeDisagreements() {
  std::array<uint8_t, 256> table{};
  for (unsigned i = 0; i < 256; ++i) table[i] = static_cast<uint8_t>(std::popcount((i / 16) ^ (i % 16)));
  return table;
}
alignas(64) inline constexpr std::array<uint8_t, 256> kDisagreementTable = MakeDisagreements();
inline constexpr const uint8_t* kDisagreements = kDisagreementTable.data();

/// kPairDisagreements[256 b + 16 a + w] = popcount(a xor w) + 16 popcount(b xor w).
inline constexpr auto MakePairDisagreements() {
  std::array<uint8_t, 4096> table{};
  for (unsigned i = 0; i < 4096; ++i) {
    table[i] = static_cast<uint8_t>(std::popcount((i / 16 % 16) ^ (i % 16)) + 16 * std::popcount((i / 256) ^ (i % 16)));
  }
  return table;
}
alignas(64) inline constexpr std::array<uint8_t, 4096> kPairDisagreementTable = MakePairDisagreements();
inline constexpr const uint8_t* kPairDisagreements = kPairDisagreementTable.data();

constexpr int RoundUpTo(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

/// Fills rows [row_begin, row_end) of the padded index, `pixel` elements per pixel: zeros around the map, and inside it
/// what fill(y, to) writes for the whole row y of the map.
template <class T, class F>
void ExpandRows(const ConvShape& s, T* index, size_t pixel, int row_begin, int row_end, const F& fill) {
  const size_t row = pixel * s.padded_w(), margin = pixel * s.pad_w;
  for (int py = row_begin; py < row_end; ++py) {
    T* to = index + static_cast<size_t>(py) * row;
    const int y = py - s.pad_h;
    if (y < 0 || y >= s.in_h) {
      std::memset(to, 0, row * sizeof(T));
      continue;
    }
    std::memset(to, 0, margin * sizeof(T));
    fill(y, to + margin);
    std::memset(to + row - margin, 0, margin * sizeof(T));
  }
}

/// The output rows whose row `ky` of taps lies inside the map.
struct RowsOfTap {
  int begin, end;
  RowsOfTap(const ConvShape& s, int ky) : begin(From(s, s.pad_h - ky)), end(From(s, s.in_h + s.pad_h - ky)) {}

 private:
  /// The first row whose window starts at `row` of the padded map or below it.
  static int From(const ConvShape& s, int row) { return std::clamp((row + s.stride_h - 1) / s.stride_h, 0, s.out_h); }
};

/// First padded pixel of the window of consecutive output pixels.
class PixelWalk {
 public:
  PixelWalk(const ConvShape& s, int pixel)
      : out_w_(s.out_w),
        step_(s.stride_w),
        line_(static_cast<size_t>(s.stride_h) * s.padded_w()),
        x_(pixel % s.out_w),
        start_(pixel / s.out_w * line_) {}

  size_t Next() {
    const size_t place = start_ + static_cast<size_t>(x_) * step_;
    if (++x_ == out_w_) {
      x_ = 0;
      start_ += line_;
    }
    return place;
  }

 private:
  int out_w_, step_;
  size_t line_;
  int x_;
  size_t start_;
};

}  // namespace bcdnet
