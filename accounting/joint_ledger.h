// Several runs on one data set: what they cost together.
//
// Runs, sweeps and forks compose. A fork is a copied run folder that went on: its ledger has the original's
// lines at its beginning, digest for digest. Each line charges once, however many ledgers hold it, and every
// tail charges. This rests on the random id of each process start: without it two forks that continue alike
// would write the same lines for different releases, so charges after a start without an id count once per
// file. The copies that ranks of a run between owners keep (ledger_files.h) count in the same way: a copy
// that is behind adds nothing, one that is ahead or that contradicts another adds its tail.
//
// Nothing makes the joint number smaller: a ledger that cannot be read or verified, or that names no data
// set, may belong to this one, and refuses it; so do a run without privacy and runs of different relations.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "accounting/ledger_verify.h"

namespace dpfa::accounting {

struct JointRun {
  std::filesystem::path ledger;
  std::string run_id;
  std::string dataset_id;  // several joined by '+' where ranks hold records of their own
  LedgerReport report;
  bool may_go_on = true;     // as FoundLedger has it
  int64_t own_charges = 0;   // not in a ledger that was listed before
  int64_t planned_rest = 0;  // steps that it has still to charge; 0 where it may not go on
};

struct JointReport {
  std::string dataset_id;
  std::vector<JointRun> runs;    // on this data set
  std::vector<JointRun> others;  // intact ledgers of other data sets: not counted
  std::string refusal;           // why there is no joint number; empty where there is one
  std::string relation;
  std::string accountant;
  double delta = 0;
  double epsilon;          // of all charges and all planned rests; infinity where refused
  double epsilon_charged;  // of all charges so far
  double lower_bound = 0;
};

// All ledgers in `places`: a ledger file, a run folder, or a folder with run folders anywhere below it.
// `delta` 0: the smallest target_delta of the runs. Throws IoError where a place does not exist or holds no
// ledger.
JointReport joint_ledgers(const std::string& dataset_id, const std::vector<std::filesystem::path>& places,
                          double delta = 0);

// The id of a data set folder (dataset.json, field "id"), or `text` itself where that is no folder. Throws
// IoError where the folder has no readable id.
std::string dataset_id_of(const std::string& text);

}  // namespace dpfa::accounting
