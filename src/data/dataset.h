// Record-indexed token shards, as `dpfa data prepare` writes them. A record is the unit of privacy: one line,
// row, paragraph or document, stored as end-of-text, its tokens, end-of-text, and never joined with another.
//
// Folder: `dataset.json` (format, random dataset id, tokenizer kind, vocabulary size, shard names with their
// record and token counts), the tokenizer's files, and per shard `NAME.tokens` (uint16 or uint32, little
// endian) and `NAME.offsets` (uint64, records + 1 of them). The id is random: a hash of the content would let
// anyone who guesses the data confirm it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "src/data/tokenizer.h"

namespace dpfa::data {

class Dataset {
 public:
  // Maps the shards. Throws IoError (missing, malformed, truncated shard: which file and what is wrong).
  // Token values are checked when they are read: record() throws IoError on one outside the vocabulary.
  static Dataset open(const std::filesystem::path& dir);
  Dataset(Dataset&&) noexcept;
  Dataset& operator=(Dataset&&) noexcept;
  ~Dataset();

  const std::string& id() const;  // 32 hex digits, random
  int64_t vocab_size() const;
  const std::filesystem::path& dir() const;
  // Number of records: PRIVATE under add_or_remove_one. Never enters a log, a divisor or the sampling rate.
  int64_t size() const;
  // Tokens of record `index`, at most `max_tokens` of them (0: all), appended to `out`, which is cleared
  // first.
  void record(int64_t index, int64_t max_tokens, std::vector<int32_t>& out) const;

 private:
  struct State;
  explicit Dataset(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

inline constexpr int64_t kShardTokens = int64_t{1} << 28;  // a shard is closed when it holds this many

// Writes a dataset folder; nothing is visible under `dir` until finish() renames it into place. Folders above
// `dir` are created. Without finish() everything written is removed again. Every failure is IoError.
class DatasetWriter {
 public:
  // Throws IoError where `dir` exists. `tokenizer` must outlive the writer.
  DatasetWriter(const std::filesystem::path& dir, const Tokenizer& tokenizer,
                int64_t shard_tokens = kShardTokens);
  ~DatasetWriter();
  // Adds end-of-text, the tokens of `text`, end-of-text. Returns the record's length in tokens.
  int64_t add(std::string_view text);
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::data
