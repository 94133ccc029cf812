#include "accounting/certificate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "accounting/inversion.h"
#include "src/base/error.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;

struct NotDerived {
  std::string reason;
};

double number(const json& event, const char* name) {
  if (!event.contains(name) || !event.at(name).is_number())
    throw NotDerived{"an event lacks " + std::string(name)};
  return event.at(name).get<double>();
}

// k Gaussians of one draw are one of precision sum of 1 / s^2.
double same_sample_noise(const json& event) {
  double precision = 0;
  for (const json& noise : event.at("noise_multipliers"))
    precision += 1 / (noise.get<double>() * noise.get<double>());
  // Less noise is the safe side of the rounding.
  return (1 - 1e-14) / std::sqrt(precision * number(event, "releases"));
}

GaussianSteps read_steps(const json& event, int64_t count) {
  const std::string mechanism = event.value("mechanism", "");
  const std::string relation = event.value("relation", "add_or_remove_one");
  const bool plain = mechanism == "gaussian";
  if (!plain && relation != "add_or_remove_one" && relation != "zero_out")
    throw NotDerived{"the relation " + relation + " of sampled events is not covered"};
  if (mechanism == "same_sample_gaussian")
    return {number(event, "sample_rate"), same_sample_noise(event), count};
  if (!plain && mechanism != "poisson_subsampled_gaussian")
    throw NotDerived{"the mechanism " + mechanism + " is not covered"};
  const double sensitivity = event.contains("sensitivity") ? number(event, "sensitivity") : 1;
  // Less noise is the safe side of the division's rounding.
  double noise = number(event, "noise_multiplier") / sensitivity;
  if (sensitivity != 1) noise *= 1 - 1e-15;
  return {plain ? 1 : number(event, "sample_rate"), noise, count};
}

std::vector<GaussianSteps> steps_of(const LedgerReport& report) {
  const json& planned = report.open.at("plan").at("event");
  std::vector<GaussianSteps> steps;
  int64_t charged = 0;
  for (const Spending& part : report.spending) {
    steps.push_back(read_steps(part.event.is_null() ? planned : part.event, part.charges));
    charged += part.charges;
  }
  const int64_t rest = report.open.at("plan").at("steps").get<int64_t>() - charged;
  if (rest > 0) steps.push_back(read_steps(planned, rest));
  return steps;
}

void judge(const LedgerReport& report, Certificate& certificate) {
  const double reported = report.epsilon;
  // What is exact here may be off by its own rounding there: a contradiction is larger.
  constexpr double kRounding = 1e-9;
  if (reported < certificate.lower * (1 - kRounding) && !DPFA_PLANT("verifier_trusts_the_accountant")) {
    certificate.verdict = Verdict::kRefuted;
    certificate.reason = "the reported epsilon lies below the exact one";
  } else if (report.lower_bound > certificate.upper * (1 + kRounding)) {
    certificate.verdict = Verdict::kRefuted;
    certificate.reason = "the reported lower bound lies above the exact epsilon";
  } else {
    certificate.gap = reported > 0 ? std::max(0.0, certificate.upper / reported - 1) : certificate.upper;
    if (certificate.upper == reported) certificate.gap = 0;  // both infinite
    certificate.verdict = certificate.gap <= kLargestGap ? Verdict::kConfirmed : Verdict::kNotDerived;
    if (certificate.verdict == Verdict::kNotDerived)
      certificate.reason =
          "the bracket is wider than " + json(kLargestGap).dump() + " above the reported epsilon";
  }
}

}  // namespace

Certificate certify(const LedgerReport& report) {
  Certificate certificate;
  certificate.upper = std::numeric_limits<double>::infinity();
  if (!report.valid || !report.is_private) {
    certificate.reason = report.valid ? "the run is not private" : "the ledger is not valid";
    return certificate;
  }
  try {
    const EpsilonBracket bracket = certified_epsilon(steps_of(report), report.delta, report.epsilon);
    certificate.lower = bracket.lower;
    certificate.upper = bracket.upper;
    certificate.reason = bracket.reason;
    if (bracket.reason.empty()) judge(report, certificate);
  } catch (const NotDerived& cause) {
    certificate.reason = cause.reason;
  } catch (const json::exception& error) {
    certificate.reason = std::string("the events of the ledger were not readable: ") + error.what();
  } catch (const ConfigError& error) {
    certificate.reason = error.what();
  }
  return certificate;
}

}  // namespace dpfa::accounting
