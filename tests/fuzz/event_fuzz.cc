// Any JSON is an event or a typed error; an event survives the round trip, and its JSON is the same again.
#include <string>

#include "accounting/event.h"
#include "src/base/error.h"
#include "tests/fuzz/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto document =
      nlohmann::json::parse(std::string(reinterpret_cast<const char*>(data), size), nullptr, false);
  if (document.is_discarded()) return 0;
  try {
    const nlohmann::json written = dpfa::accounting::to_json(dpfa::accounting::event_from_json(document));
    FUZZ_CHECK(dpfa::accounting::to_json(dpfa::accounting::event_from_json(written)) == written);
  } catch (const dpfa::Error& error) {
    FUZZ_CHECK(error.code() == dpfa::ExitCode::kUnsupported || error.code() == dpfa::ExitCode::kConfig);
  }
  return 0;
}
