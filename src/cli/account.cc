// `dpfa account`: the privacy calculator.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <limits>

#include <nlohmann/json.hpp>

#include "accounting/accountant.h"
#include "accounting/calibrate.h"
#include "accounting/cases.h"
#include "accounting/repeat_select.h"
#include "accounting/text_file.h"
#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/plan/value.h"

namespace dpfa::cli {
namespace {

using accounting::Charge;
using accounting::EpsilonReport;
using accounting::PoissonSampledGaussianEvent;
using nlohmann::json;

constexpr const char* kHelp =
    "usage: dpfa account epsilon|delta|trade-off|noise-multiplier|steps|sample-rate|check ... [--json]\n"
    "The privacy calculator: for Poisson-sampled Gaussian steps, neighbouring relation add_or_remove_one,\n"
    "or for any list of events. Every epsilon is an upper bound rounded up, printed with a lower bound "
    "below\n"
    "which no analysis can go.\n\n"
    "  epsilon           --sample_rate Q --noise_multiplier S --steps T --delta D\n"
    "                    --events FILE --delta D [--repeat_mean M [--repeat_shape H]]\n"
    "  delta             --sample_rate Q --noise_multiplier S --steps T --epsilon E\n"
    "                    --events FILE --epsilon E\n"
    "  trade-off         as epsilon, [--fpr F] in place of delta: largest true-positive rates\n"
    "  noise-multiplier  --target_epsilon E --target_delta D --sample_rate Q --steps T\n"
    "  steps             --target_epsilon E --target_delta D --sample_rate Q --noise_multiplier S\n"
    "  sample-rate       --target_epsilon E --target_delta D --noise_multiplier S --steps T\n"
    "  check             FILE: evaluates accounting cases with expected values, one line per case\n\n"
    "`dpfa account VERB --help` explains each.\n";

constexpr const char* kEventsHelp =
    "\nFILE is a JSON list of {\"event\": {\"mechanism\": NAME, ...}, \"count\": N}, all of one neighbouring "
    "relation;\ndocs/accounting.md lists the mechanisms and their fields.";

json finite_or_text(double value) {
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

// What is accounted: `steps` of one event, or the charges of a file.
struct Parameters {
  std::optional<double> sample_rate, noise_multiplier;
  std::optional<int64_t> steps;
  std::optional<std::string> events;
  double epsilon = 0, delta = 0;
  bool json = false;

  std::vector<Charge> charges;  // set by resolve()
};

PoissonSampledGaussianEvent step_of(const Parameters& p) {
  return PoissonSampledGaussianEvent{*p.sample_rate, *p.noise_multiplier};
}

// The list is the list of parts of a composition.
std::vector<Charge> read_events(const std::string& file) {
  const json list = json::parse(accounting::read_text_file(file), nullptr, false);
  if (!list.is_array()) throw IoError("'" + file + "' is not a JSON list of events");
  const accounting::Event composed =
      accounting::event_from_json({{"mechanism", "composed"}, {"parts", list}});
  return std::get<accounting::ComposedEvent>(composed).parts;
}

void resolve(Parameters& p) {
  const bool any = p.sample_rate || p.noise_multiplier || p.steps;
  if (p.events && any) throw ConfigError("--events replaces --sample_rate, --noise_multiplier and --steps");
  if (p.events) {
    p.charges = read_events(*p.events);
    if (p.charges.empty()) throw ConfigError("'" + *p.events + "' lists no events");
    return;
  }
  if (!p.sample_rate || !p.noise_multiplier || !p.steps) {
    throw ConfigError("give --sample_rate, --noise_multiplier and --steps, or --events FILE");
  }
  p.charges = {{step_of(p), *p.steps}};
}

json report_json(const Parameters& p, const EpsilonReport& report) {
  json object = {{"epsilon", finite_or_text(report.epsilon)},
                 {"delta", report.delta},
                 {"accountant", report.accountant},
                 {"relation", accounting::relation_of(p.charges.front().event)},
                 {"lower_bound", finite_or_text(report.lower_bound)},
                 {"order", finite_or_text(report.order)}};
  if (p.events) {
    object["events"] = p.charges.size();
  } else {
    object.update({{"sampler", "poisson"},
                   {"sample_rate", *p.sample_rate},
                   {"noise_multiplier", *p.noise_multiplier},
                   {"steps", *p.steps}});
  }
  return object;
}

void print_report(const Parameters& p, const EpsilonReport& report) {
  if (p.json) {
    std::cout << report_json(p, report).dump() << "\n";
    return;
  }
  std::cout << "epsilon " << text_of(report.epsilon) << " at delta " << text_of(report.delta) << " for ";
  if (p.events) {
    std::cout << p.charges.size() << " listed event(s)";
  } else {
    std::cout << *p.steps << " steps, sample rate " << json(*p.sample_rate).dump() << ", noise multiplier "
              << json(*p.noise_multiplier).dump();
  }
  std::cout << "\naccountant " << report.accountant;
  if (report.order > 0) std::cout << " at order " << text_of(report.order);
  std::cout << "; no analysis can go below epsilon " << text_of(report.lower_bound) << "\nrelation "
            << accounting::relation_of(p.charges.front().event)
            << (p.events ? "; the sampling must be that of each event\n"
                         : "; the sampling must be Poisson\n");
}

Options options(const std::string& verb, const std::string& arguments, const std::string& summary) {
  return Options("dpfa account " + verb + " " + arguments + " [--json]", summary);
}

constexpr const char* kRateHelp = "probability with which a record enters a step, in [0, 1]";
constexpr const char* kNoiseHelp = "standard deviation of the noise / sensitivity";
constexpr const char* kStepsHelp = "number of steps, fixed in advance";

void add_json(Options& o, Parameters& p) { o.flag("json", &p.json, "prints one JSON object"); }

void add_charges(Options& o, Parameters& p) {
  o.add("sample_rate", &p.sample_rate, kRateHelp)
      .add("noise_multiplier", &p.noise_multiplier, kNoiseHelp)
      .add("steps", &p.steps, kStepsHelp)
      .add("events", &p.events, "JSON list of events, in place of the three above");
}

// epsilon must be taken from the parameters that a person can pass on, hence from them and not from the
// search.
int print_for(Parameters& p) {
  resolve(p);
  print_report(p, accounting::epsilon_of(p.charges, p.delta));
  return 0;
}

accounting::RunCount run_count(double mean, const std::string& shape) {
  if (shape == "poisson") return {mean, std::numeric_limits<double>::infinity()};
  const auto value = plan::parse_real(shape);
  if (!value) throw ConfigError("--repeat_shape " + shape + ": expected a number above -1, or poisson");
  return {mean, *value};
}

int run_epsilon(const Arguments& arguments) {
  Parameters p;
  std::optional<double> repeat_mean;
  std::string repeat_shape = "1";
  Options o = options("epsilon", "(--sample_rate Q --noise_multiplier S --steps T | --events FILE) --delta D",
                      std::string("Epsilon at delta D of T steps, or of a list of events.") + kEventsHelp);
  add_charges(o, p);
  o.require("delta", &p.delta, "delta, from 0 to below 1");
  o.add("repeat_mean", &repeat_mean,
        "epsilon of releasing the best of K such runs, K random with this mean, each of a random setting");
  o.add("repeat_shape", &repeat_shape,
        "law of K: 1 geometric, 0 logarithmic, > -1 negative binomial, or poisson");
  add_json(o, p);
  if (!o.parse(arguments)) return 0;
  if (!repeat_mean) return print_for(p);
  resolve(p);
  const auto bound =
      accounting::repeat_and_select_epsilon(p.charges, run_count(*repeat_mean, repeat_shape), p.delta);
  // No lower bound is known: the choice of the best can hide as well as show.
  print_report(p, {bound.value, p.delta, 0, "rdp_repeat_and_select", bound.order});
  return 0;
}

int run_delta(const Arguments& arguments) {
  Parameters p;
  Options o = options("delta", "(--sample_rate Q --noise_multiplier S --steps T | --events FILE) --epsilon E",
                      std::string("The smallest delta for which T steps, or a list of events, are (E, "
                                  "delta)-differentially private.") +
                          kEventsHelp);
  add_charges(o, p), add_json(o, p);
  o.require("epsilon", &p.epsilon, "epsilon, at least 0");
  if (!o.parse(arguments)) return 0;
  resolve(p);
  const double delta = accounting::delta_of(p.charges, p.epsilon);
  // At delta 1 everything is private, and the accountant of an epsilon has nothing to say.
  EpsilonReport report{0, 1, 0, "trivial", 0};
  if (delta < 1) report = accounting::epsilon_of(p.charges, delta);
  report.delta = delta;
  report.epsilon = p.epsilon;
  report.lower_bound = std::min(report.lower_bound, p.epsilon);
  print_report(p, report);
  return 0;
}

int run_trade_off(const Arguments& arguments) {
  Parameters p;
  double fpr = 0;
  Options o =
      options("trade-off", "(--sample_rate Q --noise_multiplier S --steps T | --events FILE) [--fpr F]",
              std::string("The largest true-positive rate that any test of whether a record was used can "
                          "reach, by false-positive rate.") +
                  kEventsHelp);
  add_charges(o, p), add_json(o, p);
  o.add("fpr", &fpr, "this false-positive rate alone, from 0 to 1 (default 0: a table)");
  if (!o.parse(arguments)) return 0;
  resolve(p);
  std::vector<double> rates = {fpr};
  if (fpr == 0) rates = {1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5};
  nlohmann::json curve = nlohmann::json::array();
  for (const double rate : rates) {
    const double bound = accounting::true_positive_rate_bound(p.charges, rate);
    curve.push_back({{"fpr", rate}, {"tpr", bound}});
    if (!p.json) std::cout << "fpr " << text_of(rate) << "  tpr at most " << text_of(bound) << "\n";
  }
  if (p.json) std::cout << nlohmann::json{{"trade_off", curve}}.dump() << "\n";
  return 0;
}

void add_target(Options& o, Parameters& p) {
  o.require("target_epsilon", &p.epsilon, "the result has at most this epsilon");
  o.require("target_delta", &p.delta, "at this delta");
}

int run_noise_multiplier(const Arguments& arguments) {
  Parameters p;
  double rate = 0;
  int64_t steps = 0;
  Options o = options("noise-multiplier", "--target_epsilon E --target_delta D --sample_rate Q --steps T",
                      "The smallest noise multiplier whose reported epsilon does not exceed E.");
  add_target(o, p), add_json(o, p);
  o.require("sample_rate", &rate, kRateHelp).require("steps", &steps, kStepsHelp);
  if (!o.parse(arguments)) return 0;
  p.sample_rate = rate, p.steps = steps;
  p.noise_multiplier = accounting::noise_multiplier_for(p.epsilon, p.delta, rate, steps);
  return print_for(p);
}

int run_steps(const Arguments& arguments) {
  Parameters p;
  double rate = 0, noise = 0;
  Options o =
      options("steps", "--target_epsilon E --target_delta D --sample_rate Q --noise_multiplier S",
              "The largest number of steps whose reported epsilon does not exceed E (0: not even one).");
  add_target(o, p), add_json(o, p);
  o.require("sample_rate", &rate, kRateHelp).require("noise_multiplier", &noise, kNoiseHelp);
  if (!o.parse(arguments)) return 0;
  p.sample_rate = rate, p.noise_multiplier = noise;
  p.steps = accounting::steps_for(p.epsilon, p.delta, rate, noise);
  return print_for(p);
}

int run_sample_rate(const Arguments& arguments) {
  Parameters p;
  double noise = 0;
  int64_t steps = 0;
  Options o = options("sample-rate", "--target_epsilon E --target_delta D --noise_multiplier S --steps T",
                      "The largest sample rate whose reported epsilon does not exceed E.");
  add_target(o, p), add_json(o, p);
  o.require("noise_multiplier", &noise, kNoiseHelp).require("steps", &steps, kStepsHelp);
  if (!o.parse(arguments)) return 0;
  p.noise_multiplier = noise, p.steps = steps;
  p.sample_rate = accounting::sample_rate_for(p.epsilon, p.delta, noise, steps);
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
  if (verb == "trade-off" || verb == "trade_off") return run_trade_off(rest);
  if (verb == "noise-multiplier" || verb == "noise_multiplier") return run_noise_multiplier(rest);
  if (verb == "steps") return run_steps(rest);
  if (verb == "sample-rate" || verb == "sample_rate") return run_sample_rate(rest);
  if (verb == "check") return run_check(rest);
  throw ConfigError(
      (verb.empty() ? std::string("dpfa account needs a verb") : "dpfa account has no verb '" + verb + "'") +
      ": epsilon, delta, trade-off, noise-multiplier, steps, sample-rate or check (--help explains them)");
}

}  // namespace dpfa::cli
