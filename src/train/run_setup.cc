#include "src/train/run_setup.h"

#include <ATen/Parallel.h>
#include <malloc.h>
#include <omp.h>
#include <sched.h>
#include <sodium.h>

#include <algorithm>
#include <iostream>
#include <thread>

#include "src/base/check.h"
#include "src/base/watchdog.h"
#include "src/model/gpt2_io.h"
#include "src/plan/claims.h"
#include "src/privacy/agreement.h"
#include "src/train/collective.h"
#include "src/train/mask_keys.h"
#include "src/train/run_data.h"
#include "src/train/run_ledger.h"
#include "src/train/tuning.h"

namespace dpfa::train {
namespace {

constexpr int64_t kLargestMicrobatch = 32;

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

// Rank 0 checks the files of the newest checkpoint; the others take what it read. Here already, before keys
// are agreed on, so that every rank signs what it received.
void restore(RunSetup& setup, comm::Communicator& communicator) {
  Watchdog watchdog(communicator.rank(), std::chrono::seconds(setup.config.runtime.watchdog_seconds));
  watchdog.progress("find the checkpoint");
  std::string skipped;
  int64_t step = -1;
  on_rank_0(communicator, [&] {
    setup.checkpoint = find_checkpoint(setup.run_dir, skipped);
    if (setup.checkpoint) step = setup.checkpoint->step;
  });
  if (!skipped.empty()) std::cerr << "warning: skipped damaged checkpoints: " << skipped << '\n';
  const auto broadcast = [&](auto values) {
    watchdog.progress("share the checkpoint");
    communicator.broadcast(std::as_writable_bytes(values), /*root=*/0);
  };
  broadcast(std::span(&step, 1));
  if (step < 0) return;
  const std::span<float> weights = setup.weights.span();
  Restored& restored = setup.restored.emplace();
  restored.step = step;
  restored.optimizer = make_optimizer_state(setup.config.optimizer, setup.weights.size());
  watchdog.progress("load the checkpoint");
  on_rank_0(communicator,
            [&] { load_checkpoint(*setup.checkpoint, setup.shape, weights, restored.optimizer); });
  broadcast(weights);
  broadcast(restored.optimizer.first.span());
  broadcast(restored.optimizer.second.span());
  broadcast(std::span(&restored.optimizer.updates, 1));
  setup.model->weights_changed();
  watchdog.progress("digest of the checkpoint");
  restored.digest = state_digest(step, weights, restored.optimizer);
}

// numerics = auto: the faster one on rank 0 where the choice is open, otherwise exact.
void resolve_numerics(RunSetup& setup, bool is_open, comm::Communicator& communicator) {
  std::string numerics = "exact";
  if (is_open && communicator.rank() == 0)
    numerics = faster_numerics(setup.config, *setup.model, setup.context);
  setup.config.privacy.numerics = is_open ? broadcast_text(communicator, numerics) : numerics;
  if (setup.config.privacy.numerics == "fp32") return;
  // A resolved configuration is one that can be given: with exact it says nothing of methods of norms.
  setup.config.runtime.norm_method = plan::RuntimeConfig().norm_method;
  setup.config.runtime.norm_memory_mib = plan::RuntimeConfig().norm_memory_mib;
}

plan::RunFacts facts_of(const RunOptions& options) {
  return {.shared_sampling_key = options.insecure_seed.has_value(),
          .raw_values_shown = options.debug_nonprivate};
}

// [runtime] may differ between ranks, so all of them hear of one that recomputes.
bool any_rank_recomputes(const plan::RuntimeConfig& runtime, comm::Communicator& communicator) {
  int64_t recomputes = runtime.recompute == "layer" ? 1 : 0;
  communicator.all_reduce_max(std::span<int64_t>(&recomputes, 1));
  return recomputes != 0;
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
void agree_on_start(RunSetup& setup, const std::string& state, comm::Communicator& communicator) {
  state_agreed([&] {
    privacy::agree(communicator, {.step = 0,
                                  .draw = setup.ledger->last_draw() + 1,
                                  .plan_digest = setup.plan->digest(),
                                  .ledger_digest = setup.ledger->digest()});
  });
  const std::string first = broadcast_text(communicator, state);
  on_every_rank(communicator, [&] {
    if (state == first) return;
    throw StateError(setup.restored ? "the checkpoint that this rank received is not the one that rank 0 "
                                      "read: something altered it on its way"
                                    : "the initial weights are not those of rank 0: model.from must hold the "
                                      "same files on all hosts");
  });
}

void print_statement(const RunSetup& setup, const RunOptions& options, bool whole) {
  for (const std::string& warning : setup.plan->warnings()) std::cerr << "warning: " << warning << '\n';
  for (const std::string& stamp : stamps_of(options)) std::cerr << "NOT PRIVATE: " << stamp << '\n';
  if (whole) std::cout << setup.plan->statement(facts_of(options)) << std::flush;
}

// May differ between ranks: no record's contribution depends on the others of its pass, which the steps test.
int64_t choose_microbatch_size(const RunSetup& setup, int world_size) {
  if (setup.config.runtime.constant_step_slots) return 1;  // a pass holds a record or none
  const int64_t configured = setup.config.runtime.microbatch_size;
  if (configured > 0) return configured;
  const auto share = static_cast<int64_t>(setup.plan->expected_batch_size() / world_size);
  return best_microbatch_size(*setup.plan, setup.config, *setup.model, setup.context,
                              std::clamp<int64_t>(share, 1, kLargestMicrobatch));
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
  const bool is_auto = setup.config.privacy.numerics == "auto";
  bool is_open = false;
  if (is_auto) setup.config.privacy.numerics = "exact";  // for the checks; decided below, by rank 0

  const auto derive = [&] {
    const int64_t stated = setup.config.aggregation.ranks;
    setup.plan = plan_for(setup, stated > 0 ? stated : communicator.size());
    plan::check_job(options.config, communicator.size(), options.dry_run);  // numerics as it was asked for
  };
  // The measurements below may take any time; everything else here is under the watchdog.
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
    // Layers that are recomputed have the route of exact alone.
    is_open = is_auto && !any_rank_recomputes(setup.config.runtime, communicator);
  });
  if (options.dry_run) {
    if (is_open) {
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
  if (options.resume) restore(setup, communicator);
  if (is_auto) resolve_numerics(setup, is_open, communicator);
  if (is_open) on_every_rank(communicator, derive);
  if (communicator.rank() == 0) print_statement(setup, options, /*whole=*/false);
  watched("open the run", [&] {
    const std::string state =
        setup.restored ? setup.restored->digest : state_digest(/*step=*/0, setup.weights.span(), {});
    setup.keys->masks =
        make_mask_keys(communicator, *setup.plan, setup.config,
                       {{"the number of parameters", std::to_string(setup.shape.parameter_count())},
                        {"the options of the command line", shared_options(options)},
                        {setup.restored ? "the checkpoint to go on from" : "the initial weights", state}});
    open_run(setup, options, communicator);
    agree_on_start(setup, state, communicator);
  });

  setup.microbatch_size = choose_microbatch_size(setup, communicator.size());
  return setup;
}

}  // namespace dpfa::train
