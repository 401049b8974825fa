// JSON as docs/format.md wants it: an object's keys differ, numbers are finite.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace bcdnet {

using Json = nlohmann::json;

/// Throws std::invalid_argument, with `what` for the text's name, where it is not JSON, nests too deeply, or names a
/// key twice.
Json ParseJson(std::string_view text, const char* what);

}  // namespace bcdnet
