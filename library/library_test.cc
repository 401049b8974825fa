// The C library on whatever processor it was built for: one shipped network, and the bits that Python gets from it.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "bcdnet.h"

namespace {

/// FNV-1a of the values' bytes.
uint64_t Hash(const std::vector<float>& values) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const float value : values) {
    uint8_t bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001B3;
  }
  return hash;
}

int failures = 0;

void Check(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s (%s)\n", what, bcdnet_error());
  ++failures;
}

}  // namespace

/// The argument is a packed network of 3 x 32 x 32 and 10 classes: reactnet_r18_cifar10.
int main(int argc, char** argv) {
  if (argc != 2) return 2;
  constexpr int kWidth = 50, kHeight = 71;
  std::vector<uint8_t> pixels;
  for (uint32_t i = 0; i < 3 * kWidth * kHeight; ++i) pixels.push_back(static_cast<uint8_t>((i * i * 7 + i * 13) >> 5));

  bcdnet_model* model = bcdnet_open(argv[1], 2);
  Check(model != nullptr, "the network is read");
  if (model == nullptr) return 1;
  std::vector<float> image(3 * 32 * 32), logits(10), probabilities(10);
  Check(bcdnet_prepare(model, pixels.data(), kWidth, kHeight, 3, 0, image.data()) == 0, "the image is prepared");
  Check(Hash(image) == 0xF09361AB3A822F1C, "the prepared image");
  float* outputs[] = {logits.data()};
  Check(bcdnet_run(model, image.data(), 1, outputs) == 0, "the network runs");
  Check(Hash(logits) == 0xEA1B87387D0BD7B7, "the logits");
  Check(bcdnet_classify(model, pixels.data(), kWidth, kHeight, 3, 0, probabilities.data()) == 0, "it classifies");
  Check(bcdnet_label(model, 9) == std::string("truck"), "the last label");
  Check(bcdnet_prepare(model, pixels.data(), kWidth, kHeight, 3, 1, image.data()) != 0, "a short stride is refused");
  Check(bcdnet_read(pixels.data(), pixels.size(), 1) == nullptr, "what is no file is refused");
  std::printf("%s: %d failures\n", bcdnet_target(model), failures);
  bcdnet_close(model);
  return failures > 0;
}
