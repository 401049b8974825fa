#include "runtime/validate.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/kernels.h"

namespace bcdnet {
namespace {

constexpr int64_t kMaxBuffers = 16384, kMaxOps = 4096, kMaxDimension = 65536, kMaxOutputs = 16, kMaxInputs = 64;
constexpr int64_t kMaxWindow = 255, kMaxConvInputs = int64_t{1} << 24, kMaxWork = int64_t{1} << 38;
constexpr int64_t kMaxPaddedWords = int64_t{1} << 27;  // of the bits that a binary convolution reads
constexpr int64_t kMaxBytes = int64_t{1} << 31;
constexpr int64_t kMaxPaddedBytes = int64_t{1} << 32;  // with channels padded for the kernels
constexpr int64_t kMaxKept = int64_t{1} << 29;  // values of all ops, as they are laid out for the kernels
constexpr int64_t kConstants = 32;              // more than an op has for an output channel besides its weights

class Validator {
 public:
  explicit Validator(const Program& program) : program_(program), written_(program.buffers.size(), false) {}

  void Check() {
    Require(!program_.buffers.empty() && std::ssize(program_.buffers) <= kMaxBuffers, "number of buffers out of range");
    Require(!program_.ops.empty() && std::ssize(program_.ops) <= kMaxOps, "number of ops out of range");
    CheckBuffers();
    Require(program_.input >= 0 && program_.input < std::ssize(program_.buffers), "input is not a buffer");
    Require(program_.buffers[program_.input].kind == Kind::kImage, "input is not an image");
    written_[program_.input] = true;
    for (const Op& op : program_.ops) {
      where_ = "op '" + op.name + "': ";
      std::visit([this](const auto& body) { Check(body); }, op.body);
    }
    where_.clear();
    Require(!program_.outputs.empty() && std::ssize(program_.outputs) <= kMaxOutputs, "number of outputs out of range");
    for (int id : program_.outputs) Read(id, Kind::kVector, "output");
  }

 private:
  static int64_t Pixels(const Buffer& b) { return static_cast<int64_t>(b.height) * b.width; }

  void Require(bool condition, const std::string& message) const {
    if (!condition) throw std::invalid_argument(where_ + message);
  }

  void CheckBuffers() {
    int64_t bytes = 0, padded_bytes = 0;
    for (int64_t i = 0; i < std::ssize(program_.buffers); ++i) {
      const Buffer& b = program_.buffers[i];
      const std::string name = "buffer " + std::to_string(i);
      for (int64_t n : {b.height, b.width, b.channels})
        Require(n >= 1 && n <= kMaxDimension, name + ": dimension out of range");
      Require(b.kind != Kind::kVector || (b.height == 1 && b.width == 1), name + ": a vector has no height and width");
      Require(b.kind != Kind::kImage || i == program_.input, name + ": only the input is an image");
      bytes += Pixels(b) * 4 * (b.kind == Kind::kBits ? BitWords(b.channels) : b.channels);
      padded_bytes += Pixels(b) * 4 * (b.kind == Kind::kBits ? BitWords(b.channels) : PadChannels(b.channels));
      Require(bytes <= kMaxBytes, "buffers need more than 2^31 bytes per image");
      Require(padded_bytes <= kMaxPaddedBytes, "buffers need more than 2^32 bytes per image in memory");
    }
  }

  const Buffer& Find(int id, const char* role) const {
    Require(id >= 0 && id < std::ssize(program_.buffers), std::string(role) + " is not a buffer");
    return program_.buffers[id];
  }

  const Buffer& Read(int id, const char* role) const {
    const Buffer& b = Find(id, role);
    Require(written_[id], std::string(role) + " (buffer " + std::to_string(id) + ") is read before it is written");
    return b;
  }

  const Buffer& Read(int id, Kind kind, const char* role) const {
    const Buffer& b = Read(id, role);
    Require(b.kind == kind, std::string(role) + " is a buffer of the wrong kind");
    return b;
  }

  const Buffer& Write(int id, const char* role) {
    const Buffer& b = Find(id, role);
    Require(!written_[id], std::string(role) + " (buffer " + std::to_string(id) + ") is written twice");
    written_[id] = true;
    return b;
  }

