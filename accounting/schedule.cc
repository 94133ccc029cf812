#include "accounting/schedule.h"

#include <cmath>
#include <map>

#include "accounting/event_fields.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

using internal::Range;

constexpr int64_t kMostCount = int64_t{1} << 53;  // beyond it a count is not exact as a double

// The numbers of an event without parts, in the order of its fields.
class Numbers {
 public:
  void real(const char*, double value, Range) { values.push_back(value); }
  void real_or(const char*, double value, Range) { values.push_back(value); }
  void reals(const char*, const std::vector<double>& list, Range) {
    values.insert(values.end(), list.begin(), list.end());
  }
  void whole(const char*, int64_t value, int64_t) { values.push_back(static_cast<double>(value)); }
  void relation(Relation, std::initializer_list<Relation> = {}) {}  // one for all
  void relation_or(Relation) {}
  void parts(const std::vector<Charge>&) { throw InternalError("a composition is no single event"); }

  std::vector<double> values;
};

// The member that makes a release noisy, 1 where there is none.
constexpr auto noise_of = [](const auto& e) -> double {
  if constexpr (requires { e.noise_multiplier; }) {
    return e.noise_multiplier;
  } else if constexpr (requires { e.sigma; }) {
    return e.sigma;
  } else if constexpr (requires { e.scale; }) {
    return e.scale;
  } else if constexpr (requires { e.variance; }) {
    return e.variance;
  } else if constexpr (requires { e.noise; }) {
    return e.noise;
  } else {
    return 1;
  }
};

class Simplifier {
 public:
  void add(const Event& event, int64_t count) {
    if (count == 0) return;
    std::visit([this, count](const auto& one) { rewrite(one, count); }, event);
  }

  std::vector<Charge> parts() && {
    std::vector<Charge> result;
    result.reserve(parts_.size());
    for (auto& [key, charge] : parts_) result.push_back(std::move(charge));
    return result;
  }

 private:
  static int64_t times(int64_t a, int64_t b) {
    if (b != 0 && a > kMostCount / b) throw UnsupportedEvent("an event is repeated more than 2^53 times");
    return a * b;
  }

  void keep(const Event& given, int64_t count) {
    // What has no noise costs everything, whichever mechanism it is.
    const Event event = std::visit(noise_of, given) == 0 ? GaussianEvent{0, 1, relation(given)} : given;
    Numbers numbers;
    std::visit([&numbers](auto copy) { internal::fields(numbers, copy); }, event);
    auto [place, added] =
        parts_.try_emplace({event.index(), std::move(numbers.values)}, Charge{event, int64_t{0}});
    if (place->second.count > kMostCount - count)
      throw UnsupportedEvent("an event is repeated more than 2^53 times");
    place->second.count += count;
  }

  void rewrite(const GaussianEvent& e, int64_t count) {
    const double noise = DPFA_PLANT("sensitivity_multiplies_noise") ? e.noise_multiplier * e.sensitivity
                                                                    : e.noise_multiplier / e.sensitivity;
    keep(GaussianEvent{noise, 1, e.relation}, count);
  }
  void rewrite(const PoissonSampledGaussianEvent& e, int64_t count) {
    if (e.sample_rate == 0) return;
    if (e.sample_rate == 1) {
      const double distance = e.relation == Relation::kReplaceOne ? 2 * e.sensitivity : e.sensitivity;
      return rewrite(GaussianEvent{e.noise_multiplier, distance, e.relation}, count);
    }
    keep(PoissonSampledGaussianEvent{e.sample_rate, e.noise_multiplier / e.sensitivity, 1, e.relation},
         count);
  }
  void rewrite(const SameSampleGaussianEvent& e, int64_t count) {
    double precision = 0;
    for (double noise : e.noise_multipliers) precision += 1 / noise / noise;
    precision *= static_cast<double>(e.releases);
    rewrite(PoissonSampledGaussianEvent{e.sample_rate, 1 / std::sqrt(precision), 1, e.relation}, count);
  }
  void rewrite(const ShuffledEpochGaussianEvent& e, int64_t count) {
    rewrite(GaussianEvent{e.noise_multiplier, e.sensitivity, e.relation}, count);
  }
  void rewrite(const TreeAggregationEvent& e, int64_t count) {
    int height = 0;  // ceil(log2(steps + 1)) without rounding
    while (height < 63 && (int64_t{1} << height) < e.steps + 1) ++height;
    if (height == 0) return;
    rewrite(
        GaussianEvent{e.noise_multiplier / std::sqrt(static_cast<double>(height)), e.sensitivity, e.relation},
        count);
  }
  void rewrite(const BandedMatrixEvent& e, int64_t count) {
    const int64_t rounds = e.iterations / e.bands + (e.iterations % e.bands != 0 ? 1 : 0);
    if (rounds == 0) return;
    rewrite(PoissonSampledGaussianEvent{e.sample_rate, e.noise_multiplier, 1, e.relation},
            times(count, rounds));
  }
  void rewrite(const ComposedEvent& e, int64_t count) {
    for (const Charge& part : e.parts) add(part.event, times(count, part.count));
  }
  void rewrite(const TruncatedPoissonGaussianEvent& e, int64_t count) {
    if (e.sample_rate > 0) keep(e, count);
  }
  void rewrite(const SampledWithoutReplacementGaussianEvent& e, int64_t count) {
    if (e.sample_rate == 1)
      return rewrite(GaussianEvent{e.noise_multiplier, e.sensitivity, e.relation}, count);
    if (e.sample_rate > 0) keep(e, count);
  }
  void rewrite(const PoissonSampledDiscreteGaussianEvent& e, int64_t count) {
    if (e.sample_rate > 0) keep(e, count);
  }
  void rewrite(const NoiseSharesEvent& e, int64_t count) {
    if (e.sample_rate > 0) keep(e, count);
  }
  void rewrite(const DiscreteLaplaceEvent& e, int64_t count) {
    if (e.sensitivity > 0) keep(e, count);
  }
  void rewrite(const ZeroConcentratedEvent& e, int64_t count) {
    if (e.xi > 0 || e.rho > 0) keep(e, count);
  }
  void rewrite(const ApproximateDpEvent& e, int64_t count) {
    if (e.epsilon > 0 || e.delta > 0) keep(e, count);
  }
  template <typename Other>
  void rewrite(const Other& e, int64_t count) {
    keep(e, count);
  }

  std::map<std::pair<size_t, std::vector<double>>, Charge> parts_;
};

}  // namespace

Schedule simplify(std::span<const Charge> charges) {
  Schedule schedule;
  Simplifier simplifier;
  bool first = true;
  for (const auto& [event, count] : charges) {
    check_event(event);
    if (count < 0) throw ConfigError("count " + std::to_string(count) + ": expected at least 0");
    const Relation relation = accounting::relation(event);
    if (!first && relation != schedule.relation) {
      throw UnsupportedEvent("events of the relations " + relation_name(schedule.relation) + " and " +
                             relation_name(relation) + " do not compose: state all events for one relation");
    }
    first = false;
    schedule.relation = relation;
    simplifier.add(event, count);
  }
  schedule.parts = std::move(simplifier).parts();
  return schedule;
}

}  // namespace dpfa::accounting
