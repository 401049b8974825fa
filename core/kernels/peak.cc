// Loops bound by one thing each: the roofs that measured kernels are compared with. All operands stay in registers.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/peak.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/fma-inl.h"
#include "kernels/tables.h"

#include <algorithm>
#include <chrono>

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int kChains = 10;  // independent sums, enough to hide the latency of each loop's instructions
inline constexpr int kSteps = 20000;
inline constexpr int kRounds = 50;  // the quickest counts: another process may have had the core meanwhile

/// Each sum is the table of its next look-up, so that no compiler can take the loop apart.
struct Shuffle {
  using D = hn::ScalableTag<uint8_t>;
  static constexpr double kOperations = 4.0 * HWY_LANES(uint8_t);
  static HWY_INLINE hn::Vec<D> Step(hn::Vec<D> sum, hn::Vec<D> operand) { return hn::Add(hn::TableLookupBytes(sum, operand), operand); }
};

struct Popcount {
  using D = hn::ScalableTag<uint8_t>;
  static constexpr double kOperations = 8.0 * HWY_LANES(uint8_t);
  static HWY_INLINE hn::Vec<D> Step(hn::Vec<D> sum, hn::Vec<D> operand) { return hn::Add(sum, hn::PopulationCount(hn::Xor(sum, operand))); }
};

struct Fp32 {
  using D = hn::ScalableTag<float>;
  static constexpr double kOperations = HWY_LANES(float);
  static HWY_INLINE hn::Vec<D> Step(hn::Vec<D> sum, hn::Vec<D> operand) { return Fma(D(), sum, operand, operand); }
};

/// `seed` keeps the operand unknown to the compiler; it is 0 or 1 at run time.
template <class Kind>
HWY_NOINLINE double Rate(int seed) {
  using Clock = std::chrono::steady_clock;
  const typename Kind::D d;
  const auto operand = hn::Set(d, static_cast<hn::TFromD<typename Kind::D>>(seed));
  hn::Vec<typename Kind::D> sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = hn::Iota(d, static_cast<hn::TFromD<typename Kind::D>>(c));
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < kSteps; ++i) {
      for (int c = 0; c < kChains; ++c) sum[c] = Kind::Step(sum[c], operand);
    }
    best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  for (int c = 1; c < kChains; ++c) sum[0] = hn::Add(sum[0], sum[c]);
  volatile double sink = static_cast<double>(hn::GetLane(sum[0]));
  static_cast<void>(sink);
  return Kind::kOperations * kChains * kSteps / best;
}

double Peak(const std::string& kind) {
  volatile int seed = 1;
  if (kind == "shuffle") return Rate<Shuffle>(seed);
  if (kind == "popcount") return Rate<Popcount>(seed);
  return kind == "fp32" ? Rate<Fp32>(seed) : 0.0;
}

void AddPeak(KernelTable& table) { table.peak = Peak; }

#endif
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
