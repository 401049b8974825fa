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

#include <algorithm>
#include <chrono>

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS && HWY_TARGET != HWY_WASM
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int kChains = 10;  // independent sums, enough to hide the latency of each loop's instructions
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
  // Not an array: compilers keep one in memory.
  auto s0 = hn::Iota(d, T{0}), s1 = hn::Iota(d, T{1}), s2 = hn::Iota(d, T{2}), s3 = hn::Iota(d, T{3}),
       s4 = hn::Iota(d, T{4});
  auto s5 = hn::Iota(d, T{5}), s6 = hn::Iota(d, T{6}), s7 = hn::Iota(d, T{7}), s8 = hn::Iota(d, T{8}),
       s9 = hn::Iota(d, T{9});
  for (int i = 0; i < kSteps; ++i) {
    s0 = Kind::Step(s0, operand);
    s1 = Kind::Step(s1, operand);
    s2 = Kind::Step(s2, operand);
    s3 = Kind::Step(s3, operand);
    s4 = Kind::Step(s4, operand);
    s5 = Kind::Step(s5, operand);
    s6 = Kind::Step(s6, operand);
    s7 = Kind::Step(s7, operand);
    s8 = Kind::Step(s8, operand);
    s9 = Kind::Step(s9, operand);
  }
  const auto low = hn::Add(hn::Add(s0, s1), hn::Add(hn::Add(s2, s3), s4)),
             high = hn::Add(hn::Add(s5, s6), hn::Add(hn::Add(s7, s8), s9));
  return static_cast<int>(hn::GetLane(hn::Add(low, high)));
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
