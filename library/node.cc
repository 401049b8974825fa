#include "node.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace bcdnet {
namespace {

constexpr size_t kMaxName = 256;
constexpr size_t kMaxRank = 4;

/// Of valid UTF-8, which is all that the parser lets through.
bool IsLine(std::string_view text, size_t most) {
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const auto next = static_cast<uint8_t>(i + 1 < text.size() ? text[i + 1] : 0);
    if (byte < 0x20 || byte == 0x7F || (byte == 0xC2 && next < 0xA0)) return false;
    characters += (byte & 0xC0) != 0x80;
  }
  return characters <= most;
}

}  // namespace

bool IsName(std::string_view text) { return !text.empty() && IsLine(text, kMaxName); }

void Node::Fail(const std::string& message) const { throw std::invalid_argument(where_ + ": " + message); }

void Node::Keys(std::initializer_list<const char*> keys) const {
  Require(value_->is_object(), "expected an object");
  for (const auto& item : value_->items()) {
    const bool known = std::ranges::any_of(keys, [&](const char* key) { return item.key() == key; });
    if (!known) Fail("unknown key '" + item.key() + "'");
  }
  for (const char* key : keys) {
    if (!value_->contains(key)) Fail(std::string("missing key '") + key + "'");
  }
}

Node Node::At(const char* key) const {
  Require(value_->is_object(), "expected an object");
  if (!value_->contains(key)) Fail(std::string("missing key '") + key + "'");
  return {(*value_)[key], where_ + "." + key, *tensors_};
}

std::vector<Node> Node::Items() const {
  Require(value_->is_array(), "expected a list");
  std::vector<Node> items;
  for (const Json& item : *value_)
    items.emplace_back(item, where_ + "[" + std::to_string(items.size()) + "]", *tensors_);
  return items;
}

std::vector<Node> Node::Items(size_t count) const {
  std::vector<Node> items = Items();
  if (items.size() != count) Fail("expected " + std::to_string(count) + " elements");
  return items;
}

int Node::Int() const {
  using Limits = std::numeric_limits<int>;
  const bool fits = value_->is_number_unsigned()
                        ? value_->get<uint64_t>() <= uint64_t{Limits::max()}
                        : value_->is_number_integer() && value_->get<int64_t>() >= Limits::min();
  Require(fits, "expected an integer");
  return value_->get<int>();
}

bool Node::Bool() const {
  Require(value_->is_boolean(), "expected true or false");
  return value_->get<bool>();
}

double Node::Number() const {
  Require(value_->is_number(), "expected a number");
  return value_->get<double>();
}

Pair Node::GetPair() const {
  const std::vector<Node> items = Items(2);
  return {items[0].Int(), items[1].Int()};
}

std::string Node::Line(size_t most) const {
  Require(value_->is_string(), "expected a text");
  auto text = value_->get<std::string>();
  Require(IsLine(text, most), "is too long, or holds a control character");
  return text;
}

std::string Node::Name() const {
  Require(value_->is_string() && IsName(value_->get_ref<const std::string&>()),
          "a name must have 1 to 256 characters, none of them a control character");
  return value_->get<std::string>();
}

int Node::OneOf(std::initializer_list<std::string_view> choices) const {
  std::string known;
  if (value_->is_string()) {
    const auto* found = std::ranges::find(choices, value_->get_ref<const std::string&>());
    if (found != choices.end()) return static_cast<int>(found - choices.begin());
  }
  for (const std::string_view choice : choices) known += (known.empty() ? "" : ", ") + std::string(choice);
  Fail("expected one of " + known);
}

const StoredTensor& Node::Stored() const {
  Require(value_->is_string(), "expected the name of a tensor");
  const auto& name = value_->get_ref<const std::string&>();
  const auto found = tensors_->stored.find(name);
  if (found == tensors_->stored.end()) Fail("there is no tensor '" + name + "'");
  tensors_->used.insert(name);
  const StoredTensor& tensor = found->second;
  if (tensor.size == 0 || tensor.shape.size() > kMaxRank)
    Fail("tensor '" + name + "' is empty or of too many dimensions");
  return tensor;
}

Floats Node::GetFloats() const {
  const StoredTensor& tensor = Stored();
  Require(!tensor.words, "names a tensor of words where it should be one of float32");
  return {reinterpret_cast<const float*>(tensor.data), tensor.shape};
}

Words Node::GetWords() const {
  const StoredTensor& tensor = Stored();
  Require(tensor.words, "names a tensor of float32 where it should be one of words");
  return {tensor.data, tensor.shape};
}

void Node::Free(int depth) const {
  Require(depth >= 0, "nests too deeply");
  if (value_->is_array()) {
    for (const Node& item : Items()) item.Free(depth - 1);
  } else if (value_->is_object()) {
    for (const auto& item : value_->items()) Node(item.value(), where_, *tensors_).Free(depth - 1);
  }
}

std::optional<int> Node::OptionalInt() const {
  if (IsNull()) return std::nullopt;
  return Int();
}

}  // namespace bcdnet
