#include "tests/ptx/tokens.h"

#include <cctype>
#include <cstring>
#include <set>

namespace dpfa::ptx {
namespace {

bool word_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("_.$%", c) != nullptr;
}

}  // namespace

std::vector<Token> tokens_of(const std::string& text) {
  std::vector<Token> tokens;
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '\n') ++line;
    if (std::isspace(static_cast<unsigned char>(c)) || c == '\0') {
      ++i;
    } else if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (text.compare(i, 2, "/*") == 0) {
      const size_t end = text.find("*/", i) + 2;
      for (; i < end; ++i) line += text[i] == '\n';
    } else if (c == '"') {
      const size_t end = text.find('"', i + 1) + 1;
      tokens.push_back({text.substr(i, end - i), line});
      i = end;
    } else if (word_character(c)) {
      size_t end = i;
      while (end < text.size() && (word_character(text[end]) || text.compare(end, 2, "::") == 0))
        end += text[end] == ':' ? 2 : 1;
      tokens.push_back({text.substr(i, end - i), line});
      i = end;
    } else {
      tokens.push_back({std::string(1, c), line});
      ++i;
    }
  }
  return tokens;
}

std::vector<std::string> split(const std::string& opcode) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at; (at = opcode.find('.', begin)) != std::string::npos; begin = at + 1)
    parts.push_back(opcode.substr(begin, at - begin));
  parts.push_back(opcode.substr(begin));
  return parts;
}

uint8_t width_of(const std::string& type) {
  if (type == ".pred") return 1;
  static const std::set<std::string> two = {".b16", ".u16", ".s16", ".f16", ".bf16"},
                                     one = {".b8", ".u8", ".s8"}, eight = {".b64", ".u64", ".s64", ".f64"};
  return two.count(type) ? 2 : eight.count(type) ? 8 : one.count(type) ? 1 : 4;
}

int64_t integer_of(const std::string& text) {
  const bool is_unsigned = text.back() == 'U';
  return static_cast<int64_t>(std::stoull(is_unsigned ? text.substr(0, text.size() - 1) : text, nullptr, 0));
}

uint64_t bits_of(const std::string& t) {
  if (t.size() == 10 && (t[1] == 'f' || t[1] == 'F') && t[0] == '0')
    return std::stoull(t.substr(2), nullptr, 16);
  if (t.size() == 18 && (t[1] == 'd' || t[1] == 'D') && t[0] == '0')
    return std::stoull(t.substr(2), nullptr, 16);
  return static_cast<uint64_t>(integer_of(t));
}

}  // namespace dpfa::ptx
