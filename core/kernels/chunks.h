// A range cut into parts of nearly equal length.
#pragma once

#include <algorithm>
#include <cstdint>

namespace bcdnet {

/// [0, size) in as few parts as keep each at most `limit` long; all but the last end at a multiple of `unit`, which
/// divides `limit`.
struct Chunks {
  int size;
  int count;
  int unit;
  Chunks(int size, int limit, int unit = 1) : size(size), count((size + limit - 1) / limit), unit(unit) {}
  int begin(int chunk) const {
    const int64_t units = (size + unit - 1) / unit;
    return std::min(size, static_cast<int>(units * chunk / count * unit));
  }
  int longest() const { return ((size + unit - 1) / unit + count - 1) / count * unit; }
};

}  // namespace bcdnet
