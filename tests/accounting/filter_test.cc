// Filters and odometers of schedules that are chosen as the run goes.
#include "accounting/filter.h"

#include <gtest/gtest.h>

#include <cmath>

#include "accounting/accountant.h"
#include "accounting/rdp.h"

namespace dpfa::accounting {
namespace {

TEST(Filter, AdmitsUpToItsBudgetAndNeverBeyond) {
  Filter filter = Filter::renyi(2, 2);
  EXPECT_TRUE(filter.admit(GaussianEvent{1}));
  EXPECT_FALSE(filter.admit(GaussianEvent{0.5}));
  EXPECT_EQ(filter.spent(), 1);  // a refused release is not charged
  EXPECT_TRUE(filter.admit(GaussianEvent{1}));
  EXPECT_EQ(filter.spent(), 2);
  EXPECT_FALSE(filter.admit(GaussianEvent{1e6}));
}

TEST(Filter, SumNeverExceedsTheBudgetForAScheduleChosenFromItself) {
  for (double order : {1.5, 4.0, 20.0}) {
    Filter filter = Filter::renyi_for(2, 1e-5, order > 10 ? order : 12);
    double noise = 0.7, exact = 0;
    for (int i = 0; i < 3000; ++i) {
      const Event event = PoissonSampledGaussianEvent{0.02, noise};
      const double cost = rdp_of(event, order > 10 ? order : 12);
      const bool admitted = filter.admit(event, 2);
      if (admitted) exact += 2 * cost;
      EXPECT_EQ(admitted, exact + (admitted ? 0 : 2 * cost) <= filter.budget()) << i;
      noise = std::min(10.0, noise * (admitted ? 0.97 : 1.3));  // less noise while it goes well
    }
    EXPECT_LE(exact, filter.budget());
    EXPECT_GT(exact, 0.9 * filter.budget());
    EXPECT_LE(filter.epsilon(1e-5), 2 * (1 + 1e-9));
  }
}

TEST(Filter, ManyTinyReleasesAddUp) {
  Filter filter = Filter::concentrated(1);
  int admitted = 0;
  while (admitted < 100000 && filter.admit(ZeroConcentratedEvent{0, 1e-4})) ++admitted;
  EXPECT_LE(admitted, 10000);
  EXPECT_GE(admitted, 9999);
}

TEST(Filter, GuaranteeIsThatOfTheBudgetWhateverWasAdmitted) {
  Filter gaussian = Filter::gaussian(0.5);
  ASSERT_TRUE(gaussian.admit(GaussianEvent{4}));
  EXPECT_NEAR(gaussian.epsilon(1e-6), epsilon_of(GaussianEvent{2}, 1, 1e-6).epsilon, 1e-9);
  EXPECT_GE(gaussian.epsilon(1e-6), epsilon_of(GaussianEvent{2}, 1, 1e-6).epsilon * (1 - 1e-14));
  Filter concentrated = Filter::concentrated(0.125);
  EXPECT_GE(concentrated.epsilon(1e-6),
            gaussian.epsilon(1e-6));  // the same Gaussian, by its divergences only
  EXPECT_LE(concentrated.epsilon(1e-6), 1.2 * gaussian.epsilon(1e-6));
  // sqrt(4 rho log(1/delta)) + rho, the classic conversion, is no smaller.
  EXPECT_LE(concentrated.epsilon(1e-6), 0.125 + std::sqrt(4 * 0.125 * std::log(1e6)));
}

TEST(Filter, RefusesWhatItsRuleCannotBound) {
  Filter gaussian = Filter::gaussian(1), concentrated = Filter::concentrated(1), renyi = Filter::renyi(8, 1);
  const PoissonSampledGaussianEvent sampled{0.1, 10};
  EXPECT_THROW((void)gaussian.admit(sampled), UnsupportedEvent);
  EXPECT_THROW((void)concentrated.admit(sampled), UnsupportedEvent);
  EXPECT_THROW((void)concentrated.admit(ZeroConcentratedEvent{0.1, 0.1}), UnsupportedEvent);
  EXPECT_THROW((void)renyi.admit(ApproximateDpEvent{0.1, 1e-9}), UnsupportedEvent);
  EXPECT_TRUE(renyi.admit(sampled));
  EXPECT_THROW((void)renyi.admit(GaussianEvent{100, 1, Relation::kReplaceOne}), UnsupportedEvent);
  EXPECT_THROW((void)renyi.admit(GaussianEvent{100}, -1), ConfigError);
  EXPECT_FALSE(renyi.admit(GaussianEvent{0}));
  EXPECT_THROW(Filter::renyi(1, 1), ConfigError);
  EXPECT_THROW(Filter::renyi(2, -1), ConfigError);
  EXPECT_THROW(Filter::renyi_for(0.1, 1e-9, 1.5), ConfigError);
}

TEST(Filter, LinearCostsAreThoseOfTheDivergencesAtEveryOrder) {
  for (const Event& event :
       std::vector<Event>{GaussianEvent{3}, DiscreteGaussianEvent{3, 2}, ZeroConcentratedEvent{0, 0.2},
                          ExponentialMechanismEvent{0.7}, ApproximateDpEvent{0.7, 0}}) {
    Filter filter = Filter::concentrated(100);
    ASSERT_TRUE(filter.admit(event));
    for (double order : {1.01, 2.0, 10.0, 500.0})
      EXPECT_LE(rdp_of(event, order), filter.spent() * order * (1 + 1e-12)) << to_json(event);
  }
}

TEST(Odometer, StatesTheSumPlusTheRoomOfItsDelta) {
  const std::vector<double> orders = {8};
  Odometer odometer(orders, 1e-5);
  EXPECT_NEAR(odometer.epsilon(), std::log(1e5) / 7, 1e-8);
  odometer.charge(PoissonSampledGaussianEvent{0.01, 1}, 50);
  odometer.charge(GaussianEvent{10});
  const double sum = 50 * sampled_gaussian_rdp(0.01, 1, 8) + 8 / 200.0;
  EXPECT_GE(odometer.epsilon(), sum + std::log(1e5) / 7);
  EXPECT_NEAR(odometer.epsilon(), sum + std::log(1e5) / 7, 1e-8);
}

TEST(Odometer, NeverFallsAndIsNeverBelowTheAccountantOfAFixedSchedule) {
  const std::vector<double> orders = {2, 4, 8, 16, 32};
  Odometer odometer(orders, 1e-5);
  double before = 0;
  for (int steps = 100; steps <= 1000; steps += 100) {
    odometer.charge(PoissonSampledGaussianEvent{0.02, 1}, 100);
    EXPECT_GE(odometer.epsilon(), before);
    EXPECT_GE(odometer.epsilon(), epsilon_upper_bound(PoissonSampledGaussianEvent{0.02, 1}, steps, 1e-5));
    before = odometer.epsilon();
  }
  EXPECT_THROW(odometer.charge(ApproximateDpEvent{1, 1e-9}), UnsupportedEvent);
  EXPECT_THROW(Odometer(std::vector<double>{}, 1e-5), ConfigError);
  EXPECT_THROW(Odometer(orders, 0), ConfigError);
}

}  // namespace
}  // namespace dpfa::accounting
