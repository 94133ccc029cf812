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
#include "src/plan/value.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kFormat = "dpfa-checkpoint-1";
constexpr const char* kPartial = "partial_";  // before the name of a checkpoint that is being written

std::string hex_of(const unsigned char (&digest)[32]) {
  char hex[2 * sizeof(digest) + 1];
  return sodium_bin2hex(hex, sizeof(hex), digest, sizeof(digest));
}

std::string hash_file(const fs::path& path) {
  const MappedFile file(path);
  unsigned char digest[32];
  crypto_generichash(digest, sizeof(digest), reinterpret_cast<const unsigned char*>(file.bytes().data()),
                     file.bytes().size(), nullptr, 0);
  return hex_of(digest);
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
    if (entry.is_directory() && name.starts_with("step_")) result.push_back(entry.path());
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
    if (step_name(head.step) != dir.filename())
      throw IoError("its manifest is that of " + step_name(head.step));
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

void remove_partial(const fs::path& parent) {
  std::error_code ignored;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(parent, ignored))
    if (entry.path().filename().string().starts_with(kPartial)) found.push_back(entry.path());
  for (const fs::path& dir : found) fs::remove_all(dir, ignored);
}

// All files of a checkpoint, each on disk, and the manifest that names them last.
void write_content(const fs::path& dir, const CheckpointContent& content) {
  const auto tokenizer = data::load_tokenizer(content.tokenizer_dir);
  tokenizer->save(dir);
  model::write_gpt2(dir, content.shape, content.weights, tokenizer->end_of_text());
  write_optimizer(dir / "optimizer.safetensors", *content.optimizer);
  json files = json::object();
  for (const auto& entry : fs::directory_iterator(dir)) {
    sync_to_disk(entry.path());
    files[entry.path().filename()] = {{"size", entry.file_size()}, {"blake2b", hash_file(entry.path())}};
  }
  const json manifest = {
      {"format", kFormat},
      {"step", content.step},
      {"plan_digest", content.plan_digest},
      {"run_id", content.run_id},
      {"world_size", content.world_size},
      {"files", files},
      {"ledger", {{"lines", content.ledger->lines()}, {"digest", content.ledger->digest()}}}};
  write_file_atomically(dir / "manifest.json", manifest.dump(2) + "\n");
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

std::string state_digest(int64_t step, std::span<const float> weights, const OptimizerState& optimizer) {
  crypto_generichash_state hash;
  unsigned char digest[32];
  crypto_generichash_init(&hash, nullptr, 0, sizeof(digest));
  const int64_t numbers[] = {step, optimizer.updates, static_cast<int64_t>(weights.size()),
                             optimizer.first.size(), optimizer.second.size()};
  const auto add = [&](std::span<const std::byte> bytes) {
    crypto_generichash_update(&hash, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  };
  add(std::as_bytes(std::span(numbers)));
  for (const std::span<const float> values : {weights, optimizer.first.span(), optimizer.second.span()})
    add(std::as_bytes(values));
  crypto_generichash_final(&hash, digest, sizeof(digest));
  return hex_of(digest);
}

void write_checkpoint(const fs::path& run_dir, const CheckpointContent& content, int64_t keep) {
  const fs::path parent = run_dir / "checkpoints";
  const std::string name = step_name(content.step);
  const fs::path partial = parent / (kPartial + name), final_dir = parent / name;
  try {
    fs::create_directories(parent);
    remove_partial(parent);
    fs::create_directory(partial);
    write_content(partial, content);
    // Where a checkpoint of this step stands already, it is one that find_checkpoint() skipped as damaged.
    fs::remove_all(final_dir);
    fs::rename(partial, final_dir);
    sync_to_disk(parent);
    point_latest_at(run_dir, name);
    const auto dirs = checkpoint_dirs(run_dir);
    for (size_t i = std::max<int64_t>(keep, 1); i < dirs.size(); ++i) fs::remove_all(dirs[i]);
  } catch (const fs::filesystem_error& error) {
    remove_partial(parent);
    throw IoError("cannot write the checkpoint '" + final_dir.string() + "': " + error.code().message());
  } catch (const Error&) {
    remove_partial(parent);  // the disk may be full
    throw;
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
  const std::string name = "the checkpoint '" + head.dir.string() + "'";
  // The number of heads shows in no tensor's shape.
  if (model::read_gpt2_shape(head.dir) != shape)
    throw StateError(name + " holds a model of other dimensions than [model] of this configuration");
  model::load_gpt2_weights(head.dir, shape, weights);
  const auto file = model::SafetensorsFile::open(head.dir / "optimizer.safetensors");
  const auto load = [&](const char* tensor, FlatBuffer<float>& values) {
    if (file.contains(tensor) != !values.empty())
      throw StateError(name + " belongs to another optimizer than [optimizer] of this configuration: its " +
                       tensor + (values.empty() ? " is not used" : " is missing"));
    if (!values.empty()) file.read_floats(tensor, values.span());
  };
  load("first_moment", optimizer.first);
  load("second_moment", optimizer.second);
  const auto updates = file.metadata().find("updates");
  const auto count = updates == file.metadata().end() ? std::nullopt : plan::parse_integer(updates->second);
  if (!count || *count < 0) throw IoError(name + " does not say how many updates its optimizer has made");
  optimizer.updates = *count;
}

}  // namespace dpfa::train
