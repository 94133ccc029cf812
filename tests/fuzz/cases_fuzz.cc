// Any JSON is a case or is not understood: evaluate_case never throws, and a case without a value never
// passes.
#include <string>

#include "accounting/cases.h"
#include "tests/fuzz/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto document =
      nlohmann::json::parse(std::string(reinterpret_cast<const char*>(data), size), nullptr, false);
  const auto check = [](const nlohmann::json& test_case) {
    const dpfa::accounting::CaseResult result = dpfa::accounting::evaluate_case(test_case);
    FUZZ_CHECK(!result.value.is_null() || (!result.pass && !result.message.empty()));
    FUZZ_CHECK(result.value.is_null() || result.value.is_number() || result.value.is_string() ||
               result.value.is_array());
  };
  if (document.is_array()) {
    for (const auto& test_case : document) check(test_case);
  } else if (!document.is_discarded()) {
    check(document);
  }
  return 0;
}
