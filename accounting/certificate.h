// What a third party may conclude from a verified ledger: a second derivation of its epsilon, by code and
// formulas that the accountant does not share (inversion.h), read from the ledger's JSON on its own.
//
// Covered: plain, Poisson-sampled and same-sample Gaussians, and noise shares by themselves
// (share_certificate.h), add_or_remove_one or zero_out (the same pair of laws: the record's contribution
// against none). Other events are not derived a second time, which is said and is no defect.
#pragma once

#include <string>

#include "accounting/ledger_verify.h"

namespace dpfa::accounting {

enum class Verdict {
  kConfirmed,   // the reported epsilon is at least the exact one, up to `gap`
  kRefuted,     // it contradicts the second derivation: a defect of the program, no guarantee stands
  kNotDerived,  // nothing to compare with; `reason` says why
};

struct Certificate {
  Verdict verdict = Verdict::kNotDerived;
  std::string reason;
  double lower = 0, upper = 0;  // bracket of the exact epsilon
  double gap = 0;               // largest (exact - reported) / reported that the bracket leaves open
};

inline constexpr double kLargestGap = 1e-5;  // beyond it the verdict is kNotDerived
// Both derivations of noise shares are upper bounds, and the second is made to be the smaller one: a report
// below it by more than this share contradicts it.
inline constexpr double kContradiction = 1e-4;

// Whose claim: that to the ranks which the events let collude (report.epsilon), or to everybody who is no
// rank (report.epsilon_outsiders). They differ where noise comes in shares.
enum class Observer { kColludingRanks, kOutsiders };

// Of the observer's epsilon at report.delta. A report that is not valid, or of a run that is not private, is
// kNotDerived.
Certificate certify(const LedgerReport& report, Observer observer = Observer::kColludingRanks);

}  // namespace dpfa::accounting
