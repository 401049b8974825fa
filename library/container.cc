#include "container.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>

#include "json.h"

static_assert(std::endian::native == std::endian::little, "files are read as they are");

namespace bcdnet {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxProgramBytes = size_t{1} << 24;
constexpr const char* kKey = "bcdnet_program";

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

struct Entry {
  std::string name;
  StoredTensor tensor;
  bool half;  // its values are float16
  size_t begin, end;
};

/// A size of at most `most`.
size_t Size(const Json& value, size_t most, const std::string& message) {
  Require(value.is_number_unsigned() && value.get<uint64_t>() <= most, message);
  return value.get<size_t>();
}

/// The bits of the float32 value that two bytes of float16 stand for.
uint32_t FromHalf(const uint8_t* bytes) {
  const uint32_t half = bytes[0] | bytes[1] << 8;
  const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 0) return sign | std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f);
  return sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
}

/// `most`: bytes of all tensors.
Entry ReadEntry(const std::string& name, const Json& value, size_t most) {
  const std::string where = "tensor '" + name + "': ";
  Require(value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
              value.contains("data_offsets"),
          where + "expected a dtype, a shape and data offsets alone");
  const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  Require(dtype == "F32" || dtype == "F16" || dtype == "U32", where + "its dtype is not F32, F16 or U32");
  Require(shape.is_array(), where + "its shape is not a list of sizes");
  Entry entry{name, {dtype == "U32", {}, nullptr, 1}, dtype == "F16", 0, 0};
  for (const Json& item : shape) {
    const size_t n = Size(item, most, where + "its shape is not a list of sizes that the file could hold");
    entry.tensor.shape.push_back(static_cast<int64_t>(n));
    Require(n == 0 || entry.tensor.size <= most / n, where + "is larger than the file");
    entry.tensor.size *= n;
  }
  Require(offsets.is_array() && offsets.size() == 2, where + "its offsets are not two sizes");
  entry.begin = Size(offsets[0], most, where + "does not begin within the file");
  entry.end = Size(offsets[1], most, where + "does not end within the file");
  const size_t width = entry.half ? 2 : 4;
  Require(entry.begin <= entry.end && (entry.end - entry.begin) / width == entry.tensor.size &&
              (entry.end - entry.begin) % width == 0,
          where + "its shape and its offsets disagree");
  return entry;
}

}  // namespace

Container ReadContainer(std::span<const uint8_t> file) {
  Require(file.size() >= 8, "the file is shorter than 8 bytes");
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  Require(length <= kMaxHeaderBytes && length <= file.size() - 8, "the file ends within its header");
  const Json header = ParseJson({reinterpret_cast<const char*>(file.data()) + 8, length}, "the file's header");
  Require(header.is_object(), "the file's header is not a JSON object");
  const std::span<const uint8_t> data = file.subspan(8 + length);

  Container container;
  std::vector<Entry> entries;
  bool found = false;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      found = value.is_object() && value.size() == 1 && value.contains(kKey) && value[kKey].is_string();
      if (found) container.program = value[kKey].get<std::string>();
    } else {
      entries.push_back(ReadEntry(name, value, data.size()));
    }
  }
  Require(found, std::string("not a packed program: its metadata must have exactly the key '") + kKey + "'");
  Require(container.program.size() <= kMaxProgramBytes, "the program is longer than 16 MiB");

  std::ranges::sort(entries, {}, [](const Entry& entry) { return std::pair(entry.begin, entry.end); });
  size_t end = 0;
  for (const Entry& entry : entries) {
    Require(entry.begin == end, "tensor '" + entry.name + "': does not begin where the one before it ends");
    end = entry.end;
  }
  Require(end == data.size(), "the file is longer or shorter than its header says");
  size_t size = 0;
  for (const Entry& entry : entries) size += entry.tensor.size;
  container.data.resize(size);  // aligned, as the file's bytes need not be
  uint32_t* to = container.data.data();
  for (Entry& entry : entries) {
    const uint8_t* from = data.data() + entry.begin;
    entry.tensor.data = to;
    if (entry.half) {
      for (; from < data.data() + entry.end; from += 2) *to++ = FromHalf(from);
    } else {
      std::copy_n(from, entry.end - entry.begin, reinterpret_cast<uint8_t*>(to));
      to += entry.tensor.size;
    }
    container.tensors.emplace(entry.name, std::move(entry.tensor));
  }
  return container;
}

}  // namespace bcdnet
