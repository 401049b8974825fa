// What every instruction set provides: one table of functions. core/reference has each of them as plain loops.
//
// Storage. Channels of maps and vectors are padded to a multiple of kChannelPad floats (`padded`), so that no kernel
// has a tail; what the padding lanes hold is never read into a real lane. Parameters [O] are padded with zeros
// likewise. Bits are packed 32 channels to a word and their padding bits are always 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bcdnet {

inline constexpr int kChannelPad = 32;
constexpr int PadChannels(int channels) { return (channels + kChannelPad - 1) / kChannelPad * kChannelPad; }
constexpr int BitWords(int channels) { return (channels + 31) / 32; }

/// Sizes of a convolution without groups.
struct ConvShape {
  int in_h, in_w, in_c;
  int out_h, out_w, out_c;
  int k_h, k_w;
  int stride_h, stride_w;
  int pad_h, pad_w;

  int words() const { return BitWords(in_c); }
  int padded_h() const { return in_h + 2 * pad_h; }
  int padded_w() const { return in_w + 2 * pad_w; }
  int pixels() const { return out_h * out_w; }
  int64_t inputs() const { return static_cast<int64_t>(k_h) * k_w * in_c; }
};

/// One way to count disagreeing bits: sums[pixel][channel] = popcount(a xor w) over the rows of taps that lie inside the
/// map, whose taps left and right of it read zero bits. The caller corrects these (see BorderBases in
/// runtime/binary_step.cc), which keeps borders out of the inner loops.
struct BinaryAlgorithm {
  const char* name;
  bool (*supports)(const ConvShape&);
  /// Output channels per call of `accumulate`, a multiple of 32; the last block of a layer may be smaller.
  int (*block_channels)(const ConvShape&);
  size_t (*weight_bytes)(const ConvShape&);
  void (*pack_weights)(const ConvShape&, const uint32_t* weights, std::byte* packed);  // weights [O][kh][kw][words]
  /// The input re-laid for this kernel, with zeros around it: `expand` fills rows [row_begin, row_end) of padded_h().
  uint64_t (*index_bytes)(const ConvShape&);
  void (*expand)(const ConvShape&, const uint32_t* bits, std::byte* index, int row_begin, int row_end);
  /// Bytes of a sum: 2 (uint16_t) or 4 (int32_t).
  int sum_bytes;
  /// Pixels [pixel_begin, pixel_end) in row-major order; sums [pixel_end - pixel_begin][block_channels].
  void (*accumulate)(const ConvShape&, const std::byte* packed, const std::byte* index, int block, int pixel_begin,
                     int pixel_end, void* sums);
};

inline constexpr int kMaxBranches = 3;
inline constexpr int kMaxBits = 16;

struct BitsTarget {
  uint32_t* words;     // [pixel of the whole map][word_stride]
  const float* bias;   // [padded O] or null
  const float* alpha;  // [padded O] or null
};

/// Per-channel constants of an epilogue, in groups of 32 channels: [padded O / 32][kParameters][32]. What a layer does
/// not have is a constant that changes nothing, exactly: x + (-0) = x for every x (also for both zeros), x * 1 = x, and
/// fma(x, m, -0) = x * m, fma(x, 1, a) = x + a.
enum Parameter {
  kScale,  // one for each branch
  kConvBias = kMaxBranches,
  kMul,
  kAdd,
  kBiasIn,
  kSlope,
  kBiasOut,
  kParameters
};
constexpr float NeutralParameter(int parameter) {
  return parameter < kMaxBranches || parameter == kMul || parameter == kSlope ? 1.0f : -0.0f;
}
constexpr size_t ParameterIndex(int parameter, int channel) {
  return (static_cast<size_t>(channel / kChannelPad) * kParameters + parameter) * kChannelPad + channel % kChannelPad;
}