  void Write(int id, const Buffer& expected, const char* role) {
    const Buffer& b = Write(id, role);
    Require(b == expected, std::string(role) + " is a buffer of the wrong kind or size");
  }

  template <class T>
  void Shape(const Tensor<T>& tensor, const std::vector<int64_t>& shape, const char* role) const {
    Require(static_cast<bool>(tensor), std::string(role) + " is missing");
    Require(tensor.shape == shape, std::string(role) + " has the wrong shape");
  }

  void OptionalVector(const Floats& tensor, int channels, const char* role) const {
    if (tensor) Shape(tensor, {channels}, role);
  }

  void OptionalVector(std::optional<int> id, int c, const char* role) const {
    Require(!id || Read(*id, Kind::kVector, role).channels == c, std::string(role) + " has the wrong length");
  }

  static bool InRange(const Pair& p, int64_t low, int64_t high) {
    return p.y >= low && p.x >= low && p.y <= high && p.x <= high;
  }

  Buffer ConvOutput(const Buffer& in, const std::vector<int64_t>& weight, const Pair& stride, const Pair& padding,
                    int64_t inputs, int64_t branches) {
    const int64_t k_h = weight[1], k_w = weight[2];
    Require(weight[0] >= 1 && weight[0] <= kMaxDimension, "output channels out of range");
    Require(k_h >= 1 && k_w >= 1 && k_h <= kMaxWindow && k_w <= kMaxWindow, "kernel out of range");
    Require(InRange(stride, 1, kMaxWindow), "stride out of range");
    Require(padding.y >= 0 && padding.x >= 0 && padding.y < k_h && padding.x < k_w, "padding out of range");
    Require(k_h * k_w * inputs <= kMaxConvInputs, "kernel and input channels too large");
    Require(in.height + 2 * padding.y >= k_h && in.width + 2 * padding.x >= k_w, "kernel larger than the padded input");
    const Buffer out{Kind::kMap, static_cast<int>((in.height + 2 * padding.y - k_h) / stride.y + 1),
                     static_cast<int>((in.width + 2 * padding.x - k_w) / stride.x + 1), static_cast<int>(weight[0])};
    // No overflow: fewer than 2^34 pixels, each of up to 2^24 terms.
    AddWork(Pixels(out) * (k_h * k_w * inputs), weight[0] * branches);
    return out;
  }

  void AddWork(int64_t count, int64_t each) {
    Require(count <= (kMaxWork - work_) / each, "more than 2^38 operations per image");
    work_ += count * each;
  }

  void Keep(int64_t channels, int64_t values) {
    kept_ += PadChannels(static_cast<int>(channels)) * values;
    Require(kept_ <= kMaxKept, "more than 2^29 values are kept for the kernels");
  }

  void CheckEpilogue(const Epilogue& e, const Buffer& value, bool elementwise) {
    const int c = value.channels;
    Keep(c, kConstants);
    OptionalVector(e.gain, c, "epilogue.gain");
    OptionalVector(e.beta, c, "epilogue.beta");
    OptionalVector(e.mul, c, "epilogue.mul");
    OptionalVector(e.add, c, "epilogue.add");
    if (e.shortcut) {
      const Buffer& s = Read(e.shortcut->buffer, Kind::kMap, "epilogue.shortcut");
      const bool pool = e.shortcut->avg_pool;
      Require(value.height == (pool ? (s.height + 1) / 2 : s.height) &&
                  value.width == (pool ? (s.width + 1) / 2 : s.width) &&
                  c == (e.shortcut->duplicate ? 2 * s.channels : s.channels),
              "epilogue.shortcut has the wrong size");
    }
    if (e.prelu) {
      Shape(e.prelu->slope, {c}, "epilogue.prelu.slope");
      OptionalVector(e.prelu->bias_in, c, "epilogue.prelu.bias_in");
      OptionalVector(e.prelu->bias_out, c, "epilogue.prelu.bias_out");
    }
    Require(e.map || !e.bits.empty(), "epilogue has no result");
    Require(std::ssize(e.bits) <= kMaxBits, "epilogue has too many results");
    for (const BitsOutput& bits : e.bits) {
      OptionalVector(bits.bias, c, "epilogue.bits.bias");
      Require(elementwise || !bits.alpha, "epilogue.bits.alpha is for elementwise ops only");
      OptionalVector(bits.alpha, c, "epilogue.bits.alpha");
    }
    if (e.map) Write(*e.map, {Kind::kMap, value.height, value.width, c}, "epilogue.map");
    for (const BitsOutput& bits : e.bits)
      Write(bits.buffer, {Kind::kBits, value.height, value.width, c}, "epilogue.bits");
  }

