// An independent reading of a ledger: is its chain intact, and what epsilon do its own charges amount to?
//
// Needs nothing but the ledger's text (format: ledger.h): epsilon is recomputed from the charge events, never
// taken from a number that the trainer wrote. The chain shows every line that was altered, exchanged, added
// or removed, except lines missing at its end; those show where an anchor (a digest that was noted elsewhere)
// is given.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace dpfa::accounting {

struct LedgerAnchor {
  int64_t lines;  // the digest is that of this line (1-based); 0: of any line
  std::string digest;
  std::string source;  // for the message, e.g. the checkpoint that noted it
};

// Consecutive charges of one process start with one event.
struct Spending {
  int64_t incarnation;
  nlohmann::json event;           // null: lines torn by a crash, charged as the plan's event
  int64_t first_step, last_step;  // -1 where unknown
  int64_t charges;
};

struct LedgerReport {
  bool valid = false;
  std::string reason;       // why not valid; empty otherwise
  bool is_private = false;  // false: no guarantee exists, whatever the numbers say
  std::string not_private_because;
  // Of max(steps, planned_steps) steps: the number of steps was fixed in advance, so this is the run's
  // guarantee also before its end. Infinity where nothing can be said (invalid, not private).
  double epsilon;
  double epsilon_charged;  // of what is charged so far
  // `epsilon` holds against the ranks that the events let collude; this one, at most as large, against
  // everybody who is no rank. Equal where the noise is no rank's share.
  double epsilon_outsiders;
  double lower_bound = 0;  // no analysis of the planned steps can go below it
  double delta = 0;        // target_delta of the plan
  // Most probability with which the planned steps leave a drawn record out, of either data set: part of delta
  // pays for it (delta_left in accountant.h).
  double deviation = 0;
  std::string accountant;
  std::string relation;
  int64_t steps = 0;  // charged, torn lines included
  int64_t planned_steps = 0;
  int64_t torn = 0;  // of these, lines that a crash cut off
  int64_t lines = 0;
  std::string head;     // digest of the last line
  nlohmann::json open;  // the first line
  std::vector<Spending> spending;
};

// Never throws for a wrong ledger: that is valid = false with a reason.
LedgerReport verify_ledger_text(const std::string& text, const std::vector<LedgerAnchor>& anchors = {});

// `run` is a ledger file, or a run folder with ledger.jsonl. From a run folder the anchors of all checkpoints
// are added (checkpoints/step_*/manifest.json, field "ledger": {"lines", "digest"}). Throws IoError where the
// ledger cannot be read; a checkpoint whose manifest cannot be read makes the result invalid.
LedgerReport verify_ledger(const std::filesystem::path& run, std::vector<LedgerAnchor> anchors = {});

}  // namespace dpfa::accounting