/// Everything after the sums, in the order of docs/format.md, for some pixels and a range of channels. Null = absent.
struct EpilogueArgs {
  int pixel_begin, pixel_end;      // in the output map, row-major
  int channel_begin, channel_end;  // multiples of 32
  int out_w;
  int out_c;  // real channels of the output

  // Source: either float values, or for each branch the disagreement counts; both [pixel - pixel_begin][value_stride],
  // column 0 being channel_begin. v = sum over branches of float(base - 2 * count) * scale, in branch order.
  const float* values;
  int branches;
  int sum_bytes;
  const void* counts[kMaxBranches];
  const void* base[kMaxBranches];  // [border classes][padded O]; float for sums of 16 bits, else int32_t
  const uint32_t* border;             // [pixel of the whole map]: where the row of its class starts in base
  int value_stride;

  const float* parameters;
  bool affine;        // whether kConvBias, kMul and kAdd change anything
  bool activation;    // whether kBiasIn, kSlope and kBiasOut change anything
  const float* gain;  // [padded O], of this image
  const float* beta;  // likewise

  const float* shortcut;  // map [shortcut_h][shortcut_w][shortcut_stride]
  int shortcut_h, shortcut_w, shortcut_stride;
  int shortcut_channels;  // real channels of that map
  bool shortcut_duplicate, shortcut_avg_pool;

  float* map;  // [pixel of the whole map][map_stride]
  // The means of its windows of 2 x 2, [out_h / 2][out_w / 2][map_stride], which calls add up: an even row's pixels come
  // before those of the row below, in calls whose ranges begin and end at even pixels. Only for sums.
  float* means;
  int map_stride;
  int bits_count;
  int word_stride;
  BitsTarget bits[kMaxBits];
};

struct PoolArgs {
  const float* input;  // [in_h][in_w][stride]
  float* output;       // [out_h][out_w][stride]
  int in_h, in_w, out_h, out_w, stride;
  int k_h, k_w, stride_h, stride_w, pad_h, pad_w;
  bool maximum, count_include_pad;
};

/// Real-valued convolution. Input element (y, x, c) lies at y*in_row + x*in_column + c*in_channel.
struct Conv2dArgs {
  ConvShape shape;  // in_c and out_c of the whole layer
  int groups;
  const float* input;
  int64_t in_row, in_column, in_channel;
  const float* weight;  // as pack_weights left it
};

struct KernelTable {
  std::string target;
  std::vector<BinaryAlgorithm> algorithms;  // the fastest first (docs/kernels.md); the last supports every shape

  void (*epilogue)(const EpilogueArgs&);

  size_t (*conv2d_weight_floats)(const ConvShape&, int groups);
  void (*conv2d_pack_weights)(const ConvShape&, int groups, const float* weight, float* packed);
  /// Output channels [channel_begin, channel_end), multiples of 32, into values [pixel - pixel_begin][value_stride].
  void (*conv2d)(const Conv2dArgs&, int channel_begin, int channel_end, int pixel_begin, int pixel_end, float* values,
                 int value_stride);

  void (*pool)(const PoolArgs&, int row_begin, int row_end);
  /// input [pixels][stride]; channels [channel_begin, channel_end), multiples of 32.
  void (*global_avg_pool)(const float* input, int pixels, int stride, int channel_begin, int channel_end, float* out);

  size_t (*linear_weight_floats)(int inputs, int outputs);
  void (*linear_pack_weights)(int inputs, int outputs, const float* weight, float* packed);
  /// Outputs [begin, end), multiples of 32; bias [padded outputs] or null.
  void (*linear)(const float* input, int inputs, const float* packed, const float* bias, int begin, int end,
                 float* out);

  double (*peak)(const std::string& kind);  // operations per second; 0 for an unknown kind
};

/// Tables of this build that this CPU runs, best first; the last one is the reference's, named SCALAR.
const std::vector<KernelTable>& KernelTables();

/// Throws std::invalid_argument naming the targets there are.
const KernelTable& FindKernelTable(const std::string& target);

}  // namespace bcdnet
