#include "src/train/run_ledger.h"

#include <sodium.h>

#include <iostream>
#include <set>
#include <string>

#include "accounting/ledger_chain.h"
#include "accounting/ledger_files.h"
#include "accounting/text_file.h"
#include "src/base/file.h"
#include "src/base/plant.h"
#include "src/train/collective.h"
#include "src/train/ledger_copies.h"
#include "src/train/run_data.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string random_hex_id() {
  const auto bytes = RootKey::from_system().bytes();
  char hex[33];
  return sodium_bin2hex(hex, sizeof(hex), bytes.data(), 16);
}

// The configuration's plan for the ranks that began the run.
plan::PrivacyPlan opening_plan(const RunSetup& setup, const json& ledger_open) {
  const int64_t ranks = ledger_open.at("plan").value("ranks", int64_t{0});
  const auto shares = setup.plan->noise_shares();
  const bool names_others = shares && ranks > 0 && ranks != shares->ranks;
  return names_others ? plan_for(setup, ranks) : *setup.plan;
}

// The same noise multiplier, grid and claim where a run goes on with another number of ranks.
void go_on_with_these_ranks(RunSetup& setup) {
  const auto shares = setup.plan->noise_shares();
  if (shares) setup.plan = opening_plan(setup, setup.ledger->open()).for_ranks(shares->ranks);
}

void refuse_foreign_ledger(const RunSetup& setup, const accounting::Ledger& ledger,
                           const RunOptions& options) {
  const json& open = ledger.open();
  const plan::PrivacyPlan opening = opening_plan(setup, open);
  if (open.at("plan_digest") != opening.digest() || open.at("plan") != opening.to_json() ||
      open.at("private") != opening.is_private())
    throw StateError("the privacy plan of this configuration is not that of the ledger in '" +
                     setup.run_dir.string() + "': resume with the configuration of the run (its config.ini)");
  if (!counts_all_of(open.at("dataset_id").get<std::string>(), setup.dataset_id))
    throw StateError("the ledger in '" + setup.run_dir.string() + "' belongs to dataset " +
                     open.at("dataset_id").get<std::string>() + ", data.train is dataset " +
                     setup.dataset_id);
  if (json(stamps_of(options)) != open.at("stamps"))
    throw StateError(
        "the run in '" + setup.run_dir.string() +
        "' was started with other NOT PRIVATE options (see the stamps of its ledger): resume alike");
}

// A checkpoint stands on what the ledger had charged when it was written. A ledger without that line was
// shortened or exchanged, and going on from it would spend those charges a second time.
void refuse_foreign_checkpoint(const RunSetup& setup) {
  const CheckpointHead& head = *setup.checkpoint;
  const std::string name = "the checkpoint '" + head.dir.string() + "'";
  if (head.plan_digest != setup.ledger->open().at("plan_digest"))
    throw StateError(name +
                     " was trained under another privacy plan than that of its ledger: restore the "
                     "checkpoints of this run");
  bool found = false;
  const auto visit = [&](const json& line) {
    found = found || (line.at("seq") == head.ledger_lines - 1 && line.at("digest") == head.ledger_digest);
  };
  accounting::read_chain(setup.ledger->text(), visit);
  if (!found)
    throw StateError(name + " was written with line " + std::to_string(head.ledger_lines) +
                     " of a ledger that is not the one in '" + setup.run_dir.string() +
                     "': restore that ledger");
}

// The digests that a ledger of this text has of the checkpoint of a step: more than one where it was written
// again after a resume.
std::set<std::string> states_of_checkpoint(const std::string& text, int64_t step) {
  std::set<std::string> states;
  accounting::read_chain(text, [&](const json& line) {
    if (line.at("kind") == "checkpoint" && line.at("step") == step)
      states.insert(line.at("state").get<std::string>());
  });
  return states;
}

// Each rank holds what it received to the ledger, and to its own copy as it was before this start. A copy
// that ends before the line was of a rank that was away, or rank 0 added the line: the rank cannot know.
void refuse_altered_checkpoint(const RunSetup& setup, const std::string& own_copy, int rank) {
  if (DPFA_PLANT("checkpoint_unchecked")) return;
  const Restored& restored = *setup.restored;
  const std::string step = std::to_string(restored.step);
  if (!states_of_checkpoint(setup.ledger->text(), restored.step).contains(restored.digest))
    throw StateError("the checkpoint of step " + step +
                     " is not the one that this run wrote: its ledger has no such digest of weights and "
                     "moments; restore the checkpoint, or remove it to go on from an earlier one");
  if (!own_copy.empty() && !states_of_checkpoint(own_copy, restored.step).contains(restored.digest))
    std::cerr << "warning: the copy of the ledger of rank " << rank << " ends before the checkpoint of step "
              << step << ": it cannot vouch for these weights\n";
}

