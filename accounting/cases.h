// Accounting cases with expected values: evaluation of files in the schema of `dpfa account check`.
//
// A case names a mechanism, a quantity, parameters and an expected value with a tolerance and a kind of
// check. It is evaluated only where every one of its parameters is understood and the quantity is computed as
// defined: exactly or as the named bound. Anything else is "not understood", with the reason, and never a
// guess.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace dpfa::accounting {

struct CaseResult {
  std::string id;
  nlohmann::json value;     // null where not understood; an infinite value is the text "inf"
  nlohmann::json expected;  // as in the case
  bool pass = false;
  std::string message;  // why it failed or was not understood
};

// One case; never throws for an odd one.
CaseResult evaluate_case(const nlohmann::json& test_case);

// All cases of a file, which must hold a JSON array; otherwise throws IoError.
std::vector<nlohmann::json> read_cases(const std::filesystem::path& file);

}  // namespace dpfa::accounting
