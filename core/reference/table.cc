// The target "SCALAR".
#include <bit>
#include <chrono>

#include "reference/reference.h"

namespace bcdnet::reference {
namespace {

/// The same bounds with one value at a time; see kernels/peak.cc.
double Peak(const std::string& kind) {
  using Clock = std::chrono::steady_clock;
  constexpr int kSteps = 1 << 22;
  volatile uint32_t seed = 12345;
  uint32_t x = seed, sum = 0;
  float acc = 0.0f;
  unsigned char table[16];
  for (int i = 0; i < 16; ++i)
    table[i] = static_cast<unsigned char>(std::popcount(static_cast<unsigned>(i) ^ (x & 15)));
  const Clock::time_point begin = Clock::now();
  double operations = 0;
  if (kind == "shuffle" || kind == "pairs") {
    for (int i = 0; i < kSteps; ++i) sum += table[(x + static_cast<uint32_t>(i)) & 15];
    operations = 4.0 * kSteps;
  } else if (kind == "popcount") {
    for (int i = 0; i < kSteps; ++i) sum += static_cast<uint32_t>(std::popcount(x ^ static_cast<uint32_t>(i)));
    operations = 32.0 * kSteps;
  } else if (kind == "fp32") {
    for (int i = 0; i < kSteps; ++i) acc = acc + 0.5f * static_cast<float>(i & 1);
    operations = kSteps;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  volatile float sink = acc + static_cast<float>(sum);
  static_cast<void>(sink);
  return operations / seconds;
}

}  // namespace

KernelTable Table() {
  return {"SCALAR",
          {PlainAlgorithm()},
          Epilogue,
          Conv2dWeightFloats,
          Conv2dPackWeights,
          Conv2d,
          Pool,
          GlobalAvgPool,
          LinearWeightFloats,
          LinearPackWeights,
          Linear,
          Peak};
}

}  // namespace bcdnet::reference
