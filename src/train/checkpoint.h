// Checkpoints: one folder per checkpoint that appears complete or not at all.
//
// RUN/checkpoints/step_XXXXXXXX/ holds config.json and model.safetensors (a Hugging Face folder), the
// tokenizer's files, optimizer.safetensors, and manifest.json: step, plan digest, ledger lines and head
// digest at that time, world size, and size and BLAKE2b-256 of every other file. Protocol: write under a
// temporary name, fsync each file, manifest last, fsync, rename, fsync the parent, then move the symbolic
// link RUN/latest by rename. What a crash leaves under a temporary name goes with the next checkpoint. There
// are no keys, draws or partial sums in a checkpoint: a resumed run draws new ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "accounting/ledger.h"
#include "src/plan/model_shape.h"
#include "src/train/optimizer.h"

namespace dpfa::train {

struct CheckpointContent {
  int64_t step = 0;  // steps that are part of the weights
  plan::Gpt2Shape shape;
  std::span<const float> weights;
  const OptimizerState* optimizer = nullptr;
  std::filesystem::path tokenizer_dir;  // a folder that load_tokenizer() reads
  std::string plan_digest;
  std::string run_id;
  const accounting::Ledger* ledger = nullptr;
  int world_size = 1;
};

// BLAKE2b-256 in hex of all that a checkpoint restores: step, weights, moments and number of updates. The
// same on every rank of a run.
std::string state_digest(int64_t step, std::span<const float> weights, const OptimizerState& optimizer);

// Writes on the calling rank (rank 0), keeps the newest `keep` and removes older ones. Throws IoError; what
// was there before is then still there.
void write_checkpoint(const std::filesystem::path& run_dir, const CheckpointContent& content, int64_t keep);

struct CheckpointHead {
  std::filesystem::path dir;
  int64_t step = 0;
  std::string plan_digest;
  int64_t ledger_lines = 0;
  std::string ledger_digest;
};
// The newest checkpoint whose manifest and hashes hold; skipped ones are named in `skipped`. Empty where the
// run has none at all. Throws StateError where there are some and none is valid.
std::optional<CheckpointHead> find_checkpoint(const std::filesystem::path& run_dir, std::string& skipped);
// Loads what find_checkpoint() found. Throws StateError where it holds another model or optimizer, IoError
// where a file is malformed.
void load_checkpoint(const CheckpointHead& head, const plan::Gpt2Shape& shape, std::span<float> weights,
                     OptimizerState& optimizer);

}  // namespace dpfa::train
