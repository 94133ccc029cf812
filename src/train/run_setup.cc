#include "src/train/run_setup.h"

#include <ATen/Parallel.h>
#include <malloc.h>
#include <omp.h>
#include <sched.h>
#include <sodium.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <thread>

#include "accounting/ledger_chain.h"
#include "accounting/ledger_files.h"
#include "src/base/check.h"
#include "src/base/file.h"
#include "src/base/watchdog.h"
#include "src/model/gpt2_io.h"
#include "src/plan/claims.h"
#include "src/privacy/agreement.h"
#include "src/privacy/clipper.h"
#include "src/train/collective.h"
#include "src/train/ledger_copies.h"
#include "src/train/mask_keys.h"
#include "src/train/run_data.h"
#include "src/train/tuning.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kLargestMicrobatch = 32;

std::string random_hex_id() {
  const auto bytes = RootKey::from_system().bytes();
  char hex[33];
  return sodium_bin2hex(hex, sizeof(hex), bytes.data(), 16);
}

std::string digest_of(std::span<const float> weights) {
  unsigned char digest[32];
  crypto_generichash(digest, sizeof(digest), reinterpret_cast<const unsigned char*>(weights.data()),
                     weights.size_bytes(), nullptr, 0);
  char hex[65];
  return sodium_bin2hex(hex, sizeof(hex), digest, sizeof(digest));
}

void choose_shape(RunSetup& setup) {
  const plan::ModelConfig& model = setup.config.model;
  const int64_t vocab = setup.train->vocab_size();
  if (!model.from.empty()) {
    setup.shape = model::read_gpt2_shape(model.from);
    setup.context = model.context > 0 ? model.context : setup.shape.positions;
  } else {
    setup.shape = {model.layers,
                   model.width,
                   model.heads,
                   model.context,
                   model.vocab_size > 0 ? model.vocab_size : vocab,
                   model.tied_head};
    setup.context = model.context;
  }
  if (setup.shape.vocab < vocab)
    throw ConfigError("the model's vocabulary has " + std::to_string(setup.shape.vocab) +
                      " tokens and the data's " + std::to_string(vocab) +
                      ": prepare the data with the model's tokenizer");
  if (setup.context < 1)
    throw ConfigError(
        "model.context = 0 takes the positions of model.from: without it give the tokens of one example");
  if (setup.context > setup.shape.positions)
    throw ConfigError("model.context = " + std::to_string(setup.context) + ": expected 1 to " +
                      std::to_string(setup.shape.positions) + ", the model's positions");
  if (setup.shape.width % setup.shape.heads != 0)
    throw ConfigError("model.width = " + std::to_string(setup.shape.width) +
                      " is not a multiple of model.heads = " + std::to_string(setup.shape.heads));
}

at::ScalarType compute_type(const plan::RuntimeConfig& runtime) {
  if (runtime.device != "cpu")
    throw Unsupported("runtime.device = " + runtime.device + " is not in this build: use cpu");
  return runtime.compute == "bf16" ? at::kBFloat16 : at::kFloat;
}

void make_model(RunSetup& setup) {
  setup.weights = FlatBuffer<float>(setup.shape.parameter_count());
  const plan::RuntimeConfig& runtime = setup.config.runtime;
  setup.model = std::make_unique<model::Gpt2>(
      setup.shape, compute_type(runtime),
      model::Execution{.attention = runtime.attention == "exact" ? kernels::AttentionPath::kExact
                                                                 : kernels::AttentionPath::kFlash,
                       .recompute_layers = runtime.recompute == "layer"});
  if (setup.config.model.from.empty())
    model::initialise_gpt2(setup.shape, setup.keys->init, setup.weights.span());
  else
    model::load_gpt2_weights(setup.config.model.from, setup.shape, setup.weights.span());
  setup.model->bind(setup.weights.span());
}

std::vector<std::string> stamps_of(const RunOptions& options) {
  std::vector<std::string> stamps;
  if (!options.config.privacy.enabled) stamps.push_back("privacy.enabled = false");
  if (options.insecure_seed) stamps.push_back("--insecure-seed: the keys of this run can be guessed");
  if (options.debug_nonprivate) stamps.push_back("--debug-nonprivate: private values were shown");
  return stamps;
}

