#include "parse.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace nb = nanobind;

namespace bcdnet {
namespace {

/// Reads the fields of one dict; `where` names it in messages.
class Fields {
 public:
  Fields(nb::handle object, std::string where, const nb::dict& tensors, std::vector<nb::object>& keep)
      : where_(std::move(where)), tensors_(tensors), keep_(keep) {
    if (!nb::isinstance<nb::dict>(object)) Fail("is not a dict");
    dict_ = nb::borrow<nb::dict>(object);
  }

  [[noreturn]] void Fail(const std::string& message) const { throw std::invalid_argument(where_ + " " + message); }

  nb::handle Raw(const char* key) const {
    if (!dict_.contains(key)) Fail(std::string("has no '") + key + "'");
    return PyDict_GetItemString(dict_.ptr(), key);
  }

  bool Has(const char* key) const { return dict_.contains(key); }

  bool IsNull(const char* key) const { return Raw(key).is_none(); }

  template <class T>
  T Get(const char* key) const {
    T value{};
    if (!nb::try_cast(Raw(key), value, false)) Fail(std::string("has a '") + key + "' of the wrong type");
    return value;
  }

  std::optional<int> OptionalId(const char* key) const {
    if (IsNull(key)) return std::nullopt;
    return Get<int>(key);
  }

  Pair GetPair(const char* key) const {
    const auto values = Get<std::vector<int>>(key);
    if (values.size() != 2) Fail(std::string("has a '") + key + "' that is not a pair");
    return {values[0], values[1]};
  }

  Fields Child(const char* key) const { return {Raw(key), where_ + "." + key, tensors_, keep_}; }

  std::vector<Fields> Children(const char* key) const {
    std::vector<Fields> children;
    for (nb::handle item : Get<nb::list>(key)) children.push_back({item, where_ + "." + key, tensors_, keep_});
    return children;
  }

  /// The tensor that the field names; absent if the field is null.
  template <class T>
  Tensor<T> GetTensor(const char* key) const {
    if (IsNull(key)) return {};
    const auto name = Get<std::string>(key);
    if (!tensors_.contains(name.c_str())) Fail("names the tensor '" + name + "', which is not there");
    const nb::object array = tensors_[name.c_str()];
    nb::ndarray<const T, nb::c_contig, nb::device::cpu> view;
    if (!nb::try_cast(array, view, false))
      Fail("names the tensor '" + name + "', which is not a C-contiguous array of its dtype");
    keep_.push_back(array);
    Tensor<T> tensor{view.data(), {}};
    for (size_t i = 0; i < view.ndim(); ++i) tensor.shape.push_back(static_cast<int64_t>(view.shape(i)));
    for (int64_t n : tensor.shape) {
      if (n == 0) Fail("names the tensor '" + name + "', which is empty");
    }
    return tensor;
  }
  Floats GetFloats(const char* key) const { return GetTensor<float>(key); }
  Words GetWords(const char* key) const { return GetTensor<uint32_t>(key); }

  const std::string& where() const { return where_; }

