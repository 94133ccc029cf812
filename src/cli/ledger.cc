// `dpfa ledger`: what a run has spent, and whether its ledger is intact.
#include <cmath>
#include <cstdio>
#include <iostream>

#include <nlohmann/json.hpp>

#include "accounting/ledger_verify.h"
#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"

namespace dpfa::cli {
namespace {

using accounting::LedgerReport;
using nlohmann::json;

constexpr const char* kHelp =
    "usage: dpfa ledger show|verify RUN [--json]\n"
    "RUN is a run directory (with ledger.jsonl) or a ledger file.\n\n"
    "  show    prints what the run has spent, by process start and range of steps\n"
    "  verify  checks the ledger's chain and computes epsilon from its charges alone; --head DIGEST names a "
    "line's\n"
    "          digest that you noted earlier, so that lines missing at the end show too\n\n"
    "Exit codes: 0 the chain is intact (also of a run that is NOT PRIVATE, for which no epsilon is "
    "printed),\n"
    "5 it is not, 7 the ledger cannot be read.\n";

// Null where there is no guarantee to state.
json epsilon_json(const LedgerReport& report, double epsilon) {
  if (!report.valid || !report.is_private) return nullptr;
  if (std::isinf(epsilon)) return "inf";
  return epsilon;
}

json spending_json(const LedgerReport& report) {
  json list = json::array();
  for (const accounting::Spending& part : report.spending) {
    list.push_back({{"incarnation", part.incarnation},
                    {"first_step", part.first_step < 0 ? json() : json(part.first_step)},
                    {"last_step", part.last_step < 0 ? json() : json(part.last_step)},
                    {"charges", part.charges},
                    {"event", part.event},
                    {"torn", part.event.is_null()}});
  }
  return list;
}

json to_json(const LedgerReport& report) {
  const bool has_epsilon = report.valid && report.is_private;
  return {{"valid", report.valid},
          {"reason", report.reason},
          {"private", report.is_private},
          {"not_private_because", report.not_private_because},
          {"epsilon", epsilon_json(report, report.epsilon)},
          {"epsilon_charged", epsilon_json(report, report.epsilon_charged)},
          {"lower_bound", epsilon_json(report, report.lower_bound)},
          {"delta", has_epsilon ? json(report.delta) : json()},
          {"accountant", has_epsilon ? json(report.accountant) : json()},
          {"relation", has_epsilon ? json(report.relation) : json()},
          {"steps", report.steps},
          {"planned_steps", report.planned_steps},
          {"torn", report.torn},
          {"lines", report.lines},
          {"head", report.head}};
}

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

void print_summary(const LedgerReport& report) {
  if (!report.valid) {
    std::cout << "INVALID: " << report.reason << "\n";
    return;
  }
  std::cout << "chain intact: " << report.lines << " lines, last digest " << report.head << "\n"
            << report.steps << " steps charged";
  if (report.torn > 0) std::cout << " (" << report.torn << " of them lines that a crash cut off)";
  std::cout << "\n";
  if (!report.is_private) {
    std::cout << "NOT PRIVATE: " << report.not_private_because << ". No epsilon exists for this run.\n";
    return;
  }
  std::cout << "epsilon " << text_of(report.epsilon) << " at delta " << text_of(report.delta) << " for "
            << std::max(report.steps, report.planned_steps) << " steps (planned " << report.planned_steps
            << "), epsilon " << text_of(report.epsilon_charged) << " charged so far\n"
            << "accountant " << report.accountant << ", relation " << report.relation
            << "; no analysis can go below " << text_of(report.lower_bound) << "\n";
}

void print_spending(const LedgerReport& report) {
  for (const accounting::Spending& part : report.spending) {
    std::cout << "incarnation " << part.incarnation << ": ";
    if (part.event.is_null()) {
      std::cout << part.charges << " line(s) cut off by a crash, charged as planned steps\n";
      continue;
    }
    std::cout << "steps " << part.first_step << " to " << part.last_step << ", " << part.charges
              << " charges of " << part.event.dump() << "\n";
  }
}

int exit_code(const LedgerReport& report) { return report.valid ? 0 : static_cast<int>(ExitCode::kState); }

int run_show(const Arguments& arguments) {
  std::string run;
  bool as_json = false;
  Options options("dpfa ledger show RUN [--json]",
                  "Prints what a run has spent, by process start and range of steps.");
  options.positional("run", &run, "run directory or ledger file")
      .flag("json", &as_json, "prints one JSON object");
  if (!options.parse(arguments)) return 0;
  const LedgerReport report = accounting::verify_ledger(run);
  if (as_json) {
    json object = to_json(report);
    object["spending"] = spending_json(report);
    object["open"] = report.open;
    std::cout << object.dump() << "\n";
  } else {
    print_spending(report);
    print_summary(report);
  }
  return exit_code(report);
}

int run_verify(const Arguments& arguments) {
  std::string run;
  std::vector<std::string> heads;
  bool as_json = false;
  Options options("dpfa ledger verify RUN [--json] [--head DIGEST]",
                  "Checks the chain of a run's ledger and computes epsilon from its charges alone.");
  options.positional("run", &run, "run directory or ledger file")
      .add("head", &heads, "a digest noted earlier, which the ledger must still hold (may be repeated)")
      .flag("json", &as_json, "prints one JSON object");
  if (!options.parse(arguments)) return 0;
  std::vector<accounting::LedgerAnchor> anchors;
  for (const std::string& head : heads) anchors.push_back({0, head, "--head"});
  const LedgerReport report = accounting::verify_ledger(run, anchors);
  if (as_json) {
    std::cout << to_json(report).dump() << "\n";
  } else {
    print_summary(report);
  }
  return exit_code(report);
}

}  // namespace

int run_ledger(const Arguments& arguments) {
  const std::string verb = arguments.empty() ? "" : arguments.front();
  if (verb == "--help") {
    std::cout << kHelp;
    return 0;
  }
  const Arguments rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  if (verb == "show") return run_show(rest);
  if (verb == "verify") return run_verify(rest);
  throw ConfigError(
      (verb.empty() ? std::string("dpfa ledger needs a verb") : "dpfa ledger has no verb '" + verb + "'") +
      ": show or verify (--help explains them)");
}

}  // namespace dpfa::cli
