#include "json.h"

#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace bcdnet {
namespace {

constexpr int kMaxDepth = 64;  // a level takes 50 times the memory of its bracket in the file

/// Reads the text without keeping any of it; what it throws says what is wrong.
class Watch : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Deeper();
  }
  bool key(string_t& key) override {
    if (!keys_.back().insert(key).second) throw std::invalid_argument("the key '" + key + "' is there twice");
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    return Higher();
  }
  bool start_array(std::size_t) override { return Deeper(); }
  bool end_array() override { return Higher(); }
  bool parse_error(std::size_t byte, const std::string&, const Json::exception& e) override {
    if (dynamic_cast<const Json::parse_error*>(&e) == nullptr)
      throw std::invalid_argument("holds a number that is too large");
    // The exception's own words hold bytes of the file.
    throw std::invalid_argument("is not valid JSON (at byte " + std::to_string(byte) + ")");
  }

 private:
  bool Deeper() {
    if (++depth_ > kMaxDepth) throw std::invalid_argument("nests too deeply");
    return true;
  }
  bool Higher() {
    --depth_;
    return true;
  }

  int depth_ = 0;
  std::vector<std::set<std::string>> keys_;  // of each object around the place
};

}  // namespace

Json ParseJson(std::string_view text, const char* what) {
  try {
    if (text.starts_with("\xEF\xBB\xBF")) throw std::invalid_argument("begins with a byte order mark");
    // Which the parser takes for the end.
    if (text.find('\0') != text.npos) throw std::invalid_argument("holds a NUL byte");
    Watch watch;  // not as the parser's callback, which looks through all siblings at the end of each object
    Json::sax_parse(text, &watch);
    return Json::parse(text);
  } catch (const std::invalid_argument& e) {
    throw std::invalid_argument(what + (": " + std::string(e.what())));
  }
}

}  // namespace bcdnet