// `longest`: what the ranks of a run that is continued know of its ledger; empty where they keep no copies.
accounting::Ledger open_ledger(RunSetup& setup, const RunOptions& options, const std::string& longest) {
  const fs::path path = setup.run_dir / accounting::kLedgerFile;
  if (options.resume) {
    if (!fs::exists(path))
      throw StateError(
          "'" + setup.run_dir.string() +
          "' has no ledger.jsonl: what was released from there is not known, so it cannot be continued; "
          "start a new run in another output.dir");
    accounting::Ledger ledger =
        longest.empty() ? accounting::Ledger::resume(path) : accounting::Ledger::resume(path, longest);
    refuse_foreign_ledger(setup, ledger, options);
    return ledger;
  }
  refuse_existing_output(setup);
  std::error_code error;
  fs::create_directories(setup.run_dir, error);
  if (error) throw IoError("cannot create '" + setup.run_dir.string() + "': " + error.message());
  write_file_atomically(setup.run_dir / "config.ini", plan::to_ini(setup.config));
  const std::vector<std::string> stamps = stamps_of(options);
  return accounting::Ledger::create(path, {{"run_id", random_hex_id()},
                                           {"dataset_id", setup.dataset_id},
                                           {"private", setup.plan->is_private()},
                                           {"stamps", stamps},
                                           {"plan", setup.plan->to_json()},
                                           {"plan_digest", setup.plan->digest()}});
}

// The id keeps the lines of a copied run folder that goes on apart from the original's.
json start_fields(const RunSetup& setup, int ranks) {
  json fields = {{"id", random_hex_id()}, {"world_size", ranks}, {"noise", setup.config.aggregation.noise}};
  if (const auto shares = setup.plan->noise_shares()) {
    fields["colluding_ranks"] = shares->colluding_ranks;
    fields["share_sigma"] = shares->share.share_sigma;  // in units of the lane grid
  }
  return fields;
}

// Rank 0 wrote the line: every other rank holds it to what it would have written itself.
void refuse_foreign_start(const RunSetup& setup, int ranks) {
  json last;
  const auto visit = [&](const json& line) {
    if (line.at("kind") == "start") last = line;
  };
  accounting::read_chain(setup.ledger->text(), visit);
  const json own = start_fields(setup, ranks);
  for (const auto& [name, value] : own.items())
    if (name != "id" && (!last.contains(name) || last.at(name) != value))
      throw StateError("the start line that rank 0 wrote in the ledger has another " + name +
                       " than this rank's: the ranks must not go on together");
}

}  // namespace

std::vector<std::string> stamps_of(const RunOptions& options) {
  std::vector<std::string> stamps;
  if (!options.config.privacy.enabled) stamps.push_back("privacy.enabled = false");
  if (options.insecure_seed) stamps.push_back("--insecure-seed: the keys of this run can be guessed");
  if (options.debug_nonprivate) stamps.push_back("--debug-nonprivate: private values were shown");
  return stamps;
}

plan::PrivacyPlan plan_for(const RunSetup& setup, int64_t ranks) {
  plan::AggregationConfig aggregation = setup.config.aggregation;
  if (aggregation.noise == "shares") aggregation.ranks = ranks;
  return plan::PrivacyPlan::derive(setup.config.privacy, aggregation, setup.shape.parameter_count(),
                                   setup.config.runtime.constant_step_slots);
}

void refuse_existing_output(const RunSetup& setup) {
  if (fs::exists(setup.run_dir))
    throw ConfigError("the output directory '" + setup.run_dir.string() +
                      "' exists: choose another output.dir, or continue that run with --resume " +
                      setup.run_dir.string());
}

void open_run(RunSetup& setup, const RunOptions& options, comm::Communicator& communicator) {
  std::optional<fs::path> copy;
  std::string own_copy;  // as it was before this start
  on_every_rank(communicator, [&] {
    copy = ledger_copy_of(setup.config, communicator.rank());
    if (copy && !options.resume) refuse_existing_copy(*copy);
    if (copy && fs::exists(*copy)) own_copy = accounting::read_text_file(*copy);
  });
  const std::string longest = copy && options.resume ? longest_ledger(communicator, *copy) : "";
  on_rank_0(communicator, [&] {
    setup.ledger = open_ledger(setup, options, longest);
    if (setup.checkpoint) refuse_foreign_checkpoint(setup);
    if (setup.restored) refuse_altered_checkpoint(setup, own_copy, /*rank=*/0);
    go_on_with_these_ranks(setup);
    setup.ledger->start(start_fields(setup, communicator.size()));
  });
  share_ledger(communicator, copy, setup.ledger, [&] {
    if (communicator.rank() == 0) return;
    if (setup.restored) refuse_altered_checkpoint(setup, own_copy, communicator.rank());
    refuse_foreign_ledger(setup, *setup.ledger, options);
    go_on_with_these_ranks(setup);
    refuse_foreign_start(setup, communicator.size());
  });
}

}  // namespace dpfa::train
