// From the pixels of an image to a network's input, bit by bit as bcdnet.runtime.preprocess does it with Pillow.
#pragma once

#include <cstddef>
#include <cstdint>

#include "packed_file.h"

namespace bcdnet {

/// Rows of pixels of 1 (grey), 3 (RGB) or 4 (RGB and one that is ignored) bytes; rows begin `stride` bytes apart.
struct Pixels {
  const uint8_t* data;
  int width, height, channels;
  size_t stride;
};

/// Resizes, crops and normalises to `out`, float [C][H][W] of the shape of `input`. Throws std::invalid_argument for an
/// image that would become larger than 2^26 pixels.
void Prepare(const Pixels& pixels, const Preprocess& preprocess, const Buffer& input, float* out);

}  // namespace bcdnet
