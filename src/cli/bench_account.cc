#include "src/cli/bench_account.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <iostream>

#include "accounting/accountant.h"
#include "accounting/calibrate.h"
#include "accounting/inversion.h"
#include "accounting/rdp.h"
#include "src/base/error.h"
#include "src/cli/bench_report.h"
#include "src/cli/facts.h"
#include "src/cli/options.h"

namespace dpfa::cli {
namespace {

using accounting::Charge;
using accounting::PoissonSampledGaussianEvent;
using nlohmann::json;
using Work = std::function<double()>;  // returns what it computed, so that it cannot be left out

struct Benchmark {
  std::string name;
  double target;  // seconds
  Work work;
  std::string baseline;
  Work baseline_work;
  std::function<json(double result)> facts;  // about the result; not timed
};

double seconds_of(const Work& work, double* result) {
  const auto start = std::chrono::steady_clock::now();
  *result = work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Peak resident memory of a child process that does nothing else.
double peak_mib(const Work& work) {
  const pid_t child = fork();
  if (child < 0) throw IoError("cannot start a child process to measure memory");
  if (child == 0) {
    int code = 0;
    try {
      work();
    } catch (const std::exception&) {
      code = 1;
    }
    _exit(code);
  }
  int status = 0;
  struct rusage usage {};
  if (wait4(child, &status, 0, &usage) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw InternalError("the child process that measures memory failed");
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

Benchmark renyi_grid() {
  static constexpr int kOrders = 150;
  std::vector<double> orders;
  for (int i = 0; i < kOrders; ++i) orders.push_back(1 + 0.01 * std::pow(1e5, i / (kOrders - 1.0)));
  const auto at_all = [orders](const std::function<double(double)>& rdp) {
    double sum = 0;
    for (const double order : orders) sum += rdp(order);
    return sum;
  };
  return {
      "account/rdp/150-orders",
      1e-3,
      [=] { return at_all(accounting::SampledGaussianRdp(0.01, 1)); },
      "the same orders, each by itself",
      [=] { return at_all([](double order) { return accounting::sampled_gaussian_rdp(0.01, 1, order); }); },
      [](double) {
        return json{{"orders", kOrders}};
      }};
}

Benchmark long_composition() {
  constexpr double kDelta = 1e-6;
  constexpr int64_t kSteps = 1000000;
  const PoissonSampledGaussianEvent event{0.01, 1};
  return {"account/pld/T1e6",
          0.05,
          [=] { return accounting::epsilon_upper_bound(event, kSteps, kDelta); },
          "the second derivation of `ledger verify`",
          [=] {
            const accounting::GaussianSteps steps{0.01, 1, kSteps};
            return accounting::certified_epsilon(std::span(&steps, 1), kDelta, 150).upper;
          },
          [=](double epsilon) {
            const accounting::GaussianSteps steps{0.01, 1, kSteps};
            const double exact = accounting::certified_epsilon(std::span(&steps, 1), kDelta, epsilon).lower;
            return json{{"epsilon", epsilon},
                        {"accountant", accounting::epsilon_of(event, kSteps, kDelta).accountant},
                        {"exact_epsilon_at_least", exact},
                        {"slack", epsilon / exact - 1}};
          }};
}

Benchmark calibration() {
  constexpr double kTarget = 1, kDelta = 1e-6, kRate = 0.01;
  constexpr int64_t kSteps = 10000;
  return {"account/calibration/T1e4",
          0.5,
          [] { return accounting::noise_multiplier_for(kTarget, kDelta, kRate, kSteps); },
          "one epsilon of such a run",
          [] {
            return accounting::epsilon_upper_bound(PoissonSampledGaussianEvent{kRate, 4.3}, kSteps, kDelta);
          },
          [](double noise) {
            return json{{"noise_multiplier", noise},
                        {"epsilon", accounting::epsilon_upper_bound(PoissonSampledGaussianEvent{kRate, noise},
                                                                    kSteps, kDelta)}};
          }};
}

Benchmark distinct_events() {
  constexpr int kEvents = 100000;
  constexpr double kDelta = 1e-6;
  std::vector<Charge> charges;
  for (int i = 0; i < kEvents; ++i) {
    const double part = i / (kEvents - 1.0);
    charges.push_back({PoissonSampledGaussianEvent{0.002 * (1 + part), 0.8 + 0.4 * part * part}, 1});
  }
  return {"account/events/1e5",
          5,
          [=] { return accounting::epsilon_upper_bound(charges, kDelta); },
          "as many equal events",
          [=] {
            return accounting::epsilon_upper_bound(PoissonSampledGaussianEvent{0.003, 0.9}, kEvents, kDelta);
          },
          [=](double epsilon) {
            const double lower = accounting::epsilon_of(charges, kDelta).lower_bound;
            return json{{"epsilon", epsilon}, {"lower_bound", lower}, {"slack", epsilon / lower - 1}};
          }};
}

json measure(const Benchmark& benchmark, int64_t repeats) {
  std::vector<double> seconds, baseline_seconds;
  double result = 0, ignored = 0;
  const double peak = peak_mib(benchmark.work), baseline_peak = peak_mib(benchmark.baseline_work);
  for (int64_t k = 0; k <= repeats; ++k) {
    const double mine = seconds_of(benchmark.work, &result);
    const double other = seconds_of(benchmark.baseline_work, &ignored);
    if (k == 0) continue;  // first touch of code and memory
    seconds.push_back(mine);
    baseline_seconds.push_back(other);
  }
  json object = {{"case", benchmark.name},
                 {"seconds", median(seconds)},
                 {"target_seconds", benchmark.target},
                 {"baseline", benchmark.baseline},
                 {"baseline_seconds", median(baseline_seconds)},
                 {"ratio", median(seconds) / median(baseline_seconds)},
                 {"repeats", repeats},
                 {"peak_rss_mib", peak},
                 {"baseline_peak_rss_mib", baseline_peak},
                 {"all_seconds", seconds},
                 {"all_baseline_seconds", baseline_seconds}};
  object.update(benchmark.facts(result));
  return object;
}

void print(const json& result) {
  std::printf("%-26s %10.3g s  (target %g s)  %10.3g s %s\n", result.at("case").get<std::string>().c_str(),
              result.at("seconds").get<double>(), result.at("target_seconds").get<double>(),
              result.at("baseline_seconds").get<double>(), result.at("baseline").get<std::string>().c_str());
  for (const char* name : {"noise_multiplier", "epsilon", "slack"})
    if (result.contains(name)) std::printf("    %s %.10g\n", name, result.at(name).get<double>());
  std::fflush(stdout);
}

}  // namespace

int bench_account(const Arguments& arguments) {
  int64_t repeats = 5;
  std::string only;
  bool as_json = false;
  Options options(
      "dpfa bench account [--repeats N] [--only CASE] [--json]",
      "Times the accountant on one thread: all Renyi orders of one event, epsilon of a million steps, a\n"
      "calibration, and a schedule of 1e5 distinct events; each beside a baseline, in turn.");
  options.add("repeats", &repeats, "timed repeats of each, after one that is not timed")
      .add("only", &only, "only the cases whose name holds this text")
      .flag("json", &as_json, "one JSON object");
  if (!options.parse(arguments)) return 0;
  if (repeats < 1) throw ConfigError("--repeats must be at least 1");
  json results = json::array();
  for (const Benchmark& benchmark : {renyi_grid(), long_composition(), calibration(), distinct_events()}) {
    if (benchmark.name.find(only) == std::string::npos) continue;
    results.push_back(measure(benchmark, repeats));
    if (!as_json) print(results.back());
  }
  if (results.empty()) throw ConfigError("--only " + only + ": no case has such a name");
  if (as_json) {
    const json machine = {{"cpu", host_facts().at("processor")}, {"threads", 1}};
    std::cout << json{{"machine", machine}, {"results", results}}.dump() << "\n";
  }
  return 0;
}

}  // namespace dpfa::cli
