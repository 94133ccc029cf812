#include "src/cli/ledger_text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

namespace dpfa::cli {
namespace {

using accounting::Certificate;
using accounting::LedgerReport;
using accounting::Verdict;
using nlohmann::json;

// Null where there is no guarantee to state.
json epsilon_json(const LedgerReport& report, double epsilon) {
  return report.valid && report.is_private ? finite_or_text(epsilon) : json();
}

std::string text_field(const json& object, const char* name) {
  return object.is_object() && object.contains(name) && object.at(name).is_string()
             ? object.at(name).get<std::string>()
             : std::string("not stated");
}

std::string exact_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

std::string verdict_name(Verdict verdict) {
  return verdict == Verdict::kConfirmed ? "confirmed"
         : verdict == Verdict::kRefuted ? "refuted"
                                        : "not_derived";
}

void print_second_derivation(const std::string& whose, const Certificate& certificate) {
  std::cout << "second derivation" << whose
            << " (inversion of the Laplace transform with certified error, no code shared with the\n"
               "accountant): ";
  if (certificate.verdict == Verdict::kNotDerived) {
    std::cout << "none. The epsilon rests on the accountant alone: " << certificate.reason << "\n";
    return;
  }
  std::cout << "the exact epsilon lies between " << exact_text(certificate.lower) << " and "
            << exact_text(certificate.upper) << "\n";
  if (certificate.verdict == Verdict::kRefuted) {
    std::cout << "REFUTED: " << certificate.reason << "\n";
  } else if (certificate.gap == 0) {
    std::cout << "confirmed: the reported epsilon is a valid bound\n";
  } else {
    std::cout << "confirmed up to a relative gap of " << short_text(certificate.gap) << "\n";
  }
}

constexpr const char* kTampering =
    "Shown by the ledger itself: a line altered, removed before the end, added, repeated or exchanged; lines "
    "of\n"
    "another ledger; a process start out of turn; a draw used twice; a plan that is not the one opened "
    "with.\n"
    "Shown only against a digest kept elsewhere (the checkpoints of the run folder, --head DIGEST): lines "
    "removed\n"
    "from the end, and a ledger rewritten from the beginning. The chain is no signature: who can rewrite "
    "the\n"
    "ledger, the checkpoints and your note can forge all three.\n"
    "Not shown by any ledger: other runs on the same records (dpfa ledger show --dataset), and whether the "
    "program\n"
    "that wrote it did what it says.\n";

}  // namespace

json finite_or_text(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

std::string short_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

json ledger_json(const LedgerReport& report) {
  const bool has_epsilon = report.valid && report.is_private;
  return {{"valid", report.valid},
          {"reason", report.reason},
          {"private", report.is_private},
          {"not_private_because", report.not_private_because},
          {"epsilon", epsilon_json(report, report.epsilon)},
          {"epsilon_charged", epsilon_json(report, report.epsilon_charged)},
          {"epsilon_outsiders", epsilon_json(report, report.epsilon_outsiders)},
          {"lower_bound", epsilon_json(report, report.lower_bound)},
          {"delta", has_epsilon ? json(report.delta) : json()},
          {"deviation", has_epsilon ? json(report.deviation) : json()},
          {"accountant", has_epsilon ? json(report.accountant) : json()},
          {"relation", has_epsilon ? json(report.relation) : json()},
          {"steps", report.steps},
          {"planned_steps", report.planned_steps},
          {"torn", report.torn},
          {"lines", report.lines},
          {"head", report.head}};
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

json certificate_json(const Certificate& certificate) {
  const bool derived = certificate.verdict != Verdict::kNotDerived;
  return {{"verdict", verdict_name(certificate.verdict)},
          {"reason", certificate.reason},
          {"exact_epsilon_at_least", derived ? finite_or_text(certificate.lower) : json()},
          {"exact_epsilon_at_most", derived ? finite_or_text(certificate.upper) : json()},
          {"relative_gap", derived ? finite_or_text(certificate.gap) : json()}};
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
  std::cout << "epsilon " << short_text(report.epsilon) << " at delta " << short_text(report.delta) << " for "
            << std::max(report.steps, report.planned_steps) << " steps (planned " << report.planned_steps
            << "), epsilon " << short_text(report.epsilon_charged) << " charged so far\n"
            << (report.epsilon_outsiders < report.epsilon
                    ? "this is what colluding ranks may learn; epsilon " +
                          short_text(report.epsilon_outsiders) + " to everybody who is no rank\n"
                    : "")
            << (report.deviation > 0 ? "of delta, (1 + e^epsilon) x " + short_text(report.deviation) +
                                           " pays for draws beyond the room of a step\n"
                                     : "")
            << "accountant " << report.accountant << ", relation " << report.relation
            << "; no analysis can go below " << short_text(report.lower_bound) << "\n";
}

void print_certificate(const LedgerReport& report, const Certificates& certificates, size_t heads) {
  if (report.valid && report.is_private) {
    const json& plan = report.open.at("plan");
    std::cout << "run " << text_field(report.open, "run_id") << " on data set "
              << text_field(report.open, "dataset_id") << ", plan " << text_field(report.open, "plan_digest")
              << "\nprivacy unit " << text_field(plan, "privacy_unit")
              << ", planned: " << report.planned_steps << " x " << plan.at("event").dump() << "\n";
    print_spending(report);
  }
  print_summary(report);
  if (!report.valid || !report.is_private) return;
  const bool differ = report.epsilon_outsiders < report.epsilon;
  print_second_derivation(differ ? " of the epsilon to colluding ranks" : "", certificates.of_ranks);
  if (differ) print_second_derivation(" of that to everybody else", certificates.of_outsiders);
  std::cout << (heads == 0 ? std::string("No digest kept elsewhere was given.\n")
                           : "Compared with " + std::to_string(heads) +
                                 " digest(s) given with --head: all are in it.\n")
            << kTampering;
}

}  // namespace dpfa::cli
