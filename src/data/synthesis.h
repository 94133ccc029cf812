// Synthetic personal records with canaries, for the quick start and for audits: fictional people, public
// text.
//
// A record is one short line (at most 62 bytes: 64 byte tokens with both end-of-text marks) that says of a
// person, from small word lists, where they live and something medical or financial. A canary is a line
// "Patient FIRST LAST code DDDDDD" with six random digits; each has a name of its own that no other record
// bears, and stands in exactly one training record.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dpfa::data {

inline constexpr int64_t kMaxCanaries = 512;

struct Canary {
  std::string prefix;  // the record up to the secret
  std::string secret;
  int64_t record;  // its index in `train`
};

struct SyntheticRecords {
  std::vector<std::string> train;  // canaries included
  std::vector<std::string> eval;   // from another random stream, no canaries
  std::vector<Canary> canaries;    // in the order of their records
};

// `records` training records of which `canaries` are canaries, and one eval record for each eight of them
// (rounded up). Equal arguments give equal records. Throws ConfigError where records < 1, canaries < 0, or
// canaries exceeds records or kMaxCanaries.
SyntheticRecords synthesize_records(int64_t records, int64_t canaries, int64_t seed);

// Writes DIR/train and DIR/eval (dataset folders, byte tokenizer), DIR/records.txt (the training records, one
// per line) and DIR/canaries.json ({"format", "alphabet", "length", "canaries": [{"prefix", "secret",
// "record"}]}). Throws IoError where `dir` exists or cannot be written; then nothing is left behind.
void write_synthetic_records(const SyntheticRecords& records, const std::filesystem::path& dir);

}  // namespace dpfa::data
