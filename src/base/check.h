// DPFA_CHECK(condition, parts...): an invariant of our own code. Evaluates the condition once and throws
// InternalError with the text, the parts and the place. Not for user input (ConfigError, IoError, ...).
#pragma once

#include <sstream>

#include "src/base/error.h"

namespace dpfa::internal {

template <typename... Parts>
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const Parts&... parts) {
  std::ostringstream text;
  text << "internal check failed: " << condition;
  if constexpr (sizeof...(parts) > 0) {
    text << ": ";
    (text << ... << parts);
  }
  text << " (" << file << ":" << line << ")";
  throw InternalError(text.str());
}

}  // namespace dpfa::internal

#define DPFA_CHECK(condition, ...)                                                               \
  do {                                                                                           \
    if (!(condition)) [[unlikely]]                                                               \
      ::dpfa::internal::check_failed(__FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__); \
  } while (false)