// The configuration's plan for `ranks` of them (noise = shares: the plan names its ranks).
plan::PrivacyPlan plan_for(const RunSetup& setup, int64_t ranks) {
  plan::AggregationConfig aggregation = setup.config.aggregation;
  if (aggregation.noise == "shares") aggregation.ranks = ranks;
  return plan::PrivacyPlan::derive(setup.config.privacy, aggregation, setup.shape.parameter_count());
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

plan::RunFacts facts_of(const RunSetup& setup, const RunOptions& options) {
  return {.constant_step_slots = setup.config.runtime.constant_step_slots,
          .shared_sampling_key = options.insecure_seed.has_value(),
          .raw_values_shown = options.debug_nonprivate};
}

void refuse_foreign_ledger(const RunSetup& setup, const accounting::Ledger& ledger,
                           const RunOptions& options) {
  const json& open = ledger.open();
  if (open.at("plan_digest") != opening_plan(setup, open).digest())
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

void refuse_existing_output(const RunSetup& setup) {
  if (fs::exists(setup.run_dir))
    throw ConfigError("the output directory '" + setup.run_dir.string() +
                      "' exists: choose another output.dir, or continue that run with --resume " +
                      setup.run_dir.string());
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

void open_run(RunSetup& setup, const RunOptions& options, comm::Communicator& communicator) {
  std::optional<fs::path> copy;
  on_every_rank(communicator, [&] {
    copy = ledger_copy_of(setup.config, communicator.rank());
    if (copy && !options.resume) refuse_existing_copy(*copy);
  });
  const std::string longest = copy && options.resume ? longest_ledger(communicator, *copy) : "";
  std::string skipped;
  on_rank_0(communicator, [&] {
    setup.ledger = open_ledger(setup, options, longest);
    if (options.resume) setup.checkpoint = find_checkpoint(setup.run_dir, skipped);
    if (setup.checkpoint) refuse_foreign_checkpoint(setup);
    go_on_with_these_ranks(setup);
    setup.ledger->start(start_fields(setup, communicator.size()));
  });
  share_ledger(communicator, copy, setup.ledger, [&] {
    if (communicator.rank() == 0) return;
    refuse_foreign_ledger(setup, *setup.ledger, options);
    go_on_with_these_ranks(setup);
    refuse_foreign_start(setup, communicator.size());
  });
  if (!skipped.empty()) std::cerr << "warning: skipped damaged checkpoints: " << skipped << '\n';
}

// What decides which collectives a rank takes part in, and which stamps its run gets. Where the run folder
// lies is each host's own matter.
std::string shared_options(const RunOptions& options) {
  std::string text = "resume=" + std::to_string(options.resume) +
                     " dry_run=" + std::to_string(options.dry_run) +
                     " debug_nonprivate=" + std::to_string(options.debug_nonprivate);
  if (options.insecure_seed) text += " insecure_seed=" + std::to_string(*options.insecure_seed);
  return text;
}

// Every host may have its own copy of the file, and a learning rate is in no plan.
void agree_on_configuration(const RunSetup& setup, const RunOptions& options,
                            comm::Communicator& communicator) {
  const std::string mine = shared_configuration(setup.config) + shared_options(options),
                    first = broadcast_text(communicator, mine);
  on_every_rank(communicator, [&] {
    if (mine != first)
      throw ConfigError(
          "this rank was given another configuration than rank 0: all need the same file and options, only "
          "[runtime] (but constant_step_slots) and the key files of [aggregation] may differ");
  });
}

// Ranks with different plans, ledgers or weights must not train together.
void agree_on_start(RunSetup& setup, const std::string& weights, comm::Communicator& communicator) {
  state_agreed([&] {
    privacy::agree(communicator, {.step = 0,
                                  .draw = setup.ledger->last_draw() + 1,
                                  .plan_digest = setup.plan->digest(),
                                  .ledger_digest = setup.ledger->digest()});
  });
  const std::string first = broadcast_text(communicator, weights);
  on_every_rank(communicator, [&] {
    if (weights != first)
      throw StateError(
          "the initial weights are not those of rank 0: model.from must hold the same files on all hosts");
  });
}

void print_statement(const RunSetup& setup, const RunOptions& options, bool whole) {
  for (const std::string& warning : setup.plan->warnings()) std::cerr << "warning: " << warning << '\n';
  for (const std::string& stamp : stamps_of(options)) std::cerr << "NOT PRIVATE: " << stamp << '\n';
  if (whole) std::cout << setup.plan->statement(facts_of(setup, options)) << std::flush;
}

// May differ between ranks: no record's contribution depends on the others of its pass.
int64_t choose_microbatch_size(const RunSetup& setup, int world_size) {
  if (setup.config.runtime.constant_step_slots) return 1;  // a pass holds a record or none
  const int64_t configured = setup.config.runtime.microbatch_size;
  if (configured == 0) {
    const auto share = static_cast<int64_t>(setup.plan->expected_batch_size() / world_size);
    return best_microbatch_size(*setup.plan, setup.config.runtime, *setup.model, setup.context,
                                std::clamp<int64_t>(share, 1, kLargestMicrobatch));
  }
  if (!setup.plan->is_private()) return configured;
  privacy::Clipper clipper(*setup.plan, *setup.model, norm_methods(setup.config.runtime, setup.context));
  return may_share_passes(clipper, configured, setup.context) ? configured : 1;
}

}  // namespace

void keep_freed_memory() {
  // glibc takes no larger threshold than half its largest heap segment; without one, every block above 128
  // KiB would be mapped, cleared and unmapped anew.
  constexpr int kLargestThreshold = 32 << 20;
  DPFA_CHECK(mallopt(M_MMAP_THRESHOLD, kLargestThreshold) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1);
}

void set_threads(int64_t configured, int local_size) {
  int64_t threads = configured;
  if (threads == 0) {
    cpu_set_t affinity;
    CPU_ZERO(&affinity);
    const bool known = sched_getaffinity(0, sizeof(affinity), &affinity) == 0;
    const int64_t host = std::max(1u, std::thread::hardware_concurrency());
    const int64_t usable = known ? CPU_COUNT(&affinity) : host;
    threads = std::max<int64_t>(1, std::min(usable, host / std::max(1, local_size)));
  }
  omp_set_num_threads(static_cast<int>(threads));
  at::set_num_threads(static_cast<int>(threads));
}

RunSetup prepare_run(const RunOptions& options, comm::Communicator& communicator) {
  RunSetup setup;
  setup.config = options.config;
  setup.run_dir = options.config.output.dir;
  set_threads(setup.config.runtime.threads, communicator.local_size());
  const bool is_open = setup.config.privacy.numerics == "auto";
  // For the checks, and where layers are recomputed, which takes the exact route alone.
  if (is_open) setup.config.privacy.numerics = "exact";
  const bool measures_numerics = is_open && setup.config.runtime.recompute != "layer";

  const auto derive = [&] {
    const int64_t stated = setup.config.aggregation.ranks;
    setup.plan = plan_for(setup, stated > 0 ? stated : communicator.size());
    plan::check_job(options.config, communicator.size(), options.dry_run);  // numerics as it was asked for
  };
  // The measurements below may take any time; everything else is under the watchdog.
  const auto watched = [&](const char* phase, const std::function<void()>& work) {
    Watchdog watchdog(communicator.rank(), std::chrono::seconds(setup.config.runtime.watchdog_seconds));
    watchdog.progress(phase);
    work();
  };
  watched("check the configuration and the data", [&] {
    agree_on_configuration(setup, options, communicator);
    on_every_rank(communicator, [&] {
      DPFA_CHECK(sodium_init() >= 0);
      compute_type(setup.config.runtime);
      open_data(setup.config.data, communicator.rank(), setup.train, setup.eval);
      choose_shape(setup);
      derive();
      if (!options.dry_run && setup.run_dir.empty())
        throw ConfigError("output.dir is missing: the run directory");
    });
    setup.dataset_id = name_data(setup.config.data, *setup.train, communicator);
  });
  if (options.dry_run) {
    if (measures_numerics) {
      // The claim that holds either way: fp32 has the larger sensitivity.
      setup.config.privacy.numerics = "fp32";
      on_every_rank(communicator, derive);
      if (communicator.rank() == 0)
        std::cerr
            << "numerics = auto: the run measures whether exact or fp32 is faster; stated is fp32, which "
               "needs no less noise and claims no smaller epsilon\n";
    }
    if (communicator.rank() == 0) print_statement(setup, options, /*whole=*/true);
    return setup;
  }

  watched("make the model", [&] {
    // Here already, so that nobody waits for the model to hear of it.
    if (!options.resume) on_rank_0(communicator, [&] { refuse_existing_output(setup); });
    state_agreed([&] {
      setup.keys = make_run_keys(communicator, options.insecure_seed, setup.plan->noise_shares().has_value());
    });
    on_every_rank(communicator, [&] { make_model(setup); });
  });
  if (measures_numerics) {
    setup.config.privacy.numerics = broadcast_text(
        communicator,
        communicator.rank() == 0 ? faster_numerics(setup.config, *setup.model, setup.context) : "");
    on_every_rank(communicator, derive);
  }
  if (communicator.rank() == 0) print_statement(setup, options, /*whole=*/false);
  watched("open the run", [&] {
    const std::string weights = digest_of(setup.weights.span());
    setup.keys->masks =
        make_mask_keys(communicator, *setup.plan, setup.config,
                       {{"the number of parameters", std::to_string(setup.shape.parameter_count())},
                        {"the options of the command line", shared_options(options)},
                        {"the initial weights", weights}});
    open_run(setup, options, communicator);
    agree_on_start(setup, weights, communicator);
  });

  setup.microbatch_size = choose_microbatch_size(setup, communicator.size());
  return setup;
}

}  // namespace dpfa::train
