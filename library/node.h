// One value of a file's JSON, its place in it, and strict ways to read it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bcdnet/program.h"
#include "container.h"
#include "json.h"

namespace bcdnet {

/// The tensors of a file, and which of them the program names.
struct TensorTable {
  const std::map<std::string, StoredTensor>& stored;
  std::set<std::string> used;
};

/// Whether it has 1 to 256 characters, none of them a control character.
bool IsName(std::string_view text);

/// Every method but IsNull throws std::invalid_argument, which names the place, for a value of another kind.
class Node {
 public:
  Node(const Json& value, std::string where, TensorTable& tensors)
      : value_(&value), where_(std::move(where)), tensors_(&tensors) {}

  [[noreturn]] void Fail(const std::string& message) const;
  void Require(bool condition, const char* message) const {
    if (!condition) Fail(message);
  }

  /// An object with exactly these keys.
  void Keys(std::initializer_list<const char*> keys) const;
  Node At(const char* key) const;
  std::vector<Node> Items() const;
  /// A list of so many elements.
  std::vector<Node> Items(size_t count) const;

  bool IsNull() const { return value_->is_null(); }
  int Int() const;
  bool Bool() const;
  double Number() const;
  Pair GetPair() const;
  /// At most so many characters, none of them a control character.
  std::string Line(size_t most) const;
  std::string Name() const;  // IsName
  /// Index of the text among `choices`.
  int OneOf(std::initializer_list<std::string_view> choices) const;
  Floats GetFloats() const;
  Words GetWords() const;
  /// Free JSON at most so many levels deep.
  void Free(int depth) const;

  std::optional<int> OptionalInt() const;
  Floats OptionalFloats() const { return IsNull() ? Floats{} : GetFloats(); }

 private:
  const StoredTensor& Stored() const;

  const Json* value_;
  std::string where_;
  TensorTable* tensors_;
};

}  // namespace bcdnet
