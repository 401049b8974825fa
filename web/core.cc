// The browser's door to the core: what src/bcdnet/web_assets/bcdnet.js calls. One instance of this module is one
// session.
//
// The script reads the file and hands over its program as a stream of integers: the fields of docs/format.md in the
// order of core/include/bcdnet/program.h. An absent thing is 0, a present one 1 and then itself; lists begin with their
// length; tensors are numbers of a table. Values are checked where all other callers' are, in core/runtime/validate.cc.
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bcdnet/session.h"
#include "kernels/kernels.h"
#include "runtime/validate.h"

namespace bcdnet {
namespace {

// Sizes are 32 bits wide here, and preparing weights for the kernels makes them up to 32 times as large.
constexpr int64_t kMaxTensorBytes = int64_t{1} << 26;
constexpr int64_t kMaxBufferBytes = int64_t{1} << 28;
constexpr int64_t kMaxIndexBytes = int64_t{1} << 29;
constexpr int kMaxRank = 4;

/// One row of the script's table of tensors.
struct TensorEntry {
  int32_t words;  // 1: uint32, 0: float32
  uint32_t address;
  int32_t rank;
  int32_t shape[kMaxRank];
};

class Stream {
 public:
  Stream(const int32_t* begin, int length, const TensorEntry* tensors, int tensor_count)
      : at_(begin), end_(begin + length), tensors_(tensors), tensor_count_(tensor_count) {}

  int Int() {
    if (at_ == end_) throw std::invalid_argument("the program ends early");
    return *at_++;
  }
  bool Bool() { return Int() != 0; }
  Pair ReadPair() {
    const int y = Int();
    return {y, Int()};
  }
  std::optional<int> OptionalInt() { return Bool() ? std::optional(Int()) : std::nullopt; }

  template <class F>
  auto List(const F& item) {
    std::vector<decltype(item())> items;
    for (int left = Int(); left > 0; --left) items.push_back(item());
    return items;
  }

  template <class T>
  Tensor<T> ReadTensor() {
    const int index = Int();
    if (index < 0 || index >= tensor_count_) throw std::invalid_argument("a tensor is missing");
    const TensorEntry& entry = tensors_[index];
    if ((entry.words != 0) != std::is_same_v<T, uint32_t> || entry.rank > kMaxRank) {
      throw std::invalid_argument("a tensor has the wrong dtype or too many dimensions");
    }
    return {reinterpret_cast<const T*>(entry.address), {entry.shape, entry.shape + entry.rank}};
  }
  Floats OptionalFloats() { return Bool() ? ReadTensor<float>() : Floats{}; }

  std::string Text() {
    std::string text;
    for (int left = Int(); left > 0; --left) text.push_back(static_cast<char>(Int()));
    return text;
  }

  bool done() const { return at_ == end_; }

