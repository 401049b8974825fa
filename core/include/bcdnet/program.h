// A network as plain data: what Session takes. The meaning of every field is docs/format.md's; this header only mirrors
// it.
//
// Shape legend: H, W rows and columns of a map; C channels; I, O input and output channels of an op.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace bcdnet {

enum class Kind { kImage, kMap, kVector, kBits };

/// Per-image buffer. Images are [C][H][W], maps and bits [H][W][C], vectors have height = width = 1.
struct Buffer {
  Kind kind;
  int height;
  int width;
  int channels;
  bool operator==(const Buffer&) const = default;
};

/// Row-major array that outlives the construction of a Session and no more. An absent tensor has no data.
template <class T>
struct Tensor {
  const T* data = nullptr;
  std::vector<int64_t> shape;
  explicit operator bool() const { return data != nullptr; }
};
using Floats = Tensor<float>;
using Words = Tensor<uint32_t>;

struct Pair {
  int y;
  int x;
};

struct Shortcut {
  int buffer;
  bool duplicate;
  bool avg_pool;
};

struct Prelu {
  Floats bias_in;
  Floats slope;
  Floats bias_out;
};

struct BitsOutput {
  int buffer;
  Floats bias;
  std::optional<int> alpha;
};

struct Epilogue {
  std::optional<int> gain;
  std::optional<int> beta;
  Floats mul;
  Floats add;
  std::optional<Shortcut> shortcut;
  std::optional<Prelu> prelu;
  std::optional<int> map;
  std::vector<BitsOutput> bits;
};

enum class Shift { kNone, kShort, kLong };

struct Branch {
  Words weight;  // [O][kh][kw][ceil(I/32)]
  Floats scale;  // [O]
  Shift shift;
};

struct Conv2dOp {
  int input;
  Floats weight;  // [O][kh][kw][I/groups]
  Floats bias;    // [O] or absent
  Pair stride;
  Pair padding;
  int groups;
  Epilogue epilogue;
};

struct BinaryConv2dOp {
  int input;
  std::vector<Branch> branches;
  Pair stride;
  Pair padding;
  Epilogue epilogue;
};

struct ElementwiseOp {
  int input;
  Epilogue epilogue;
};

struct UnpackOp {
  int input;
  int output;
};

struct PoolOp {
  int input;
  int output;
  Pair kernel;
  Pair stride;
  Pair padding;
  bool ceil;
  bool maximum;            // else the average
  bool count_include_pad;  // of the average
};

struct GlobalAvgPoolOp {
  int input;
  int output;
};

struct LinearOp {
  int input;
  int output;
  Floats weight;  // [O][I]
  Floats bias;    // [O] or absent
};

struct ConcatOp {
  std::vector<int> inputs;
  int output;
};

struct TransposeOp {
  int input;
  int output;
};

struct ReshapeOp {
  int input;
  int output;
};

struct Op {
  std::string name;
  std::variant<Conv2dOp, BinaryConv2dOp, ElementwiseOp, UnpackOp, PoolOp, GlobalAvgPoolOp, LinearOp, ConcatOp,
               TransposeOp, ReshapeOp>
      body;
};

struct Program {
  std::vector<Buffer> buffers;
  std::vector<Op> ops;
  int input;
  std::vector<int> outputs;
};

}  // namespace bcdnet
