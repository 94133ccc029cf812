#include "accounting/certificate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "accounting/inversion.h"
#include "accounting/share_certificate.h"
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

constexpr const char* kShares = "poisson_subsampled_noise_shares";

int64_t whole(const json& event, const char* name) {
  if (!event.contains(name) || !event.at(name).is_number_integer())
    throw NotDerived{"an event lacks " + std::string(name)};
  return event.at(name).get<int64_t>();
}

ShareSteps read_shares(const json& event, int64_t count, Observer observer) {
  if (event.value("mechanism", "") != kShares)
    throw NotDerived{"noise shares beside other mechanisms are not covered"};
  const int64_t colluding = observer == Observer::kOutsiders ? 0 : whole(event, "colluding_ranks");
  return {
      number(event, "sample_rate"), number(event, "share_sigma"),      whole(event, "ranks"),     colluding,
      number(event, "sensitivity"), whole(event, "rounded_dimension"), whole(event, "dimension"), count};
}

struct Part {
  const json* event;
  int64_t count;
};

std::vector<Part> parts_of(const LedgerReport& report) {
  const json& planned = report.open.at("plan").at("event");
  std::vector<Part> parts;
  int64_t charged = 0;
  for (const Spending& part : report.spending) {
    parts.push_back({part.event.is_null() ? &planned : &part.event, part.charges});
    charged += part.charges;
  }
  const int64_t rest = report.open.at("plan").at("steps").get<int64_t>() - charged;
  if (rest > 0) parts.push_back({&planned, rest});
  return parts;
}

// `least_upper`: see ShareBracket; 0 for other events.
EpsilonBracket bracket_of(const LedgerReport& report, Observer observer, double near, double& least_upper) {
  // What draws that were left out may differ by is paid first.
  const double delta =
      report.deviation == 0 ? report.delta : report.delta - (1 + std::exp(near)) * report.deviation;
  if (!(delta >= 0)) throw NotDerived{"nothing of delta is left beside draws that are left out"};
  const std::vector<Part> parts = parts_of(report);
  const bool of_shares = std::any_of(parts.begin(), parts.end(), [](const Part& part) {
    return part.event->value("mechanism", "") == kShares;
  });
  if (of_shares) {
    std::vector<ShareSteps> steps;
    for (const Part& part : parts) steps.push_back(read_shares(*part.event, part.count, observer));
    const ShareBracket bracket = certified_share_epsilon(steps, delta, near);
    least_upper = bracket.least_upper;
    return {bracket.lower, bracket.upper, bracket.reason};
  }
  std::vector<GaussianSteps> steps;
  for (const Part& part : parts) steps.push_back(read_steps(*part.event, part.count));
  return certified_epsilon(steps, delta, near);
}

std::string number_text(double value) { return json(value).dump(); }

void judge(double reported, double lower_bound, double least_upper, Certificate& certificate) {
  // What is exact here may be off by its own rounding there: a contradiction is larger.
  constexpr double kRounding = 1e-9;
  const auto refute = [&](const std::string& reason) {
    certificate.verdict = Verdict::kRefuted;
    certificate.reason = reason;
  };
  if (reported < certificate.lower * (1 - kRounding) && !DPFA_PLANT("verifier_trusts_the_accountant"))
    return refute("the reported epsilon lies below the exact one");
  if (lower_bound > certificate.upper * (1 + kRounding))
    return refute("the reported lower bound lies above the exact epsilon");
  if (reported < least_upper * (1 - kContradiction))
    return refute("the reported epsilon " + number_text(reported) + " lies below " +
                  number_text(least_upper) + ", the least that the second derivation proves");
  certificate.gap = reported > 0 ? std::max(0.0, certificate.upper / reported - 1) : certificate.upper;
  if (certificate.upper == reported) certificate.gap = 0;  // both infinite
  certificate.verdict = certificate.gap <= kLargestGap ? Verdict::kConfirmed : Verdict::kNotDerived;
  if (certificate.verdict == Verdict::kNotDerived)
    certificate.reason =
        "the bracket is wider than " + json(kLargestGap).dump() + " above the reported epsilon";
}

}  // namespace

Certificate certify(const LedgerReport& report, Observer observer) {
  Certificate certificate;
  certificate.upper = std::numeric_limits<double>::infinity();
  if (!report.valid || !report.is_private) {
    certificate.reason = report.valid ? "the run is not private" : "the ledger is not valid";
    return certificate;
  }
  const bool outside = observer == Observer::kOutsiders;
  const double reported = outside ? report.epsilon_outsiders : report.epsilon;
  try {
    double least_upper = 0;
    const EpsilonBracket bracket = bracket_of(report, observer, reported, least_upper);
    certificate.lower = bracket.lower;
    certificate.upper = bracket.upper;
    certificate.reason = bracket.reason;
    if (bracket.reason.empty()) judge(reported, outside ? 0 : report.lower_bound, least_upper, certificate);
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
