// From text files to a dataset folder: what `dpfa data prepare` does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "src/data/readers.h"

namespace dpfa::data {

struct PrepareOptions {
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path out;
  ReadOptions read;
  std::string tokenizer = "bytes";   // bytes | gpt2
  std::filesystem::path vocabulary;  // folder of a GPT-2 vocabulary
  int64_t context = 1024;            // only for PrepareCounts::truncated
  double holdout = 0;                // share of the records that goes to holdout_out instead
  std::filesystem::path holdout_out;
  int64_t seed = 1;  // of the hold-out split
};

// They describe private data: for the owner's eyes only.
struct PrepareCounts {
  int64_t records = 0;  // in `out`
  int64_t holdout_records = 0;
  int64_t dropped = 0;    // without text
  int64_t tokens = 0;     // of all records kept, end-of-text marks included
  int64_t longest = 0;    // tokens of the longest record
  int64_t truncated = 0;  // records longer than `context`
  int64_t vocab_size = 0;
};

// A record goes to the hold-out where its keyed hash (BLAKE2b-256 under the seed) falls below holdout x 2^64:
// this depends on the record alone, so that adding or removing one record moves no other, and equal records
// stay together. Held-out records are as private as the others. Throws ConfigError (options that do not fit
// each other) and IoError (input unreadable or malformed, nothing to write, an output folder that exists);
// then no folder is left behind.
PrepareCounts prepare_dataset(const PrepareOptions& options);

}  // namespace dpfa::data
