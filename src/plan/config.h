// The configuration of a run: INI sections, overridden by `--section.key value` on the command line.
//
// One option table defines every key with its type, default, range and help text; docs/configuration.md is
// generated from it. An unknown section or key, a wrong type, a value out of range or a missing required key
// is ConfigError with the key, what was given and what is expected. PrivacyConfig alone decides privacy;
// RuntimeConfig, but for constant_step_slots, cannot change the digest of the plan (a test compares).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dpfa::plan {

struct ModelConfig {
  std::string architecture = "gpt2";
  std::string from;  // Hugging Face folder; then layers, width, heads, context come from it
  int64_t layers = 2, width = 64, heads = 2;
  int64_t context = 64;  // tokens of one example; with `from` at most the model's positions (0: all of them)
  int64_t vocab_size = 0;  // 0: the tokenizer's
  bool tied_head = true;
  double dropout = 0;  // embedding and residual sites
};

// In data.train: the number of the rank. Every rank then holds records of its own, each record in one rank's
// folder.
inline constexpr std::string_view kOwnRank = "{rank}";

struct DataConfig {
  std::string train;  // may hold kOwnRank
  std::string eval;   // held-out records
  bool eval_is_public = false;

  bool each_rank_has_its_own() const { return train.find(kOwnRank) != std::string::npos; }
  std::string train_of(int rank) const;  // data.train with the rank's number
};

struct PrivacyConfig {
  bool enabled = true;
  std::optional<double> noise_multiplier;
  std::optional<double> target_epsilon;
  double target_delta = 0;
  double max_grad_norm = 1;
  std::optional<double> sample_rate;
  std::optional<double> expected_batch_size;
  std::optional<int64_t> dataset_size;  // declared public
  int64_t steps = 0;
  int64_t reserve_steps = 0;      // further charges that restarts may need
  std::string clipping = "flat";  // flat | automatic
  std::string privacy_unit = "record";
  std::string neighboring_relation = "add_or_remove_one";
  std::string generator = "chacha20";  // chacha20 | philox
  std::string numerics = "exact";      // exact | fp32 | auto (the faster of both, measured at start)
  std::string loss = "token_mean";     // token_mean | token_sum
};

struct OptimizerConfig {
  std::string name = "adamw";  // adamw | sgd
  double learning_rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0;
  double momentum = 0;
  std::string schedule = "cosine";  // cosine | constant
  int64_t warmup_steps = 0;
  double final_learning_rate_ratio = 0.1;
};

struct TrainConfig {
  int64_t eval_every = 0;        // 0: only at the end
  int64_t checkpoint_every = 0;  // 0: only at the end
  int64_t keep_checkpoints = 2;
};

struct AggregationConfig {
  std::string mode = "plaintext";        // plaintext | masked
  std::string noise = "after_sum";       // after_sum | shares
  int64_t colluding_ranks = 0;           // t
  std::string collective = "allreduce";  // allreduce | reduce_scatter
  // mode = masked; the files may lie elsewhere on every host:
  std::string allow_list = {};  // public keys of all ranks
  std::string identity = {};    // secret key of this rank
  // noise = shares:
  int64_t ranks = 0;       // N; 0: those that were started
  int64_t lane_bits = 32;  // 16, 21 or 32
  int64_t grid_bits = 0;   // 0: the finest grid that the lanes hold
  double clamp_norms = 4;  // a coordinate of a rank's sum may reach at least this many max_grad_norm
  double overflow_probability = 1e-15;  // of some sum of lanes in one step
};

// Nothing here may change what is released, but constant_step_slots, which is part of the plan.
struct RuntimeConfig {
  int64_t microbatch_size = 0;   // 0: chosen by measurement
  std::string compute = "fp32";  // fp32 | bf16
  std::string device = "cpu";
  std::string attention = "flash";   // flash | exact
  std::string recompute = "none";    // none | layer
  std::string norm_method = "auto";  // auto | gram | direct | materialise (numerics = fp32)
  int64_t norm_memory_mib = 0;       // for gradients that `auto` keeps; 0: those of one record
  int64_t threads = 0;               // per rank; 0: cores of the host / ranks on it
  std::optional<int64_t> expected_world_size;
  int64_t watchdog_seconds = 300;  // 0: off
  bool constant_step_slots = false;
};

struct OutputConfig {
  std::string dir;
};

struct Config {
  ModelConfig model;
  DataConfig data;
  PrivacyConfig privacy;
  OptimizerConfig optimizer;
  TrainConfig train;
  AggregationConfig aggregation;
  RuntimeConfig runtime;
  OutputConfig output;
};

// Reads `file` (may be empty: defaults) and applies `overrides`, each {"section.key", "value"} ("-" and "_"
// alike). Throws IoError where the file cannot be read, ConfigError otherwise. Only syntax, types, ranges and
// names of single keys are checked here; what belongs together is checked by PrivacyPlan.
struct Override {
  std::string key;
  std::string value;
};
Config load_config(const std::filesystem::path& file, const std::vector<Override>& overrides);

// Every key with its resolved value, as INI text that load_config reads back to the same Config.
std::string to_ini(const Config& config);

// docs/configuration.md, from the option table.
std::string configuration_reference();

}  // namespace dpfa::plan
