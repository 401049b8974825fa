#include "json.h"

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace bcdnet {
namespace {

constexpr int kMaxDepth = 64;  // a level takes 50 times the memory of its bracket in the file

}  // namespace

Json ParseJson(std::string_view text, const char* what) {
  const auto fail = [&](const std::string& reason) { throw std::invalid_argument(what + (": " + reason)); };
  std::vector<std::set<std::string>> keys;  // of each object around the place
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) fail("nests too deeply");
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      fail("the key '" + parsed.get<std::string>() + "' is there twice");
    }
    return true;
  };
  if (text.starts_with("\xEF\xBB\xBF")) fail("begins with a byte order mark");
  try {
    return Json::parse(text, watch);
  } catch (const Json::parse_error& e) {  // its own words hold bytes of the file
    fail("is not valid JSON (at byte " + std::to_string(e.byte) + ")");
  } catch (const Json::exception&) {
    fail("holds a number that is too large");
  }
  return {};
}

}  // namespace bcdnet
