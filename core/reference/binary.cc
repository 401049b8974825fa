// Binary convolution, word by word: the weights stay as the file has them, the index is the zero-padded input.
#include <algorithm>
#include <bit>
#include <cstring>

#include "reference/reference.h"

namespace bcdnet::reference {
namespace {

bool Supports(const ConvShape&) { return true; }
int BlockChannels(const ConvShape&) { return 32; }

size_t WeightBytes(const ConvShape& s) {
  return static_cast<size_t>(s.out_c) * s.k_h * s.k_w * s.words() * sizeof(uint32_t);
}

void PackWeights(const ConvShape& s, const uint32_t* weights, std::byte* packed) {
  std::memcpy(packed, weights, WeightBytes(s));
}

uint64_t IndexBytes(const ConvShape& s) {
  return static_cast<uint64_t>(s.padded_h()) * s.padded_w() * s.words() * sizeof(uint32_t);
}

void Expand(const ConvShape& s, const uint32_t* bits, std::byte* index, int row_begin, int row_end) {
  const int words = s.words();
  uint32_t* out = reinterpret_cast<uint32_t*>(index);
  for (int py = row_begin; py < row_end; ++py) {
    for (int px = 0; px < s.padded_w(); ++px) {
      const int y = py - s.pad_h, x = px - s.pad_w;
      const bool inside = y >= 0 && y < s.in_h && x >= 0 && x < s.in_w;
      for (int word = 0; word < words; ++word) {
        out[(static_cast<size_t>(py) * s.padded_w() + px) * words + word] =
            inside ? bits[(static_cast<size_t>(y) * s.in_w + x) * words + word] : 0;
      }
    }
  }
}

void Accumulate(const ConvShape& s, const std::byte* packed, const std::byte* index, int block, int pixel_begin,
                int pixel_end, void* sums) {
  const uint32_t* weights = reinterpret_cast<const uint32_t*>(packed);
  const uint32_t* input = reinterpret_cast<const uint32_t*>(index);
  const int words = s.words(), first = block * 32, last = std::min(first + 32, s.out_c);
  for (int pixel = pixel_begin; pixel < pixel_end; ++pixel) {
    const int oy = pixel / s.out_w, ox = pixel % s.out_w;
    for (int o = first; o < last; ++o) {
      int32_t sum = 0;
      for (int ky = 0; ky < s.k_h; ++ky) {
        const int y = oy * s.stride_h + ky - s.pad_h;
        if (y < 0 || y >= s.in_h) continue;
        for (int kx = 0; kx < s.k_w; ++kx) {
          const size_t place = static_cast<size_t>(oy * s.stride_h + ky) * s.padded_w() + ox * s.stride_w + kx;
          for (int word = 0; word < words; ++word) {
            const size_t at = ((static_cast<size_t>(o) * s.k_h + ky) * s.k_w + kx) * words + word;
            sum += std::popcount(input[place * words + word] ^ weights[at]);
          }
        }
      }
      static_cast<int32_t*>(sums)[static_cast<size_t>(pixel - pixel_begin) * 32 + o - first] = sum;
    }
  }
}

}  // namespace

BinaryAlgorithm PlainAlgorithm() {
  return {"plain", Supports, BlockChannels, WeightBytes, PackWeights, IndexBytes, Expand, sizeof(int32_t), Accumulate};
}

}  // namespace bcdnet::reference
