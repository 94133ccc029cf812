#include "src/data/prepare.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>

#include "src/base/error.h"
#include "src/base/stream_key.h"
#include "src/data/dataset.h"
#include "src/data/tokenizer.h"

namespace dpfa::data {

namespace {

void check(const PrepareOptions& options) {
  if (options.tokenizer != "bytes" && options.tokenizer != "gpt2") {
    throw ConfigError("--tokenizer is '" + options.tokenizer + "', expected bytes or gpt2");
  }
  if ((options.tokenizer == "gpt2") == options.vocabulary.empty()) {
    throw ConfigError("--vocab DIR goes together with --tokenizer gpt2");
  }
  if (options.context < 1) throw ConfigError("--context must be at least 1");
  if (!(options.holdout >= 0 && options.holdout < 1)) throw ConfigError("--holdout must be in [0, 1)");
  if ((options.holdout > 0) == options.holdout_out.empty()) {
    throw ConfigError("--holdout FRACTION and --holdout_out DIR go together");
  }
}

class HoldoutSplit {
 public:
  HoldoutSplit(double fraction, int64_t seed)
      : threshold_(static_cast<uint64_t>(std::ldexp(fraction, 64))),
        key_(RootKey::from_insecure_seed(static_cast<uint64_t>(seed)).stream(Purpose::kSynthesis)) {}

  bool holds_out(std::string_view record) const {
    std::array<uint8_t, 32> hash;
    crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const uint8_t*>(record.data()),
                       record.size(), reinterpret_cast<const uint8_t*>(key_.words().data()),
                       sizeof(key_.words()));
    uint64_t head;
    std::memcpy(&head, hash.data(), sizeof(head));
    return head < threshold_;
  }

 private:
  uint64_t threshold_;
  StreamKey key_;
};

}  // namespace

PrepareCounts prepare_dataset(const PrepareOptions& options) {
  check(options);
  if (sodium_init() < 0) throw InternalError("libsodium does not start");
  const std::unique_ptr<Tokenizer> tokenizer =
      options.tokenizer == "gpt2" ? load_gpt2_tokenizer(options.vocabulary) : make_byte_tokenizer();
  DatasetWriter writer(options.out, *tokenizer);
  std::optional<DatasetWriter> holdout_writer;
  if (options.holdout > 0) holdout_writer.emplace(options.holdout_out, *tokenizer);
  const HoldoutSplit split(options.holdout, options.seed);

  PrepareCounts counts;
  counts.vocab_size = tokenizer->vocab_size();
  const auto keep = [&](std::string_view record) {
    const bool held_out = split.holds_out(record);
    const int64_t tokens = (held_out ? *holdout_writer : writer).add(record);
    (held_out ? counts.holdout_records : counts.records) += 1;
    counts.tokens += tokens;
    counts.longest = std::max(counts.longest, tokens);
    counts.truncated += tokens > options.context ? 1 : 0;
  };
  for (const std::filesystem::path& input : options.inputs) {
    counts.dropped += read_records(input, options.read, keep).dropped;
  }
  if (counts.records == 0) throw IoError("no record with text is left for '" + options.out.string() + "'");
  if (holdout_writer && counts.holdout_records == 0) {
    throw IoError("no record falls into the hold-out: give a larger --holdout or another --seed");
  }
  writer.finish();
  if (holdout_writer) holdout_writer->finish();
  return counts;
}

}  // namespace dpfa::data
