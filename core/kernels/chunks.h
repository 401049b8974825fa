// A range cut into parts of nearly equal length.
#pragma once

#include <cstdint>

namespace bcdnet {

/// [0, size) in as few parts as keep each at most `limit` long.
struct Chunks {
  int size;
  int count;
  Chunks(int size, int limit) : size(size), count((size + limit - 1) / limit) {}
  int begin(int chunk) const { return static_cast<int>(static_cast<int64_t>(size) * chunk / count); }
  int longest() const { return (size + count - 1) / count; }
};

}  // namespace bcdnet
