#include "accounting/event.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "accounting/event_fields.h"

namespace dpfa::accounting {
namespace {

using internal::Range;

constexpr int64_t kMostWhole = int64_t{1} << 53;  // counts enter formulas as doubles

class Checker {
 public:
  void real(const char* name, double value, Range range) const {
    const bool in_range = range == Range::kPositive ? value > 0 : value >= 0;
    const double end = range == Range::kRate || range == Range::kProbability ? 1 : HUGE_VAL;
    if (in_range && (value < end || (value == 1 && range == Range::kRate))) return;
    const char* expected = range == Range::kRate          ? "a number from 0 to 1"
                           : range == Range::kProbability ? "a number from 0 to below 1"
                           : range == Range::kPositive    ? "a finite number > 0"
                                                          : "a finite number >= 0";
    throw ConfigError(std::string(name) + " " + std::to_string(value) + ": expected " + expected);
  }
  void real_or(const char* name, double value, Range range) const { real(name, value, range); }
  void reals(const char* name, const std::vector<double>& values, Range range) const {
    if (values.empty()) throw ConfigError(std::string(name) + ": expected at least one number");
    for (double value : values) real(name, value, range);
  }
  void whole(const char* name, int64_t value, int64_t least) const {
    if (value < least || value > kMostWhole) {
      throw ConfigError(std::string(name) + " " + std::to_string(value) + ": expected a whole number from " +
                        std::to_string(least) + " to 2^53");
    }
  }
  void relation(Relation relation, std::initializer_list<Relation> allowed = {}) {
    if (allowed.size() > 0 && std::find(allowed.begin(), allowed.end(), relation) == allowed.end()) {
      throw UnsupportedEvent("no bound for this event holds under the relation " + relation_name(relation) +
                             ": state one of " + names(allowed));
    }
    relation_ = relation;
  }
  void relation_or(Relation value) { relation(value); }
  void parts(const std::vector<Charge>& charges) {
    for (const Charge& charge : charges) {
      check_event(charge.event);
      whole("count", charge.count, 0);
      const Relation of_part = accounting::relation(charge.event);
      if (relation_ && *relation_ != of_part) {
        throw UnsupportedEvent("events of the relations " + relation_name(*relation_) + " and " +
                               relation_name(of_part) + " do not compose: state all events for one relation");
      }
      relation_ = of_part;
    }
  }

 private:
  static std::string names(std::initializer_list<Relation> relations) {
    std::string text;
    for (Relation one : relations) text += (text.empty() ? "" : ", ") + relation_name(one);
    return text;
  }
  std::optional<Relation> relation_;
};

// What no field says by itself.
template <typename Other>
void check_together(const Other&) {}

void check_dimensions(int64_t rounded, int64_t all) {
  if (rounded > all)
    throw ConfigError("rounded_dimension exceeds dimension: a coordinate without noise hides nothing");
}
void check_together(const PoissonSampledDiscreteGaussianEvent& e) {
  check_dimensions(e.rounded_dimension, e.dimension);
}
void check_together(const NoiseSharesEvent& e) {
  check_dimensions(e.rounded_dimension, e.dimension);
  if (e.colluding_ranks >= e.ranks)
    throw UnsupportedEvent("colluding_ranks " + std::to_string(e.colluding_ranks) + " of " +
                           std::to_string(e.ranks) +
                           " ranks: nothing hides a record from all who hold a share; lower colluding_ranks");
  if (!(e.share_sigma >= kSmallestShare))
    throw UnsupportedEvent("share_sigma " + std::to_string(e.share_sigma) +
                           " is less than 4 grid units: a sum of so narrow shares is not bounded by the "
                           "discrete Gaussian of its variance; take a finer grid or more noise");
}

class RelationReader {
 public:
  void real(const char*, double, Range) {}
  void real_or(const char*, double, Range) {}
  void reals(const char*, const std::vector<double>&, Range) {}
  void whole(const char*, int64_t, int64_t) {}
  void relation(Relation relation, std::initializer_list<Relation> = {}) { found_ = relation; }
  void relation_or(Relation relation) { found_ = relation; }
  void parts(const std::vector<Charge>& charges) {
    if (!charges.empty()) found_ = accounting::relation(charges.front().event);
  }
  Relation found() const { return found_; }

 private:
  Relation found_ = Relation::kAddOrRemoveOne;
};

}  // namespace

std::string relation_name(Relation relation) {
  switch (relation) {
    case Relation::kAddOrRemoveOne:
      return "add_or_remove_one";
    case Relation::kReplaceOne:
      return "replace_one";
    case Relation::kZeroOut:
      return "zero_out";
  }
  throw InternalError("a relation without a name");
}

void check_event(const Event& event) {
  Checker checker;
  std::visit([&checker](auto copy) { internal::fields(checker, copy); }, event);
  std::visit([](const auto& one) { check_together(one); }, event);
}

Event seen_by_outsiders(const Event& event) {
  Event seen = event;
  if (auto* shares = std::get_if<NoiseSharesEvent>(&seen)) shares->colluding_ranks = 0;
  if (auto* composed = std::get_if<ComposedEvent>(&seen)) {
    for (Charge& part : composed->parts) part.event = seen_by_outsiders(part.event);
  }
  return seen;
}

Relation relation(const Event& event) {
  RelationReader reader;
  std::visit([&reader](auto copy) { internal::fields(reader, copy); }, event);
  return reader.found();
}

}  // namespace dpfa::accounting