  void Check(const Conv2dOp& op) {
    const Buffer& in = Read(op.input, "input");
    Require(in.kind == Kind::kImage || in.kind == Kind::kMap, "input is a buffer of the wrong kind");
    Require(op.weight && op.weight.shape.size() == 4, "weight is not [O][kh][kw][I/groups]");
    const int64_t out_c = op.weight.shape[0];
    Require(op.groups >= 1 && in.channels % op.groups == 0 && out_c % op.groups == 0,
            "channels are not divisible by groups");
    Require(op.weight.shape[3] == in.channels / op.groups, "weight has the wrong number of input channels");
    const Buffer value = ConvOutput(in, op.weight.shape, op.stride, op.padding, op.weight.shape[3], 1);
    Keep(out_c, op.weight.shape[1] * op.weight.shape[2] * op.weight.shape[3]);
    OptionalVector(op.bias, value.channels, "bias");
    CheckEpilogue(op.epilogue, value, false);
  }

  void Check(const BinaryConv2dOp& op) {
    const Buffer& in = Read(op.input, Kind::kBits, "input");
    Require(!op.branches.empty() && std::ssize(op.branches) <= kMaxBranches, "number of branches out of range");
    const Words& first = op.branches[0].weight;
    Require(first && first.shape.size() == 4, "weight is not [O][kh][kw][words]");
    Require(first.shape[3] == BitWords(in.channels), "weight has the wrong number of input channels");
    const Buffer value = ConvOutput(in, first.shape, op.stride, op.padding, in.channels, std::ssize(op.branches));
    const int64_t padded_height = in.height + 2 * op.padding.y, padded_width = in.width + 2 * op.padding.x;
    Require(padded_height * padded_width * BitWords(in.channels) <= kMaxPaddedWords,
            "the padded input has more than 2^27 words");
    // Bytes that have four bits each; for each class of border fewer than four times the taps.
    Keep(first.shape[0], std::ssize(op.branches) * first.shape[1] * first.shape[2] * (2 * first.shape[3] + 4));
    for (const Branch& branch : op.branches) {
      Shape(branch.weight, first.shape, "weight");
      CheckPadding(branch.weight, in.channels);
      Shape(branch.scale, {value.channels}, "scale");
      if (branch.shift == Shift::kNone) continue;
      Require(
          first.shape[1] == 1 && first.shape[2] == 1 && op.stride.y == 1 && op.stride.x == 1 && in.channels % 4 == 0,
          "a shift needs a 1x1 kernel, stride 1 and channels divisible by 4");
    }
    CheckEpilogue(op.epilogue, value, false);
  }

  void CheckPadding(const Words& weight, int channels) const {
    if (channels % 32 == 0) return;
    const uint32_t padding = ~0u << (channels % 32);
    const int64_t words = weight.shape[3], rows = weight.shape[0] * weight.shape[1] * weight.shape[2];
    for (int64_t row = 0; row < rows; ++row)
      Require((weight.data[row * words + words - 1] & padding) == 0, "weight has padding bits set");
  }

  void Check(const ElementwiseOp& op) { CheckEpilogue(op.epilogue, Read(op.input, Kind::kMap, "input"), true); }

  void Check(const UnpackOp& op) {
    const Buffer& in = Read(op.input, Kind::kBits, "input");
    Write(op.output, {Kind::kMap, in.height, in.width, in.channels}, "output");
  }

