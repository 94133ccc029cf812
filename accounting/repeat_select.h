// Hyper-parameter search whose number of runs is drawn: repeat a private run K times, release the best one.
// (Papernot and Steinke, 2110.03620.)
//
// Conditions, which the caller vouches for: every run is the same mechanism with the same parameters of its
// own (the tried setting is drawn at random, independently, as a part of it); which run is best follows from
// the outputs of the runs alone, by a fixed order; K comes from the stated law, independent of the data, and
// is not released; nothing but the best run is. Anything else (a grid of k settings, a K that adapts, a score
// on private data without its own noise) composes: charge all k runs.
#pragma once

#include <span>

#include "accounting/event.h"
#include "accounting/rdp.h"

namespace dpfa::accounting {

// Law of K. shape > -1: truncated negative binomial on 1, 2, ... (1: geometric, 0: logarithmic) with the
// given mean > 1; infinite shape: Poisson with the given mean >= 1 (K = 0 releases nothing).
struct RunCount {
  double mean;
  double shape;
};

// RDP of the whole search at every order > 1, from that of one run (which must have no delta of its own):
//   shape > -1 (theorem 2): D(a) + (1 + shape) min_b ((1 - 1/b) D(b) + log(1/gamma) / b) + log(mean) / (a -
//   1) Poisson (theorem 6): min over b >= a of D(b) + log(mean) / (b - 1), + mean delta_run(log(1 + 1/(a -
//   1)))
// ConfigError on a law out of range.
RdpCurve repeat_and_select(const RdpCurve& run, const RunCount& runs);

// Epsilon at `delta` of a search whose one run is `run`. UnsupportedEvent where an event has a delta of its
// own: the theorems are about Renyi divergences.
OrderBound repeat_and_select_epsilon(std::span<const Charge> run, const RunCount& runs, double delta);

// gamma in (0, 1) with the mean of `runs` (shape finite): shape (1 - g) / (g (1 - g^shape)), for shape 0
// (1/g - 1) / log(1/g). Rounded down (a smaller gamma costs more).
double negative_binomial_gamma(const RunCount& runs);

}  // namespace dpfa::accounting
