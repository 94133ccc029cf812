// `dpfa account`: the privacy calculator.
#include <cmath>
#include <cstdio>
#include <iostream>

#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/calibrate.h"
#include "accounting/cases.h"
#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"

namespace dpfa::cli {
namespace {

using accounting::EpsilonReport;
using accounting::PoissonSampledGaussianEvent;
using nlohmann::json;

constexpr const char* kHelp =
    "usage: dpfa account epsilon|delta|noise-multiplier|steps|check ... [--json]\n"
    "The privacy calculator for Poisson-sampled Gaussian steps, neighbouring relation add_or_remove_one.\n"
    "Every epsilon is an upper bound rounded up, printed with a lower bound below which no analysis can "
    "go.\n\n"
    "  epsilon           --sample_rate Q --noise_multiplier S --steps T --delta D\n"
    "  delta             --sample_rate Q --noise_multiplier S --steps T --epsilon E\n"
    "  noise-multiplier  --target_epsilon E --target_delta D --sample_rate Q --steps T\n"
    "  steps             --target_epsilon E --target_delta D --sample_rate Q --noise_multiplier S\n"
    "  check             FILE: evaluates accounting cases with expected values, one line per case\n\n"
    "`dpfa account VERB --help` explains each.\n";

json finite_or_text(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

// The report of the answer, and what was searched for (if anything) in front of it.
void print_report(const PoissonSampledGaussianEvent& event, int64_t steps, const EpsilonReport& report,
                  bool as_json) {
  if (as_json) {
    const json object = {{"epsilon", finite_or_text(report.epsilon)},
                         {"delta", report.delta},
                         {"accountant", report.accountant},
                         {"relation", accounting::relation_of(event)},
                         {"lower_bound", finite_or_text(report.lower_bound)},
                         {"order", finite_or_text(report.order)},
                         {"sampler", "poisson"},
                         {"sample_rate", event.sample_rate},
                         {"noise_multiplier", event.noise_multiplier},
                         {"steps", steps}};
    std::cout << object.dump() << "\n";
    return;
  }
  std::cout << "epsilon " << text_of(report.epsilon) << " at delta " << text_of(report.delta) << " for "
            << steps << " steps, sample rate " << text_of(event.sample_rate) << ", noise multiplier "
            << json(event.noise_multiplier).dump() << "\naccountant " << report.accountant;
  if (report.order > 0) std::cout << " at order " << text_of(report.order);
  std::cout << "; no analysis can go below epsilon " << text_of(report.lower_bound) << "\nrelation "
            << accounting::relation_of(event) << "; the sampling must be Poisson\n";
}

struct Parameters {
  PoissonSampledGaussianEvent event{0, 0};
  int64_t steps = 0;
  double epsilon = 0, delta = 0;
  bool json = false;
};

Options options(const std::string& verb, const std::string& arguments, const std::string& summary) {
  return Options("dpfa account " + verb + " " + arguments + " [--json]", summary);
}

void add_sample_rate(Options& o, Parameters& p) {
  o.require("sample_rate", &p.event.sample_rate, "probability with which a record enters a step, in [0, 1]");
}
void add_noise(Options& o, Parameters& p) {
  o.require("noise_multiplier", &p.event.noise_multiplier, "standard deviation of the noise / sensitivity");
}
void add_steps(Options& o, Parameters& p) {
  o.require("steps", &p.steps, "number of steps, fixed in advance");
}
void add_json(Options& o, Parameters& p) { o.flag("json", &p.json, "prints one JSON object"); }

// epsilon must be taken from the parameters that a person can pass on, hence from them and not from the
// search.
int print_for(const Parameters& p) {
  print_report(p.event, p.steps, accounting::epsilon_of(p.event, p.steps, p.delta), p.json);
  return 0;
}

int run_epsilon(const Arguments& arguments) {
  Parameters p;
  Options o = options("epsilon", "--sample_rate Q --noise_multiplier S --steps T --delta D",
                      "Epsilon of T steps at delta D.");
  add_sample_rate(o, p), add_noise(o, p), add_steps(o, p), add_json(o, p);
  o.require("delta", &p.delta, "delta, from 0 to below 1");
  return o.parse(arguments) ? print_for(p) : 0;
}

int run_delta(const Arguments& arguments) {
  Parameters p;
  Options o = options("delta", "--sample_rate Q --noise_multiplier S --steps T --epsilon E",
                      "The smallest delta for which T steps are (E, delta)-differentially private.");
  add_sample_rate(o, p), add_noise(o, p), add_steps(o, p), add_json(o, p);
  o.require("epsilon", &p.epsilon, "epsilon, at least 0");
  if (!o.parse(arguments)) return 0;
  const double delta = accounting::delta_of(p.event, p.steps, p.epsilon);
  // At delta 1 everything is private, and the accountant of an epsilon has nothing to say.
  EpsilonReport report{0, 1, 0, "trivial", 0};
  if (delta < 1) report = accounting::epsilon_of(p.event, p.steps, delta);
  report.delta = delta;
  report.epsilon = p.epsilon;
  report.lower_bound = std::min(report.lower_bound, p.epsilon);
  print_report(p.event, p.steps, report, p.json);
  return 0;
}

void add_target(Options& o, Parameters& p) {
  o.require("target_epsilon", &p.epsilon, "the result has at most this epsilon");
  o.require("target_delta", &p.delta, "at this delta");
}

int run_noise_multiplier(const Arguments& arguments) {
  Parameters p;
  Options o = options("noise-multiplier", "--target_epsilon E --target_delta D --sample_rate Q --steps T",
                      "The smallest noise multiplier whose reported epsilon does not exceed E.");
  add_target(o, p), add_sample_rate(o, p), add_steps(o, p), add_json(o, p);
  if (!o.parse(arguments)) return 0;
  p.event.noise_multiplier =
      accounting::noise_multiplier_for(p.epsilon, p.delta, p.event.sample_rate, p.steps);
  return print_for(p);
}

int run_steps(const Arguments& arguments) {
  Parameters p;
  Options o =
      options("steps", "--target_epsilon E --target_delta D --sample_rate Q --noise_multiplier S",
              "The largest number of steps whose reported epsilon does not exceed E (0: not even one).");
  add_target(o, p), add_sample_rate(o, p), add_noise(o, p), add_json(o, p);
  if (!o.parse(arguments)) return 0;
  p.steps = accounting::steps_for(p.epsilon, p.delta, p.event.sample_rate, p.event.noise_multiplier);
  return print_for(p);
}

int run_check(const Arguments& arguments) {
  std::string file;
  bool as_json = false;
  Options o("dpfa account check FILE [--json]",
            "Evaluates a JSON array of cases (mechanism, params, quantity, expected, tolerance, check) and "
            "compares:\n"
            "one line per case, then the counts. Exit code 0 where no case failed (cases that are not "
            "understood are\n"
            "counted and do not fail), 5 where one did, 7 where the file is no array of cases.");
  o.positional("file", &file, "the case file").flag("json", &as_json, "one JSON object per line");
  if (!o.parse(arguments)) return 0;
  int64_t passed = 0, failed = 0, not_understood = 0;
  for (const json& test_case : accounting::read_cases(file)) {
    const accounting::CaseResult result = accounting::evaluate_case(test_case);
    int64_t& count = result.value.is_null() ? not_understood : result.pass ? passed : failed;
    ++count;
    if (as_json) {
      const json line = {{"id", result.id},
                         {"value", result.value},
                         {"expected", result.expected},
                         {"pass", result.pass},
                         {"message", result.message}};
      std::cout << line.dump() << "\n";
    } else {
      std::cout << (result.value.is_null() ? "?    "
                    : result.pass          ? "pass "
                                           : "FAIL ")
                << result.id << "  value " << result.value.dump() << "  expected " << result.expected.dump()
                << (result.message.empty() ? "" : "  " + result.message) << "\n";
    }
  }
  if (as_json) {
    std::cout << json{{"passed", passed}, {"failed", failed}, {"not_understood", not_understood}}.dump()
              << "\n";
  } else {
    std::cout << passed << " passed, " << failed << " failed, " << not_understood << " not understood\n";
  }
  return failed == 0 ? 0 : static_cast<int>(ExitCode::kState);
}

}  // namespace

int run_account(const Arguments& arguments) {
  const std::string verb = arguments.empty() ? "" : arguments.front();
  if (verb == "--help") {
    std::cout << kHelp;
    return 0;
  }
  const Arguments rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  if (verb == "epsilon") return run_epsilon(rest);
  if (verb == "delta") return run_delta(rest);
  if (verb == "noise-multiplier" || verb == "noise_multiplier") return run_noise_multiplier(rest);
  if (verb == "steps") return run_steps(rest);
  if (verb == "check") return run_check(rest);
  throw ConfigError(
      (verb.empty() ? std::string("dpfa account needs a verb") : "dpfa account has no verb '" + verb + "'") +
      ": epsilon, delta, noise-multiplier, steps or check (--help explains them)");
}

}  // namespace dpfa::cli
