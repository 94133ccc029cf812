// Text to values, the same way in configuration files and on the command line. nullopt: the whole text is not
// one such value (trailing characters, overflow and non-finite numbers included).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dpfa::plan {

std::optional<int64_t> parse_integer(std::string_view text);  // 1000, -3, 1e6
std::optional<double> parse_real(std::string_view text);      // nearest double of a decimal number
std::optional<bool> parse_boolean(std::string_view text);     // true false yes no on off 1 0

// Shortest decimal text that parse_real reads back to the same bits.
std::string format_real(double value);

// `name` with "-" replaced by "_": both spellings name the same option.
std::string canonical_name(std::string_view name);

// "; did you mean X?" for the name of `names` with the smallest edit distance, empty where none is near.
std::string suggestion(std::string_view name, const std::vector<std::string>& names);

}  // namespace dpfa::plan