 private:
  const int32_t *at_, *end_;
  const TensorEntry* tensors_;
  int tensor_count_;
};

// Members of a braced list are read from left to right.

Epilogue ReadEpilogue(Stream& s) {
  Epilogue e;
  e.gain = s.OptionalInt();
  e.beta = s.OptionalInt();
  e.mul = s.OptionalFloats();
  e.add = s.OptionalFloats();
  if (s.Bool()) e.shortcut = Shortcut{s.Int(), s.Bool(), s.Bool()};
  if (s.Bool()) e.prelu = Prelu{s.OptionalFloats(), s.ReadTensor<float>(), s.OptionalFloats()};
  e.map = s.OptionalInt();
  e.bits = s.List([&] { return BitsOutput{s.Int(), s.OptionalFloats(), s.OptionalInt()}; });
  return e;
}

Branch ReadBranch(Stream& s) { return {s.ReadTensor<uint32_t>(), s.ReadTensor<float>(), static_cast<Shift>(s.Int())}; }

PoolOp ReadPool(Stream& s, bool maximum) {
  return {s.Int(), s.Int(), s.ReadPair(), s.ReadPair(), s.ReadPair(), s.Bool(), maximum, !maximum && s.Bool()};
}

/// In the order in which format.js lists the types.
decltype(Op::body) ReadBody(Stream& s, int type) {
  switch (type) {
    case 0:
      return Conv2dOp{s.Int(), s.ReadTensor<float>(), s.OptionalFloats(), s.ReadPair(), s.ReadPair(),
                      s.Int(), ReadEpilogue(s)};
    case 1:
      return BinaryConv2dOp{s.Int(), s.List([&] { return ReadBranch(s); }), s.ReadPair(), s.ReadPair(),
                            ReadEpilogue(s)};
    case 2:
      return ElementwiseOp{s.Int(), ReadEpilogue(s)};
    case 3:
      return UnpackOp{s.Int(), s.Int()};
    case 4:
      return ReadPool(s, false);
    case 5:
      return ReadPool(s, true);
    case 6:
      return GlobalAvgPoolOp{s.Int(), s.Int()};
    case 7:
      return LinearOp{s.Int(), s.Int(), s.ReadTensor<float>(), s.OptionalFloats()};
    case 8:
      return ConcatOp{s.List([&] { return s.Int(); }), s.Int()};
    case 9:
      return TransposeOp{s.Int(), s.Int()};
    case 10:
      return ReshapeOp{s.Int(), s.Int()};
    default:
      throw std::invalid_argument("unknown type of op");
  }
}

Buffer ReadBuffer(Stream& s) {
  const Kind kind = static_cast<Kind>(s.Int());
  const std::vector<int> shape = s.List([&] { return s.Int(); });
  if (shape.size() != (kind == Kind::kVector ? 1 : 3)) throw std::invalid_argument("a buffer has the wrong rank");
  if (kind == Kind::kVector) return {kind, 1, 1, shape[0]};
  if (kind == Kind::kImage) return {kind, shape[1], shape[2], shape[0]};
  return {kind, shape[0], shape[1], shape[2]};
}

Program ReadProgram(Stream& s) {
  Program program;
  program.buffers = s.List([&] { return ReadBuffer(s); });
  program.ops = s.List([&] {
    const int type = s.Int();
    std::string name = s.Text();
    return Op{std::move(name), ReadBody(s, type)};
  });
  program.input = s.Int();
  program.outputs = s.List([&] { return s.Int(); });
  if (!s.done()) throw std::invalid_argument("the program goes on after its end");
  return program;
}

/// A valid program whose sizes fit 32 bits, whatever the runtime computes from them.
void CheckSizes(const Program& program, const TensorEntry* tensors, int tensor_count) {
  int64_t bytes = 0;
  for (int i = 0; i < tensor_count; ++i) {
    int64_t size = 4;
    for (int d = 0; d < tensors[i].rank; ++d) size *= tensors[i].shape[d];  // the script compared it with the file's
    bytes += size;
  }
  if (bytes > kMaxTensorBytes) throw std::invalid_argument("the weights are too large for a browser");
  bytes = 0;
  for (const Buffer& b : program.buffers) bytes += int64_t{4} * b.height * b.width * PadChannels(b.channels);
  if (bytes > kMaxBufferBytes) throw std::invalid_argument("the maps of an image are too large for a browser");
  for (const Op& op : program.ops) {
    const auto* conv = std::get_if<BinaryConv2dOp>(&op.body);
    if (conv == nullptr) continue;
    const Buffer& in = program.buffers[conv->input];
    // One byte per four channels of every pixel, those of the padding included.
    const int64_t pixels = int64_t{in.height + 2 * conv->padding.y} * (in.width + 2 * conv->padding.x);
    if (pixels > kMaxIndexBytes / (8 * BitWords(in.channels) * kMaxBranches)) {
      throw std::invalid_argument("op '" + op.name + "': the padded map is too large for a browser");
    }
  }
}

std::unique_ptr<Session> session;
std::string error;

/// Runs f; 0 and a message in `error` where it throws.
template <class F>
int Guard(const F& f) {
  try {
    f();
    return 1;
  } catch (const std::bad_alloc&) {
    error = "out of memory";
  } catch (const std::exception& e) {
    error = e.what();
  }
  return 0;
}

}  // namespace
}  // namespace bcdnet

extern "C" {

int bcdnet_load(const int32_t* program, int length, const bcdnet::TensorEntry* tensors, int tensor_count) {
  return bcdnet::Guard([&] {
    bcdnet::Stream stream(program, length, tensors, tensor_count);
    const bcdnet::Program parsed = bcdnet::ReadProgram(stream);
    bcdnet::Validate(parsed);
    bcdnet::CheckSizes(parsed, tensors, tensor_count);
    bcdnet::session = std::make_unique<bcdnet::Session>(parsed, bcdnet::Options{});
  });
}

/// images [count][C][H][W]; the outputs [count][channels] one after the other.
int bcdnet_run(const float* images, int count, float* outputs) {
  return bcdnet::Guard([&] {
    const bcdnet::Program& program = bcdnet::session->program();
    std::vector<float*> pointers;
    for (int id : program.outputs) {
      pointers.push_back(outputs);
      outputs += static_cast<size_t>(count) * program.buffers[id].channels;
    }
    bcdnet::session->Run(images, count, pointers);
  });
}

const char* bcdnet_error() { return bcdnet::error.c_str(); }

const char* bcdnet_target() { return bcdnet::session->target().c_str(); }

}  // extern "C"
