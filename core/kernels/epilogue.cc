// The epilogue: lanes are channels, 32 of them (one word of bits) for a few pixels at a time, so that what is written
// together lies together and a vector of parameters serves several pixels.
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/epilogue.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/highway.h"
#include "kernels/fma-inl.h"
#include "kernels/tables.h"
#include "kernels/unroll.h"
#include "kernels/windows-inl.h"

#include <algorithm>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace bcdnet {
namespace HWY_NAMESPACE {
#if BCDNET_VECTORS
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kMaxChannels = 256;  // whose parameters the first-level cache holds
// As many values at a time as half of the registers hold: the steps of one wait for each other.
inline constexpr int kTilePixels = kGroup <= 2 ? 8 : kGroup <= 4 ? 2 : 1;

struct Fill {
  float values[kChannelPad];
  explicit constexpr Fill(float value) : values() {
    for (float& v : values) v = value;
  }
};
alignas(64) constexpr Fill kMinusZeros(-0.0f);

/// kPlain: values that no step before the bits changes.
enum class Source { kPlain, kValues, kSums, kBranchSums };
constexpr bool OfSums(Source source) { return source == Source::kSums || source == Source::kBranchSums; }

template <class M>
HWY_INLINE uint32_t MaskBits(M mask) {
  uint8_t raw[8];
  hn::StoreMaskBits(DF(), mask, raw);
  if constexpr (kFloats <= 8) return raw[0];
  uint16_t both;  // one move, where putting bytes together takes six
  std::memcpy(&both, raw, sizeof(both));
  return both;
}

/// (base - 2 count) * scale. The numbers before are whole and below 2^18, so that float32 has them exactly.
HWY_INLINE VF Term(const uint16_t* count, const float* base, VF scale) {
  const DF d;
  const hn::Rebind<uint16_t, DF> d16;
  const auto n = hn::PromoteTo(DI(), hn::Load(d16, count));
#if HWY_NATIVE_FMA
  const VF dot = hn::NegMulAdd(hn::ConvertTo(d, n), hn::Set(d, 2.0f), hn::Load(d, base));
#else
  const VF dot = hn::Sub(hn::Load(d, base), hn::ConvertTo(d, hn::Add(n, n)));
#endif
  return hn::Mul(dot, scale);
}

/// The same vector. Compilers would rather read a parameter again for each of the pixels that share it.
HWY_INLINE VF InRegister(VF v) {
#if HWY_TARGET == HWY_AVX2 && !HWY_COMPILER_MSVC
  asm("" : "+x"(v.raw));
#endif
  return v;
}

/// The words of P pixels from `pixel` on.
template <int P>
HWY_INLINE void WriteBits(const EpilogueArgs& a, size_t pixel, size_t channel, const VF (&value)[P][kGroup]) {
  const DF d;
  const int left = a.out_c - static_cast<int>(channel);  // bits that are real channels
  if (left <= 0) return;
  const uint32_t valid = left >= kChannelPad ? ~0u : (1u << left) - 1;
  for (int b = 0; b < a.bits_count; ++b) {
    const BitsTarget bits = a.bits[b];
    const float* bias = bits.bias != nullptr ? bits.bias + channel : kMinusZeros.values;
    const float* alpha = bits.alpha != nullptr ? bits.alpha + channel : nullptr;
    const size_t line = a.word_stride;
    uint32_t* words = bits.words + pixel * line + channel / kChannelPad;
    for (int p = 0; p < P; ++p) {
      uint32_t word = 0;
      for (int k = 0; k < kGroup; ++k) {
        VF v = hn::Add(value[p][k], hn::Load(d, bias + k * kFloats));
        if (alpha != nullptr) v = hn::Sub(v, hn::Load(d, alpha + k * kFloats));
        word |= MaskBits(hn::Ge(v, hn::Zero(d))) << (k * kFloats);
      }
      words[p * line] = word & valid;
    }
  }
}

/// The channels from `begin` to `end` of P pixels from number `i` of `pixels` on: 32 at a time, whose steps alternate.
/// What is the same for all of them is found before, so that little but arithmetic is left for each.
/// kMeans: whether there may be means to add to.
template <int P, Source kSource, From kFrom, bool kActivation, bool kMeans>
HWY_INLINE void Tile(const EpilogueArgs& a, const Pixels& pixels, int i, size_t begin, size_t end) {
  constexpr bool kOfSums = OfSums(kSource);
  constexpr bool kModulo = kFrom == From::kScattered || kFrom == From::kPoolScattered;  // as it is read
  const DF d;
  const size_t pixel = static_cast<size_t>(pixels.begin) + i;
  const size_t first = (pixel - a.pixel_begin) * a.value_stride - a.channel_begin, line = a.value_stride;
  const uint32_t* border = kOfSums ? a.border + pixel : nullptr;
  const float* base[P];
  if constexpr (kOfSums) {
    for (int p = 0; p < P; ++p) base[p] = static_cast<const float*>(a.base[0]) + border[p];
  }
  const float* from = a.shortcut + pixel * a.shortcut_stride;
  float* map = a.map == nullptr ? nullptr : a.map + pixel * a.map_stride;
  const size_t from_line = a.shortcut_stride, map_line = a.map_stride;
  const float* parameters = a.parameters + ParameterIndex(0, static_cast<int>(begin));
  size_t column = a.shortcut_duplicate && !kModulo ? begin % a.shortcut_channels : begin;  // of the shortcut
  for (size_t channel = begin; channel < end; channel += kChannelPad, parameters += kParameters * kChannelPad) {
    VF value[P][kGroup];
    const auto each = [&](auto step) HWY_ATTR {
      BCDNET_UNROLL
      for (int k = 0; k < kGroup; ++k) {
        BCDNET_UNROLL
        for (int p = 0; p < P; ++p) step(value[p][k], p, k * kFloats);
      }
    };
    const auto parameter = [&](int which, int c)
                               HWY_ATTR { return InRegister(hn::Load(d, parameters + which * kChannelPad + c)); };
    if constexpr (!kOfSums) {
      const float* values = a.values + (first + channel);
      each([&](VF& v, int p, int c) HWY_ATTR {
        v = hn::Load(d, values + p * line + c);
        if constexpr (kSource == Source::kValues) v = hn::Add(v, parameter(kConvBias, c));
      });
    } else {
      const uint16_t* counts = static_cast<const uint16_t*>(a.counts[0]) + (first + channel);
      each([&](VF& v, int p, int c) HWY_ATTR {
        v = Term(counts + p * line + c, base[p] + channel + c, parameter(kScale, c));
      });
      for (int b = 1; kSource == Source::kBranchSums && b < a.branches; ++b) {
        counts = static_cast<const uint16_t*>(a.counts[b]) + (first + channel);
        const float* bases = static_cast<const float*>(a.base[b]) + channel;
        each([&](VF& v, int p, int c) HWY_ATTR {
          v = hn::Add(v, Term(counts + p * line + c, bases + border[p] + c, parameter(kScale + b, c)));
        });
      }
    }
    if constexpr (kSource != Source::kPlain) {
      if (a.gain != nullptr) {
        each([&](VF& v, int, int c) HWY_ATTR { v = hn::Mul(v, hn::Load(d, a.gain + channel + c)); });
      }
      if (a.beta != nullptr) {
        each([&](VF& v, int, int c) HWY_ATTR { v = hn::Add(v, hn::Load(d, a.beta + channel + c)); });
      }
      const float* shortcut = kFrom == From::kSame ? from + column : nullptr;
      each([&](VF& v, int p, int c) HWY_ATTR {
        v = Fma(d, v, parameter(kMul, c), parameter(kAdd, c));
        if constexpr (kFrom == From::kSame) v = hn::Add(v, hn::LoadU(d, shortcut + p * from_line + c));
        if constexpr (kFrom == From::kScattered)
          v = hn::Add(v, LoadModulo(from + p * from_line, static_cast<int>(column) + c, a.shortcut_channels));
        if constexpr (kFrom == From::kPool)
          v = hn::Add(v, Mean<kFrom>(a, pixels.window[i + p], true, true, column + c));
        if constexpr (kFrom == From::kPoolScattered) {
          v = hn::Add(v, Mean<kFrom>(a, pixels.window[i + p], pixels.right[i + p], pixels.below[i + p], column + c));
        }
        if constexpr (kActivation) {
          v = hn::Add(v, parameter(kBiasIn, c));
          v = hn::IfThenElse(hn::Gt(v, hn::Zero(d)), v, hn::Mul(v, parameter(kSlope, c)));
          v = hn::Add(v, parameter(kBiasOut, c));
        }
      });
    }
    if (map != nullptr) {
      each([&](VF& v, int p, int c) HWY_ATTR { hn::Store(v, d, map + p * map_line + channel + c); });
    }
    if (kMeans && a.means != nullptr) AddToMeans<P>(pixels, i, channel, value);
    WriteBits<P>(a, pixel, channel, value);
    column += kChannelPad;
    if (!kModulo && a.shortcut_duplicate && column >= static_cast<size_t>(a.shortcut_channels))
      column -= a.shortcut_channels;
  }
}

/// Pixel by pixel, channels within: those of a pixel lie together in every map. Returns the first pixel left over.
template <int P, Source kSource, From kFrom, bool kActivation, bool kMeans>
HWY_INLINE int Tiles(const EpilogueArgs& a, const Pixels& pixels, int i, size_t begin, size_t end) {
  for (; i + P <= pixels.count; i += P) Tile<P, kSource, kFrom, kActivation, kMeans>(a, pixels, i, begin, end);
  return i;
}

template <Source kSource, From kFrom, bool kActivation, bool kMeans>
void Rows(const EpilogueArgs& args, const Pixels& pixels) {
  const EpilogueArgs a = args;  // of its own, so that no store of words can change it
  const size_t all = a.channel_end;
  for (size_t begin = a.channel_begin; begin < all; begin += kMaxChannels) {
    const size_t end = std::min(begin + kMaxChannels, all);
    const int rest = Tiles<kTilePixels, kSource, kFrom, kActivation, kMeans>(a, pixels, 0, begin, end);
    if constexpr (kTilePixels > 1) Tiles<1, kSource, kFrom, kActivation, kMeans>(a, pixels, rest, begin, end);
  }
}

/// Shortcuts that are slow to read keep an activation that changes nothing, and ask for means: their code twice would
/// gain them little.
template <Source kSource, bool kActivation, bool kMeans>
void RowsFrom(const EpilogueArgs& a, const Pixels& pixels) {
  constexpr bool kMaybe = OfSums(kSource);
  const bool scattered = a.shortcut_duplicate && a.shortcut_channels % kChannelPad != 0;
  if (a.shortcut == nullptr) {
    Rows<kSource, From::kNone, kActivation, kMeans>(a, pixels);
  } else if (a.shortcut_avg_pool) {
    const bool whole = a.shortcut_h % 2 == 0 && a.shortcut_w % 2 == 0;
    whole && !scattered ? Rows<kSource, From::kPool, true, kMaybe>(a, pixels)
                        : Rows<kSource, From::kPoolScattered, true, kMaybe>(a, pixels);
  } else if (scattered) {
    Rows<kSource, From::kScattered, true, kMaybe>(a, pixels);
  } else {
    Rows<kSource, From::kSame, kActivation, kMeans>(a, pixels);
  }
}

void Epilogue(const EpilogueArgs& a) {
  // The plain algorithm's sums of 32 bits, which few layers have.
  if (a.values == nullptr && a.sum_bytes != sizeof(uint16_t)) return reference::Epilogue(a);
  const bool changed = a.affine || a.activation || a.gain != nullptr || a.beta != nullptr || a.shortcut != nullptr;
  const bool plain = a.values != nullptr && !changed;
  for (int begin = a.pixel_begin; begin < a.pixel_end; begin += kMaxPixels) {
    const Pixels pixels(a, begin, std::min(begin + kMaxPixels, a.pixel_end));
    if (plain) {
      Rows<Source::kPlain, From::kNone, false, false>(a, pixels);
    } else if (a.values != nullptr) {
      RowsFrom<Source::kValues, true, false>(a, pixels);
    } else if (a.branches > 1) {
      RowsFrom<Source::kBranchSums, true, true>(a, pixels);
    } else if (a.means != nullptr) {
      RowsFrom<Source::kSums, true, true>(a, pixels);
    } else if (a.activation) {
      RowsFrom<Source::kSums, true, false>(a, pixels);
    } else {
      RowsFrom<Source::kSums, false, false>(a, pixels);
    }
  }
}

void AddEpilogue(KernelTable& table) { table.epilogue = Epilogue; }

#endif  // BCDNET_VECTORS
}  // namespace HWY_NAMESPACE
}  // namespace bcdnet
HWY_AFTER_NAMESPACE();
