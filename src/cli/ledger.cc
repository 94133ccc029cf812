// `dpfa ledger`: what a run has spent, and whether its ledger is intact.
#include <algorithm>
#include <iostream>

#include "accounting/certificate.h"
#include "accounting/ledger_verify.h"
#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/ledger_dataset.h"
#include "src/cli/ledger_text.h"
#include "src/cli/options.h"

namespace dpfa::cli {
namespace {

using accounting::LedgerReport;
using nlohmann::json;

constexpr const char* kHelp =
    "usage: dpfa ledger show|verify RUN [--json]\n"
    "       dpfa ledger show --dataset DIR|ID --runs DIR... [--json]\n"
    "RUN is a run directory (with ledger.jsonl) or a ledger file.\n\n"
    "  show    prints what the run has spent, by process start and range of steps; with --dataset what all "
    "runs on\n"
    "          one data set cost together\n"
    "  verify  checks the ledger's chain, computes epsilon from its charges alone, derives it a second time "
    "by "
    "other\n"
    "          arithmetic, and prints a certificate; --head DIGEST names a line's digest that you noted "
    "earlier, so\n"
    "          that lines missing at the end show too\n\n"
    "Exit codes: 0 the chain is intact (also of a run that is NOT PRIVATE, for which no epsilon is "
    "printed),\n"
    "5 it is not, or the two derivations contradict each other, 7 the ledger cannot be read.\n";

int exit_code(const LedgerReport& report) { return report.valid ? 0 : static_cast<int>(ExitCode::kState); }

bool names_dataset(const std::string& word) { return word == "--dataset" || word.starts_with("--dataset="); }

int run_show(const Arguments& arguments) {
  if (std::any_of(arguments.begin(), arguments.end(), names_dataset)) return show_dataset(arguments);
  std::string run;
  bool as_json = false;
  Options options("dpfa ledger show RUN [--json]",
                  "Prints what a run has spent, by process start and range of steps.\n"
                  "With --dataset it prints what all runs on one data set cost together: dpfa ledger show "
                  "--dataset X --help.");
  options.positional("run", &run, "run directory or ledger file")
      .flag("json", &as_json, "prints one JSON object");
  if (!options.parse(arguments)) return 0;
  const LedgerReport report = accounting::verify_ledger(run);
  if (as_json) {
    json object = ledger_json(report);
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
                  "Checks the chain of a run's ledger, computes epsilon from its charges alone, derives it a "
                  "second time by other\narithmetic, and prints a certificate.");
  options.positional("run", &run, "run directory or ledger file")
      .add("head", &heads, "a digest noted earlier, which the ledger must still hold (may be repeated)")
      .flag("json", &as_json, "prints one JSON object");
  if (!options.parse(arguments)) return 0;
  std::vector<accounting::LedgerAnchor> anchors;
  for (const std::string& head : heads) anchors.push_back({0, head, "--head"});
  LedgerReport report = accounting::verify_ledger(run, anchors);
  using accounting::Observer;
  const Certificates certificates = {accounting::certify(report, Observer::kColludingRanks),
                                     accounting::certify(report, Observer::kOutsiders)};
  for (const accounting::Certificate& certificate : {certificates.of_ranks, certificates.of_outsiders}) {
    if (certificate.verdict != accounting::Verdict::kRefuted) continue;
    report.valid = false;
    report.reason = "the second derivation refutes the accountant: " + certificate.reason +
                    ". This is a defect of dpfa; report it with this ledger";
  }
  if (as_json) {
    json object = ledger_json(report);
    object["certificate"] = certificate_json(certificates.of_ranks);
    object["certificate_outsiders"] = certificate_json(certificates.of_outsiders);
    std::cout << object.dump() << "\n";
  } else {
    print_certificate(report, certificates, heads.size());
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
