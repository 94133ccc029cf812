// A training run of a fraction of a second: made-up records, a model of one layer, one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/data/dataset.h"
#include "src/plan/config.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::testing {

// `count` different lines of lower-case letters; those of another `series` share none.
inline std::vector<std::string> made_records(int64_t count, int64_t series = 0) {
  std::vector<std::string> records;
  for (int64_t i = 0; i < count; ++i) {
    uint64_t state = static_cast<uint64_t>(series * 1'000'003 + i) * 0x9E3779B97F4A7C15u + 1;
    std::string text;
    for (int64_t k = 0; k < 6 + i % 5; ++k) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      text += static_cast<char>('a' + (state >> 33) % 25);  // never a "z": tests give it a meaning
    }
    records.push_back(text);
  }
  return records;
}

inline void write_dataset(const std::filesystem::path& dir, const std::vector<std::string>& records) {
  const auto tokenizer = data::make_byte_tokenizer();
  data::DatasetWriter writer(dir, *tokenizer);
  for (const std::string& record : records) writer.add(record);
  writer.finish();
}

// 8 steps on the data set `train` with 16 of 64 records expected in each, microbatches of 4 slots; the run
// directory is `out`.
inline plan::Config tiny_config(const std::filesystem::path& train, const std::filesystem::path& out) {
  plan::Config config;
  config.model.layers = 1;
  config.model.width = 16;
  config.model.heads = 2;
  config.model.context = 12;
  config.data.train = train;
  config.privacy.noise_multiplier = 1;
  config.privacy.target_delta = 1e-3;
  config.privacy.sample_rate = 0.25;
  config.privacy.expected_batch_size = 16;
  config.privacy.steps = 8;
  config.optimizer.learning_rate = 0.01;
  config.runtime.microbatch_size = 4;
  config.runtime.threads = 1;
  config.output.dir = out;
  return config;
}

// The JSON objects of a file with one per line.
inline std::vector<nlohmann::json> read_json_lines(const std::filesystem::path& path) {
  std::vector<nlohmann::json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

// The charge lines of a run's ledger.
inline std::vector<nlohmann::json> charges_of(const std::filesystem::path& run) {
  std::vector<nlohmann::json> charges;
  for (const auto& line : read_json_lines(run / "ledger.jsonl"))
    if (line.at("kind") == "charge") charges.push_back(line);
  return charges;
}

// The ids of a run, its starts and its data sets in its ledger: public, of randomness that serves for nothing
// else.
inline std::set<std::string> public_ids_of(const std::filesystem::path& run) {
  std::set<std::string> ids;
  for (const auto& line : read_json_lines(run / "ledger.jsonl"))
    for (const char* name : {"run_id", "dataset_id", "id"})
      if (line.contains(name)) ids.insert(line.at(name).get<std::string>());
  return ids;
}

}  // namespace dpfa::testing
