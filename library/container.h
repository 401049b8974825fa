// The container of a .bcdn file: safetensors with one text in its metadata.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace bcdnet {

struct StoredTensor {
  bool words;  // uint32, else float32
  std::vector<int64_t> shape;
  const uint32_t* data;
  size_t size;  // elements
};

/// The names and the text are as the file has them; nothing of them is checked here.
struct Container {
  std::string program;
  std::map<std::string, StoredTensor> tensors;
  std::vector<uint32_t> data;  // what the tensors point to
};

/// Throws std::invalid_argument that says what is wrong with the file.
Container ReadContainer(std::span<const uint8_t> file);

}  // namespace bcdnet