 private:
  nb::dict dict_;
  std::string where_;
  const nb::dict& tensors_;
  std::vector<nb::object>& keep_;
};

Epilogue ParseEpilogue(const Fields& f) {
  Epilogue e;
  if (f.Has("gain")) e.gain = f.OptionalId("gain");  // a program of format 1 lacks the key
  e.beta = f.OptionalId("beta");
  e.mul = f.GetFloats("mul");
  e.add = f.GetFloats("add");
  if (!f.IsNull("shortcut")) {
    const Fields s = f.Child("shortcut");
    e.shortcut = Shortcut{s.Get<int>("buffer"), s.Get<bool>("duplicate"), s.Get<bool>("avg_pool")};
  }
  if (!f.IsNull("prelu")) {
    const Fields p = f.Child("prelu");
    e.prelu = Prelu{p.GetFloats("bias_in"), p.GetFloats("slope"), p.GetFloats("bias_out")};
  }
  e.map = f.OptionalId("map");
  for (const Fields& b : f.Children("bits"))
    e.bits.push_back({b.Get<int>("buffer"), b.GetFloats("bias"), b.OptionalId("alpha")});
  return e;
}

Branch ParseBranch(const Fields& f) {
  const auto shift = f.Get<std::string>("shift");
  if (shift != "none" && shift != "short" && shift != "long") f.Fail("has an unknown 'shift'");
  return {f.GetWords("weight"), f.GetFloats("scale"),
          shift == "none"    ? Shift::kNone
          : shift == "short" ? Shift::kShort
                             : Shift::kLong};
}

decltype(Op::body) ParseBody(const std::string& type, const Fields& f) {
  if (type == "conv2d") {
    return Conv2dOp{f.Get<int>("input"),
                    f.GetFloats("weight"),
                    f.GetFloats("bias"),
                    f.GetPair("stride"),
                    f.GetPair("padding"),
                    f.Get<int>("groups"),
                    ParseEpilogue(f.Child("epilogue"))};
  }
  if (type == "binary_conv2d") {
    BinaryConv2dOp op{
        f.Get<int>("input"), {}, f.GetPair("stride"), f.GetPair("padding"), ParseEpilogue(f.Child("epilogue"))};
    for (const Fields& branch : f.Children("branches")) op.branches.push_back(ParseBranch(branch));
    return op;
  }
  if (type == "elementwise") return ElementwiseOp{f.Get<int>("input"), ParseEpilogue(f.Child("epilogue"))};
  if (type == "avg_pool" || type == "max_pool") {
    const bool maximum = type == "max_pool";
    return PoolOp{f.Get<int>("input"),
                  f.Get<int>("output"),
                  f.GetPair("kernel"),
                  f.GetPair("stride"),
                  f.GetPair("padding"),
                  f.Get<bool>("ceil"),
                  maximum,
                  !maximum && f.Get<bool>("count_include_pad")};
  }
  if (type == "linear") {
    return LinearOp{f.Get<int>("input"), f.Get<int>("output"), f.GetFloats("weight"), f.GetFloats("bias")};
  }
  if (type == "concat") return ConcatOp{f.Get<std::vector<int>>("inputs"), f.Get<int>("output")};
  if (type == "unpack") return UnpackOp{f.Get<int>("input"), f.Get<int>("output")};
  if (type == "global_avg_pool") return GlobalAvgPoolOp{f.Get<int>("input"), f.Get<int>("output")};
  if (type == "transpose") return TransposeOp{f.Get<int>("input"), f.Get<int>("output")};
  if (type == "reshape") return ReshapeOp{f.Get<int>("input"), f.Get<int>("output")};
  f.Fail("has the unknown type '" + type + "'");
}

Buffer ParseBuffer(const Fields& f) {
  const auto kind = f.Get<std::string>("kind");
  const auto shape = f.Get<std::vector<int>>("shape");
  const size_t dimensions = kind == "vector" ? 1 : 3;
  if (shape.size() != dimensions) f.Fail("has a 'shape' of the wrong length");
  if (kind == "vector") return {Kind::kVector, 1, 1, shape[0]};
  if (kind == "image") return {Kind::kImage, shape[1], shape[2], shape[0]};
  if (kind == "map") return {Kind::kMap, shape[0], shape[1], shape[2]};
  if (kind == "bits") return {Kind::kBits, shape[0], shape[1], shape[2]};
  f.Fail("has the unknown kind '" + kind + "'");
}

}  // namespace

ParsedProgram ParseProgram(const nb::list& buffers, const nb::list& ops, const nb::dict& tensors,
                           const nb::list& inputs, const nb::list& outputs) {
  ParsedProgram parsed;
  Program& program = parsed.program;
  for (nb::handle item : buffers) {
    program.buffers.push_back(
        ParseBuffer({item, "buffer " + std::to_string(program.buffers.size()), tensors, parsed.keep}));
  }
  for (nb::handle item : ops) {
    const Fields unnamed(item, "op " + std::to_string(program.ops.size()), tensors, parsed.keep);
    const auto name = unnamed.Get<std::string>("name");
    const Fields f(item, "op '" + name + "'", tensors, parsed.keep);
    program.ops.push_back({name, ParseBody(f.Get<std::string>("type"), f)});
  }
  if (inputs.size() != 1) throw std::invalid_argument("a program has exactly one input");
  program.input = Fields(inputs[0], "input", tensors, parsed.keep).Get<int>("buffer");
  for (nb::handle item : outputs)
    program.outputs.push_back(Fields(item, "output", tensors, parsed.keep).Get<int>("buffer"));
  return parsed;
}

}  // namespace bcdnet
