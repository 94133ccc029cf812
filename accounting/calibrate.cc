#include "accounting/calibrate.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "accounting/accountant.h"
#include "accounting/rdp.h"

namespace dpfa::accounting {
namespace {

constexpr int64_t kMostSteps = int64_t{1} << 50;
constexpr int64_t kPerOctave = int64_t{1} << 17;

// The lattice of reals: 2^e (1 + m / 2^17) at index e 2^17 + m.
double real_at(int64_t index) {
  const int64_t octave = index >> 17;
  const double mantissa = static_cast<double>(index - octave * kPerOctave) / static_cast<double>(kPerOctave);
  return std::ldexp(1 + mantissa, static_cast<int>(octave));
}

struct Target {
  double epsilon, delta;
};

Target checked_target(double epsilon, double delta) {
  if (!(epsilon > 0) || std::isinf(epsilon))
    throw ConfigError("the target epsilon must be positive and finite");
  if (!(delta > 0 && delta < 1))
    throw ConfigError("the target delta must lie between 0 and 1, both excluded");
  return {epsilon, delta};
}

void check_rate(double sample_rate) {
  if (!(sample_rate > 0 && sample_rate <= 1)) throw ConfigError("the sample rate must lie in (0, 1]");
}

void check_steps(int64_t steps) {
  if (steps < 1) throw ConfigError("steps = " + std::to_string(steps) + ": expected at least 1");
}

std::string text_of(const Target& target) {
  return "epsilon " + std::to_string(target.epsilon) + " at delta " + nlohmann::json(target.delta).dump();
}

// The largest place in [least, most] whose charges meet the target, where charges cost more the larger their
// place is; least - 1 where none does.
class Search {
 public:
  using Charges = std::function<std::vector<Charge>(int64_t place)>;
  Search(const Target& target, Charges charges, int64_t least, int64_t most)
      : target_(target), charges_(std::move(charges)), least_(least), most_(most) {}

  int64_t largest() {
    // The Renyi bound costs a thousandth of the reported one and is never below it, so what it admits meets
    // the target, and it has about the same slope.
    const int64_t start = std::max(renyi_limit(0), least_);
    if (!take(start)) {
      for (int64_t stride = 1; !low_.known; stride *= 8) {
        if (high_.place == least_) return least_ - 1;
        take(std::max(least_, high_.place - stride));
      }
    }
    for (double margin = 0.02; !high_.known; margin *= 4) {
      if (low_.place == most_) return most_;
      const int64_t next =
          std::isfinite(low_.excess) ? renyi_limit(low_.excess - renyi_excess(low_.place)) : 0;
      const double gap = static_cast<double>(std::max<int64_t>(next - low_.place, 0));
      // A wrong guess is followed by longer strides.
      take(std::min(most_, low_.place + 1 +
                               static_cast<int64_t>(std::min(1e15, gap * (1 + margin) + 50 * margin - 1))));
    }
    while (high_.place - low_.place > 1) take(between());
    return low_.place;
  }

 private:
  struct End {
    bool known = false;
    int64_t place = 0;
    double excess = 0;  // log(epsilon / target)
  };

  double renyi_excess(int64_t place) const {
    ScheduleRdp rdp(simplify(charges_(place)));
    return std::log(best_epsilon([&rdp](double order) { return rdp(order); }, target_.delta).value /
                    target_.epsilon);
  }

  // The largest place whose Renyi bound, times e^shift, meets the target; least - 1 where none does.
  int64_t renyi_limit(double shift) const {
    int64_t low = least_ - 1, high = most_ + 1;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      (renyi_excess(middle) + shift <= 0 ? low : high) = middle;
    }
    return low;
  }

  bool take(int64_t place) {
    const double epsilon = epsilon_upper_bound(charges_(place), target_.delta);
    const bool meets = epsilon <= target_.epsilon;
    last_met_ = meets;
    (meets ? low_ : high_) = {true, place, std::log(epsilon / target_.epsilon)};
    return meets;
  }

  // Near the root of the chord, on the side that shrinks the other end; the middle where chords do not help.
  int64_t between() {
    const int64_t width = high_.place - low_.place;
    const bool slow = width > last_width_ / 4;
    last_width_ = width;
    stalled_ = slow ? stalled_ + 1 : 0;
    const int64_t middle = low_.place + width / 2;
    if (stalled_ >= 2 || !std::isfinite(low_.excess) || !std::isfinite(high_.excess)) {
      stalled_ = 0;
      return middle;
    }
    const double share = low_.excess / (low_.excess - high_.excess);
    const double margin = std::max(1.0, static_cast<double>(width) / 64);
    const double root = share * static_cast<double>(width) + (last_met_ ? margin : -margin);
    return low_.place + std::clamp<int64_t>(std::llround(root), 1, width - 1);
  }

  Target target_;
  Charges charges_;
  int64_t least_, most_;
  End low_, high_;
  bool last_met_ = false;
  int64_t last_width_ = INT64_MAX;
  int stalled_ = 0;
};

}  // namespace

double noise_multiplier_for(double target_epsilon, double target_delta, const ChargeFamily& charges) {
  const Target target = checked_target(target_epsilon, target_delta);
  constexpr int64_t kLeast = -20 * kPerOctave, kMost = 10 * kPerOctave;
  const int64_t place =
      Search(
          target, [&charges](int64_t minus) { return charges(real_at(-minus)); }, kLeast, kMost)
          .largest();
  if (place < kLeast) {
    throw ConfigError("no noise multiplier up to 1e6 gives " + text_of(target) +
                      ": raise the target epsilon or delta, or lower steps or the sample rate");
  }
  return real_at(-place);
}

double noise_multiplier_for(double target_epsilon, double target_delta, double sample_rate, int64_t steps) {
  checked_target(target_epsilon, target_delta);
  check_rate(sample_rate);
  check_steps(steps);
  return noise_multiplier_for(target_epsilon, target_delta, [sample_rate, steps](double noise) {
    return std::vector<Charge>{{PoissonSampledGaussianEvent{sample_rate, noise}, steps}};
  });
}

int64_t steps_for(double target_epsilon, double target_delta, double sample_rate, double noise_multiplier) {
  check_rate(sample_rate);
  return steps_for(target_epsilon, target_delta, PoissonSampledGaussianEvent{sample_rate, noise_multiplier});
}

int64_t steps_for(double target_epsilon, double target_delta, const Event& event) {
  return Search(
             checked_target(target_epsilon, target_delta),
             [event](int64_t steps) {
               return std::vector<Charge>{{event, steps}};
             },
             1, kMostSteps)
      .largest();
}

double sample_rate_for(double target_epsilon, double target_delta, double noise_multiplier, int64_t steps) {
  const Target target = checked_target(target_epsilon, target_delta);
  check_steps(steps);
  constexpr int64_t kLeast = -40 * kPerOctave;
  auto charges = [noise_multiplier, steps](int64_t place) {
    return std::vector<Charge>{{PoissonSampledGaussianEvent{real_at(place), noise_multiplier}, steps}};
  };
  const int64_t place = Search(target, charges, kLeast, 0).largest();
  if (place < kLeast) {
    throw ConfigError("no sample rate down to 1e-12 gives " + text_of(target) +
                      ": raise the target epsilon or delta or the noise multiplier, or lower steps");
  }
  return real_at(place);
}

}  // namespace dpfa::accounting