  /// Size of one axis of a pool, 0 if there is none.
  static int PoolSize(int in, int kernel, int stride, int pad, bool ceil) {
    const int room = in + 2 * pad - kernel + (ceil ? stride - 1 : 0);
    if (room < 0) return 0;
    int size = room / stride + 1;
    if (ceil && (size - 1) * stride >= in + pad) --size;
    return size;
  }

  void Check(const PoolOp& op) {
    const Buffer& in = Read(op.input, Kind::kMap, "input");
    Require(InRange(op.kernel, 1, kMaxWindow) && InRange(op.stride, 1, kMaxWindow), "kernel or stride out of range");
    Require(InRange(op.padding, 0, kMaxWindow) && 2 * op.padding.y <= op.kernel.y && 2 * op.padding.x <= op.kernel.x,
            "padding out of range");
    const Buffer out{Kind::kMap, PoolSize(in.height, op.kernel.y, op.stride.y, op.padding.y, op.ceil),
                     PoolSize(in.width, op.kernel.x, op.stride.x, op.padding.x, op.ceil), in.channels};
    Require(out.height > 0 && out.width > 0, "kernel larger than the padded input");
    AddWork(Pixels(out) * out.channels, static_cast<int64_t>(op.kernel.y) * op.kernel.x);
    Write(op.output, out, "output");
  }

  void Check(const GlobalAvgPoolOp& op) {
    const Buffer& in = Read(op.input, Kind::kMap, "input");
    AddWork(Pixels(in), in.channels);
    Write(op.output, {Kind::kVector, 1, 1, in.channels}, "output");
  }

  void Check(const LinearOp& op) {
    const Buffer& in = Read(op.input, Kind::kVector, "input");
    Require(op.weight && op.weight.shape.size() == 2 && op.weight.shape[0] >= 1 &&
                op.weight.shape[0] <= kMaxDimension && op.weight.shape[1] == in.channels,
            "weight is not [O][I]");
    const int out = static_cast<int>(op.weight.shape[0]);
    Keep(out, in.channels + kConstants);
    OptionalVector(op.bias, out, "bias");
    AddWork(out, in.channels);
    Write(op.output, {Kind::kVector, 1, 1, out}, "output");
  }

  void Check(const ConcatOp& op) {
    Require(std::ssize(op.inputs) >= 2 && std::ssize(op.inputs) <= kMaxInputs, "number of inputs out of range");
    Buffer out = Read(op.inputs[0], "input");
    Require(out.kind == Kind::kMap || out.kind == Kind::kVector, "input is a buffer of the wrong kind");
    for (size_t i = 1; i < op.inputs.size(); ++i) {
      const Buffer& in = Read(op.inputs[i], out.kind, "input");
      Require(in.height == out.height && in.width == out.width, "inputs differ in size");
      out.channels += in.channels;  // <= 64 * 65536
    }
    Write(op.output, out, "output");
  }

  void Check(const TransposeOp& op) {
    const Buffer& in = Read(op.input, "input");
    Require(in.kind == Kind::kMap || in.kind == Kind::kImage, "input is a buffer of the wrong kind");
    const Buffer& out = Write(op.output, "output");
    const int64_t in_pixels = Pixels(in), out_pixels = Pixels(out);
    const bool image = in.kind == Kind::kImage;  // [C][H W] to [H W][C]
    Require(out.kind == Kind::kMap && out.channels == (image ? in.channels : in_pixels) &&
                out_pixels == (image ? in_pixels : in.channels),
            "output is a buffer of the wrong kind or size");
  }

  void Check(const ReshapeOp& op) {
    const Buffer& in = Read(op.input, "input");
    const Buffer& out = Write(op.output, "output");
    for (const Buffer* b : {&in, &out})
      Require(b->kind == Kind::kMap || b->kind == Kind::kVector, "a buffer of the wrong kind");
    Require(Pixels(in) * in.channels == Pixels(out) * out.channels, "input and output differ in size");
  }

  const Program& program_;
  std::vector<bool> written_;
  std::string where_;
  int64_t work_ = 0, kept_ = 0;
};

}  // namespace

void Validate(const Program& program) { Validator(program).Check(); }

}  // namespace bcdnet
