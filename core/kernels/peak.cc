// Loops bound by one thing each: the roofs that measured kernels are compared with. All operands stay in registers
// or, of tiles, in the first-level cache.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/peak.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/binary_bytes-inl.h"
#include "kernels/fma-inl.h"
#include "kernels/tables.h"
#include "kernels/unroll.h"

#include <algorithm>
#include <chrono>

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS && HWY_TARGET != HWY_WASM
namespace hn = hwy::HWY_NAMESPACE;

// Independent sums in two rows, enough to hide the latency of each loop's instructions, few enough for the registers.
inline constexpr int kRow = HWY_LANES(uint8_t) == 64 ? 8 : 5, kChains = 2 * kRow;
inline constexpr int kSteps = 20000;
inline constexpr int kRounds = 50;  // the quickest counts: another process may have had the core meanwhile

/// Each sum is the table of its next look-up, so that no compiler can take the loop apart.
struct Shuffle {
  using D = hn::ScalableTag<uint8_t>;
  static constexpr double kOperations = 4.0 * HWY_LANES(uint8_t);
  static HWY_INLINE hn::Vec<D> Step(hn::Vec<D> sum, hn::Vec<D> operand) {
    return hn::Add(hn::TableLookupBytes(sum, operand), operand);
  }
};

struct Popcount {
  using D = hn::ScalableTag<uint8_t>;
  static constexpr double kOperations = 8.0 * HWY_LANES(uint8_t);
  static HWY_INLINE hn::Vec<D> Step(hn::Vec<D> sum, hn::Vec<D> operand) {
    return hn::Add(sum, hn::PopulationCount(hn::Xor(sum, operand)));
  }
};

struct Fp32 {
  using D = hn::ScalableTag<float>;
  static constexpr double kOperations = HWY_LANES(float);
  static HWY_INLINE hn::Vec<D> Step(hn::Vec<D> sum, hn::Vec<D> operand) { return Fma(D(), sum, operand, operand); }
};

template <class Kind>
HWY_NOINLINE int Burst(int seed) {
  const typename Kind::D d;
  using T = hn::TFromD<typename Kind::D>;
  const auto operand = hn::Set(d, static_cast<T>(seed));
  hn::Vec<typename Kind::D> sums[2][kRow];
  const auto each = [&](auto step) HWY_ATTR {
    BCDNET_UNROLL
    for (int row = 0; row < 2; ++row) {
      BCDNET_UNROLL
      for (int i = 0; i < kRow; ++i) step(sums[row][i], row * kRow + i);
    }
  };
  each([&](auto& sum, int i) HWY_ATTR { sum = hn::Iota(d, static_cast<T>(i)); });
  for (int i = 0; i < kSteps; ++i) each([&](auto& sum, int) HWY_ATTR { sum = Kind::Step(sum, operand); });
  auto total = hn::Zero(d);
  each([&](auto& sum, int) HWY_ATTR { total = hn::Add(total, sum); });
  return static_cast<int>(hn::GetLane(total));
}

/// The tile for two pixels itself on data in the first-level cache: what its instructions allow.
inline constexpr int kTileSteps = InPairs::kMaxSteps, kTiles = 300;

HWY_NOINLINE void OneTile(const PairOffsets* offsets, const TileArgs& tile) {
  PairsTile<2, kBlockVectors>(offsets, tile);
}

HWY_NOINLINE int PairsBurst(int seed) {
  HWY_ALIGN uint8_t weights[kTileSteps * kBlockVectors * kBytes];
  HWY_ALIGN uint16_t sums[2 * kBlockVectors * kBytes];
  uint8_t pixels[2][kMaxNibbles + kBytes];
  for (uint8_t& w : weights) w = static_cast<uint8_t>((seed += 7) & 15);
  for (auto& pixel : pixels) {
    for (uint8_t& step : pixel) step = static_cast<uint8_t>((seed += 5) * 16);
  }
  PairOffsets offsets;
  offsets.Set(pixels[0], pixels[1], kTileSteps);
  const uint8_t* a[] = {pixels[0], pixels[1]};
  for (int i = 0; i < kTiles; ++i) OneTile(&offsets, {a, weights, kTileSteps, i == 0, sums});
  return sums[seed % 4];
}

/// Operations per second of bursts of so many.
double Rate(int (*burst)(int), double operations) {
  using Clock = std::chrono::steady_clock;
  volatile int seed = 1, sink = 0;  // the operand stays unknown to the compiler, and the result in use
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const Clock::time_point begin = Clock::now();
    sink = burst(seed);
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  static_cast<void>(sink);
  return operations / best;
}

template <class Kind>
double ChainsRate() {
  return Rate(Burst<Kind>, Kind::kOperations * kChains * kSteps);
}

double Peak(const std::string& kind) {
  if (kind == "shuffle") return ChainsRate<Shuffle>();
  if (kind == "pairs") return Rate(PairsBurst, 2 * 4.0 * kBlockVectors * kBytes * kTileSteps * kTiles);
  if (kind == "popcount") return ChainsRate<Popcount>();
  return kind == "fp32" ? ChainsRate<Fp32>() : 0.0;
}

void AddPeak(KernelTable& table) { table.peak = Peak; }

#elif HWY_TARGET == HWY_WASM

/// A page has no use for the roofs of its visitor's machine.
void AddPeak(KernelTable&) {}

#endif
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
