// A .bcdn file as a program for the core, and what it says to people.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bcdnet/program.h"
#include "container.h"

namespace bcdnet {

enum class Interpolation { kNearest, kBilinear, kBicubic, kLanczos };

/// How an image becomes the network's input.
struct Preprocess {
  std::vector<double> mean, std;  // one value per channel, for pixels in [0, 1]
  Interpolation interpolation;
  double crop_pct;
};

struct PackedFile {
  Container container;  // owns what the program's tensors point to
  Program program;
  std::vector<std::string> output_names;
  std::vector<std::string> labels;  // none, or one for each value of the first output
  std::optional<Preprocess> preprocess;
};

/// Checks every rule of docs/format.md but those that the core checks for all its callers (core/runtime/validate.cc).
/// Throws std::invalid_argument that names the place.
PackedFile ReadPackedFile(std::span<const uint8_t> file);

}  // namespace bcdnet
