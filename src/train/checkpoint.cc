#include "src/train/checkpoint.h"

#include <sodium.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "src/base/error.h"
#include "src/base/file.h"
#include "src/data/tokenizer.h"
#include "src/model/gpt2_io.h"
#include "src/model/safetensors.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kFormat = "dpfa-checkpoint-1";

std::string hash_file(const fs::path& path) {
  const MappedFile file(path);
  unsigned char digest[32];
  crypto_generichash(digest, sizeof(digest), reinterpret_cast<const unsigned char*>(file.bytes().data()),
                     file.bytes().size(), nullptr, 0);
  char hex[2 * sizeof(digest) + 1];
  return sodium_bin2hex(hex, sizeof(hex), digest, sizeof(digest));
}

std::string step_name(int64_t step) {
  char name[32];
  std::snprintf(name, sizeof(name), "step_%08lld", static_cast<long long>(step));
  return name;
}

void write_optimizer(const fs::path& path, const OptimizerState& state) {
  std::vector<model::TensorToWrite> tensors;
  const auto add = [&](const char* name, const FlatBuffer<float>& values) {
    if (!values.empty())
      tensors.push_back({name, model::DType::kF32, {values.size()}, std::as_bytes(values.span())});
  };
  add("first_moment", state.first);
  add("second_moment", state.second);
  model::write_safetensors(path, tensors, {{"updates", std::to_string(state.updates)}});
}

// Checkpoint folders of the run, newest first.
std::vector<fs::path> checkpoint_dirs(const fs::path& run_dir) {
  std::vector<fs::path> result;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run_dir / "checkpoints", ignored)) {
    const std::string name = entry.path().filename();
    if (entry.is_directory() && name.starts_with("step_") && name.find('.') == std::string::npos)
      result.push_back(entry.path());
  }
  std::sort(result.rbegin(), result.rend());
  return result;
}

CheckpointHead check(const fs::path& dir) {
  CheckpointHead head;
  head.dir = dir;
  const MappedFile text(dir / "manifest.json");
  try {
    const json manifest = json::parse(text.text());
    if (manifest.at("format") != kFormat) throw IoError("format " + manifest.at("format").dump());
    head.step = manifest.at("step");
    head.plan_digest = manifest.at("plan_digest");
    head.ledger_lines = manifest.at("ledger").at("lines");
    head.ledger_digest = manifest.at("ledger").at("digest");
    for (const auto& [name, file] : manifest.at("files").items()) {
      if (name.find('/') != std::string::npos) throw IoError("file name " + name);
      if (hash_file(dir / name) != file.at("blake2b")) throw IoError("the hash of " + name + " differs");
    }
  } catch (const json::exception& error) {
    throw IoError("malformed manifest.json: " + std::string(error.what()));
  }
  return head;
}

void point_latest_at(const fs::path& run_dir, const std::string& name) {
  const fs::path link = run_dir / ("latest.tmp-" + std::to_string(::getpid()));
  std::error_code error;
  fs::remove(link, error);
  fs::create_directory_symlink(fs::path("checkpoints") / name, link, error);
  if (!error) fs::rename(link, run_dir / "latest", error);
  if (error) throw IoError("cannot move '" + (run_dir / "latest").string() + "': " + error.message());
  sync_to_disk(run_dir);
}

}  // namespace

void write_checkpoint(const fs::path& run_dir, const CheckpointContent& content, int64_t keep) {
  const fs::path parent = run_dir / "checkpoints";
  const std::string name = step_name(content.step);
  const fs::path temporary = parent / (name + ".tmp-" + content.run_id.substr(0, 8)), final_dir = parent / name;
  try {
    fs::create_directories(parent);
    fs::remove_all(temporary);
    fs::create_directory(temporary);
    const auto tokenizer = data::load_tokenizer(content.tokenizer_dir);
    tokenizer->save(temporary);
    model::write_gpt2(temporary, content.shape, content.weights, tokenizer->end_of_text());
    write_optimizer(temporary / "optimizer.safetensors", *content.optimizer);

    json files = json::object();
    for (const auto& entry : fs::directory_iterator(temporary)) {
      sync_to_disk(entry.path());
      files[entry.path().filename()] = {{"size", entry.file_size()}, {"blake2b", hash_file(entry.path())}};
    }
    const json manifest = {
        {"format", kFormat}, {"step", content.step}, {"plan_digest", content.plan_digest},
        {"run_id", content.run_id}, {"world_size", content.world_size}, {"files", files},
        {"ledger", {{"lines", content.ledger->lines()}, {"digest", content.ledger->digest()}}}};
    write_file_atomically(temporary / "manifest.json", manifest.dump(2) + "\n");
    // A checkpoint of this step may stand from an earlier start of the run; the new one goes with its ledger.
    fs::remove_all(final_dir);
    fs::rename(temporary, final_dir);
    sync_to_disk(parent);
    point_latest_at(run_dir, name);
    const auto dirs = checkpoint_dirs(run_dir);
    for (size_t i = std::max<int64_t>(keep, 1); i < dirs.size(); ++i) fs::remove_all(dirs[i]);
  } catch (const fs::filesystem_error& error) {
    throw IoError("cannot write the checkpoint '" + final_dir.string() + "': " + error.code().message());
  }
}

std::optional<CheckpointHead> find_checkpoint(const fs::path& run_dir, std::string& skipped) {
  const auto dirs = checkpoint_dirs(run_dir);
  for (const fs::path& dir : dirs) {
    try {
      return check(dir);
    } catch (const IoError& error) {
      skipped += (skipped.empty() ? "" : "; ") + dir.filename().string() + ": " + error.what();
    }
  }
  if (dirs.empty()) return std::nullopt;
  throw StateError("no checkpoint of '" + run_dir.string() + "' is valid (" + skipped + ")");
}

void load_checkpoint(const CheckpointHead& head, const plan::Gpt2Shape& shape, std::span<float> weights,
                     OptimizerState& optimizer) {
  model::load_gpt2_weights(head.dir, shape, weights);
  const auto file = model::SafetensorsFile::open(head.dir / "optimizer.safetensors");
  const auto load = [&](const char* name, FlatBuffer<float>& values) {
    if (file.contains(name) != !values.empty())
      throw StateError("the checkpoint '" + head.dir.string() + "' belongs to another optimizer: " + name);
    if (!values.empty()) file.read_floats(name, values.span());
  };
  load("first_moment", optimizer.first);
  load("second_moment", optimizer.second);
  optimizer.updates = std::stoll(file.metadata().at("updates"));
}

}  // namespace dpfa::train
