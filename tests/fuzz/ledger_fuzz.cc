// Any text is a ledger or is refused with a reason: verify_ledger_text never throws, and what it calls valid
// keeps its promises. A resumed replica of a valid text is valid again.
#include <cmath>
#include <cstdlib>
#include <string>

#include "accounting/ledger.h"
#include "accounting/ledger_chain.h"
#include "accounting/ledger_verify.h"
#include "src/base/error.h"
#include "tests/fuzz/fuzz_check.h"

namespace {

using namespace dpfa::accounting;

void check(const std::string& text) {
  const LedgerReport report = verify_ledger_text(text);
  FUZZ_CHECK(report.valid == report.reason.empty());
  FUZZ_CHECK(report.steps >= report.torn);
  int64_t charges = 0;
  for (const Spending& part : report.spending) charges += part.charges;
  if (!report.valid) return;
  FUZZ_CHECK(charges == report.steps);
  FUZZ_CHECK(!std::isnan(report.epsilon) && report.epsilon >= report.epsilon_charged);
  FUZZ_CHECK(verify_ledger_text(Ledger::in_memory_from_text(text).text()).steps == report.steps);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  check(text);
  // Digests keep random bytes out of what lies behind them, so the same bytes are also chained as fields of a
  // line.
  const nlohmann::json fields = nlohmann::json::parse(text, nullptr, false);
  if (!fields.is_object()) return 0;
  for (const char* name : {"seq", "prev", "kind", "digest"})
    if (fields.contains(name)) return 0;
  std::string digest;
  const std::string kind = fields.value("format", nlohmann::json()).is_string() ? "open" : "charge";
  if (kind == "open") {
    nlohmann::json open = fields;
    if (open.contains("plan")) open["plan_digest"] = blake2b_hex(open.at("plan").dump());
    check(chained_line(0, kNoDigest, kind, open, &digest) + "\n");
    return 0;
  }
  Ledger ledger = Ledger::in_memory({{"private", true}, {"stamps", nlohmann::json::array()}});
  ledger.start({});
  check(ledger.text() + chained_line(ledger.lines(), ledger.digest(), kind, fields, &digest) + "\n");
  return 0;
}
