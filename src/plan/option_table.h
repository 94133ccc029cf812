// The one table of all configuration keys: parsing, ranges, to_ini() and docs/configuration.md come from it.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "src/plan/config.h"

namespace dpfa::plan {

// What a value may be. `expected` says it in words that follow "expected".
struct Rule {
  std::string expected;
  std::function<bool(double)> accepts = {};         // numbers
  std::vector<std::string> choices = {};            // texts; empty: any text
  std::vector<std::string> not_in_this_build = {};  // known values that this build refuses as Unsupported
};

struct ConfigOption {
  using Field =
      std::variant<std::string*, bool*, int64_t*, double*, std::optional<int64_t>*, std::optional<double>*>;

  std::string section;
  std::string key;  // the member's name
  Field (*field)(Config&);
  Rule rule;
  std::string help;
};

const std::vector<ConfigOption>& option_table();

}  // namespace dpfa::plan
