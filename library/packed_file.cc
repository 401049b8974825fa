#include "packed_file.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <utility>

#include "node.h"

namespace bcdnet {
namespace {

constexpr int kFormat = 2;
constexpr size_t kMaxOutputs = 16, kMaxLabel = 1024;
constexpr int kMaxProvenanceDepth = 8;

Buffer ReadBuffer(const Node& node) {
  node.Keys({"kind", "shape"});
  const Kind kind = static_cast<Kind>(node.At("kind").OneOf({"image", "map", "vector", "bits"}));
  std::vector<int> n;
  for (const Node& size : node.At("shape").Items(kind == Kind::kVector ? 1 : 3)) {
    n.push_back(size.Int());
    size.Require(n.back() > 0, "must be positive");
  }
  if (kind == Kind::kVector) return {kind, 1, 1, n[0]};
  if (kind == Kind::kImage) return {kind, n[1], n[2], n[0]};
  return {kind, n[0], n[1], n[2]};
}

BitsOutput ReadBits(const Node& node) {
  node.Keys({"buffer", "bias", "alpha"});
  return {node.At("buffer").Int(), node.At("bias").OptionalFloats(), node.At("alpha").OptionalInt()};
}

Epilogue ReadEpilogue(const Node& node, int format) {
  Epilogue e;
  if (format == 1) {
    node.Keys({"beta", "mul", "add", "shortcut", "prelu", "map", "bits"});
  } else {
    node.Keys({"gain", "beta", "mul", "add", "shortcut", "prelu", "map", "bits"});
    e.gain = node.At("gain").OptionalInt();
  }
  e.beta = node.At("beta").OptionalInt();
  e.mul = node.At("mul").OptionalFloats();
  e.add = node.At("add").OptionalFloats();
  if (const Node s = node.At("shortcut"); !s.IsNull()) {
    s.Keys({"buffer", "duplicate", "avg_pool"});
    e.shortcut = Shortcut{s.At("buffer").Int(), s.At("duplicate").Bool(), s.At("avg_pool").Bool()};
  }
  if (const Node p = node.At("prelu"); !p.IsNull()) {
    p.Keys({"bias_in", "slope", "bias_out"});
    e.prelu = Prelu{p.At("bias_in").OptionalFloats(), p.At("slope").GetFloats(), p.At("bias_out").OptionalFloats()};
  }
  e.map = node.At("map").OptionalInt();
  for (const Node& bits : node.At("bits").Items()) e.bits.push_back(ReadBits(bits));
  return e;
}

Branch ReadBranch(const Node& node) {
  node.Keys({"weight", "scale", "shift"});
  return {node.At("weight").GetWords(), node.At("scale").GetFloats(),
          static_cast<Shift>(node.At("shift").OneOf({"none", "short", "long"}))};
}

Conv2dOp ReadConv2d(const Node& node, int format) {
  node.Keys({"type", "name", "input", "weight", "bias", "stride", "padding", "groups", "epilogue"});
  return {node.At("input").Int(),           node.At("weight").GetFloats(), node.At("bias").OptionalFloats(),
          node.At("stride").GetPair(),      node.At("padding").GetPair(),  node.At("groups").Int(),
          ReadEpilogue(node.At("epilogue"), format)};
}

BinaryConv2dOp ReadBinaryConv2d(const Node& node, int format) {
  node.Keys({"type", "name", "input", "branches", "stride", "padding", "epilogue"});
  std::vector<Branch> branches;
  for (const Node& branch : node.At("branches").Items()) branches.push_back(ReadBranch(branch));
  return {node.At("input").Int(), std::move(branches), node.At("stride").GetPair(), node.At("padding").GetPair(),
          ReadEpilogue(node.At("epilogue"), format)};
}

PoolOp ReadPool(const Node& node, bool maximum) {
  if (maximum) {
    node.Keys({"type", "name", "input", "output", "kernel", "stride", "padding", "ceil"});
  } else {
    node.Keys({"type", "name", "input", "output", "kernel", "stride", "padding", "ceil", "count_include_pad"});
  }
  return {node.At("input").Int(),
          node.At("output").Int(),
          node.At("kernel").GetPair(),
          node.At("stride").GetPair(),
          node.At("padding").GetPair(),
          node.At("ceil").Bool(),
          maximum,
          !maximum && node.At("count_include_pad").Bool()};
}

LinearOp ReadLinear(const Node& node) {
  node.Keys({"type", "name", "input", "output", "weight", "bias"});
  return {node.At("input").Int(), node.At("output").Int(), node.At("weight").GetFloats(),
          node.At("bias").OptionalFloats()};
}

ConcatOp ReadConcat(const Node& node) {
  node.Keys({"type", "name", "inputs", "output"});
  std::vector<int> inputs;
  for (const Node& input : node.At("inputs").Items()) inputs.push_back(input.Int());
  return {std::move(inputs), node.At("output").Int()};
}

/// One of the ops that have no more than an input and an output.
template <class T>
T ReadPlain(const Node& node) {
  node.Keys({"type", "name", "input", "output"});
  return {node.At("input").Int(), node.At("output").Int()};
}

decltype(Op::body) ReadBody(const Node& node, int format) {
  switch (node.At("type").OneOf({"conv2d", "binary_conv2d", "elementwise", "unpack", "avg_pool", "max_pool",
                                 "global_avg_pool", "linear", "concat", "transpose", "reshape"})) {
    case 0:
      return ReadConv2d(node, format);
    case 1:
      return ReadBinaryConv2d(node, format);
    case 2:
      node.Keys({"type", "name", "input", "epilogue"});
      return ElementwiseOp{node.At("input").Int(), ReadEpilogue(node.At("epilogue"), format)};
    case 3:
      return ReadPlain<UnpackOp>(node);
    case 4:
      return ReadPool(node, false);
    case 5:
      return ReadPool(node, true);
    case 6:
      return ReadPlain<GlobalAvgPoolOp>(node);
    case 7:
      return ReadLinear(node);
    case 8:
      return ReadConcat(node);
    case 9:
      return ReadPlain<TransposeOp>(node);
    default:
      return ReadPlain<ReshapeOp>(node);
  }
}

std::vector<Op> ReadOps(const Node& node, int format) {
  std::set<std::string> names;
  std::vector<Op> ops;
  for (const Node& item : node.Items()) {
    std::string name = item.At("name").Name();
    if (!names.insert(name).second) item.Fail("another op is called '" + name + "'");
    ops.push_back({std::move(name), ReadBody(item, format)});
  }
  return ops;
}

struct Port {
  std::string name;
  int buffer;
};

std::vector<Port> ReadPorts(const Node& node, size_t most, int buffers) {
  std::vector<Port> ports;
  std::set<std::string> names;
  std::set<int> ids;
  for (const Node& item : node.Items()) {
    item.Keys({"name", "buffer"});
    ports.push_back({item.At("name").Name(), item.At("buffer").Int()});
    const Port& port = ports.back();
    item.Require(port.buffer >= 0 && port.buffer < buffers, "its buffer does not exist");
    item.Require(names.insert(port.name).second && ids.insert(port.buffer).second,
                 "another has its name or its buffer");
  }
  if (ports.empty() || ports.size() > most) node.Fail("expected 1 to " + std::to_string(most));
  return ports;
}

struct Written {
  std::set<int>& ids;
  void operator()(const Epilogue& e) const {
    if (e.map) ids.insert(*e.map);
    for (const BitsOutput& bits : e.bits) ids.insert(bits.buffer);
  }
  void operator()(const Conv2dOp& op) const { (*this)(op.epilogue); }
  void operator()(const BinaryConv2dOp& op) const { (*this)(op.epilogue); }
  void operator()(const ElementwiseOp& op) const { (*this)(op.epilogue); }
  void operator()(const auto& op) const { ids.insert(op.output); }
};

/// The core checks that no buffer is written twice, or read before.
void CheckWritten(const Program& program) {
  std::set<int> ids{program.input};
  for (const Op& op : program.ops) std::visit(Written{ids}, op.body);
  for (int id = 0; id < static_cast<int>(program.buffers.size()); ++id) {
    if (!ids.contains(id)) throw std::invalid_argument("buffer " + std::to_string(id) + ": no op writes it");
  }
}

Preprocess ReadPreprocess(const Node& node, const Buffer& input) {
  node.Keys({"input_size", "mean", "std", "interpolation", "crop_pct"});
  const std::vector<Node> size = node.At("input_size").Items(3);
  node.Require(size[0].Int() == input.channels && size[1].Int() == input.height && size[2].Int() == input.width,
               "input_size is not the input's shape");
  Preprocess p;
  for (const Node& value : node.At("mean").Items(input.channels)) p.mean.push_back(value.Number());
  for (const Node& value : node.At("std").Items(input.channels)) {
    p.std.push_back(value.Number());
    // In float32, which is computed in.
    value.Require(static_cast<float>(std::min(p.std.back(), 1e30)) > 0, "must be positive");
  }
  for (int c = 0; c < input.channels; ++c) {
    for (const double computed : {1 / (255 * p.std[c]), -p.mean[c] / p.std[c]})
      node.Require(std::abs(computed) <= std::numeric_limits<float>::max(),
                   "mean and std are beyond the range of float32");
  }
  p.interpolation =
      static_cast<Interpolation>(node.At("interpolation").OneOf({"nearest", "bilinear", "bicubic", "lanczos"}));
  p.crop_pct = node.At("crop_pct").Number();
  node.Require(p.crop_pct >= 0.1 && p.crop_pct <= 1, "crop_pct must be in [0.1, 1]");
  return p;
}

void CheckTensors(const TensorTable& tensors) {
  for (const auto& [name, tensor] : tensors.stored) {
    const std::string where = "tensor '" + name + "': ";
    if (!tensors.used.contains(name)) throw std::invalid_argument(where + "no op uses it");
    if (!IsName(name)) throw std::invalid_argument("a tensor's name is empty, too long, or holds a control character");
    if (tensor.words) continue;
    const auto* values = reinterpret_cast<const float*>(tensor.data);
    const bool finite = std::all_of(values, values + tensor.size, [](float x) { return std::isfinite(x); });
    if (!finite) throw std::invalid_argument(where + "holds a NaN or an infinity");
  }
}

}  // namespace

PackedFile ReadPackedFile(std::span<const uint8_t> bytes) {
  PackedFile file;
  file.container = ReadContainer(bytes);
  const Json document = ParseJson(file.container.program, "the program");
  TensorTable tensors{file.container.tensors, {}};
  const Node root(document, "the program", tensors);
  const int format = root.At("format").Int();
  root.Require(format >= 1, "its format is not a positive integer");
  if (format > kFormat) root.Fail("has format " + std::to_string(format) + ", newer than this library reads");
  root.Keys({"format", "buffers", "ops", "inputs", "outputs", "labels", "preprocess", "provenance"});

  for (const Node& node : root.At("buffers").Items()) file.program.buffers.push_back(ReadBuffer(node));
  file.program.ops = ReadOps(root.At("ops"), format);
  const int buffers = static_cast<int>(file.program.buffers.size());
  file.program.input = ReadPorts(root.At("inputs"), 1, buffers)[0].buffer;
  for (Port& port : ReadPorts(root.At("outputs"), kMaxOutputs, buffers)) {
    file.program.outputs.push_back(port.buffer);
    file.output_names.push_back(std::move(port.name));
  }
  CheckWritten(file.program);

  const std::vector<Node> labels = root.At("labels").Items();
  for (const Node& label : labels) file.labels.push_back(label.Line(kMaxLabel));
  const int classes = file.program.buffers[file.program.outputs[0]].channels;
  root.Require(labels.empty() || static_cast<int>(labels.size()) == classes, "labels: not one for each class");
  if (const Node node = root.At("preprocess"); !node.IsNull()) {
    file.preprocess = ReadPreprocess(node, file.program.buffers[file.program.input]);
  }
  const Node provenance = root.At("provenance");
  provenance.Require(document["provenance"].is_object(), "expected an object");
  provenance.Free(kMaxProvenanceDepth);
  CheckTensors(tensors);
  return file;
}

}  // namespace bcdnet
