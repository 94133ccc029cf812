// Values of cases from privacy loss distributions.
#pragma once

#include <string>
#include <vector>

#include "accounting/case_parameters.h"
#include "accounting/pld/composition.h"

namespace dpfa::accounting {

// The pairs of a case in the directions that it asks for. A relation with one pair of its own (replace) is
// kGiven.
struct CaseLosses {
  std::vector<PairCount> pairs;
  Ways ways = Ways::kBoth;

  // Where the check compares with an exact value: the middle of the upper and the lower bound, or the upper
  // one where they are more than 0.5 % apart. The upper bound for every other check.
  double epsilon(double delta, const std::string& check) const;
  double delta(double epsilon, const std::string& check) const;
  double power(double fpr, const std::string& check) const;
};

Ways ways_of(const Adjacency& adjacency);
// Of Poisson-sampled Gaussians; `noise` relative to the sensitivity.
CaseLosses sampled_gaussian_losses(double rate, double noise, int64_t count, const Adjacency& adjacency);

void add_loss_cases(CaseTable& table);

}  // namespace dpfa::accounting
