#include "src/train/generation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "src/base/error.h"
#include "src/base/random/chacha20.h"

namespace dpfa::train {
namespace {

// Number `index` of the stream, evenly spaced in [0, 1) with 53 bits.
double uniform(const StreamKey& key, uint64_t step, uint64_t index) {
  std::array<uint32_t, 2> words;
  fill_words(key, step, 2 * index, words);
  return static_cast<double>((static_cast<uint64_t>(words[1]) << 32 | words[0]) >> 11) * 0x1p-53;
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (options.max_tokens < 1) throw ConfigError("--max_tokens: expected a whole number >= 1");
  if (!(options.temperature >= 0 && options.temperature <= 1e6))
    throw ConfigError("--temperature: expected a number in [0, 1e6]");
  if (options.top_k < 0) throw ConfigError("--top_k: expected a whole number >= 0 (0: all tokens)");
}

int64_t pick_token(std::span<const float> logits, const SamplingOptions& options, double u) {
  const auto number = [](float x) { return !std::isnan(x); };
  const float largest = logits.empty() ? -INFINITY : *std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(largest) || !std::all_of(logits.begin(), logits.end(), number))
    throw StateError(
        "the model's logits are not finite numbers: its weights are damaged, no text can be sampled");
  const int64_t size = static_cast<int64_t>(logits.size());
  const int64_t best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  if (options.temperature == 0) return best;
  std::vector<int64_t> ids(size);
  std::iota(ids.begin(), ids.end(), 0);
  if (options.top_k > 0 && options.top_k < size) {
    const auto before = [&](int64_t a, int64_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    };
    std::partial_sort(ids.begin(), ids.begin() + options.top_k, ids.end(), before);
    ids.resize(options.top_k);
  }
  std::vector<double> sums;
  double sum = 0;
  for (const int64_t id : ids) {
    sum += std::exp((static_cast<double>(logits[id]) - largest) / options.temperature);
    sums.push_back(sum);
  }
  // u < 1, but u * sum may round up to the sum: then the last token with a share is meant.
  const auto place = std::upper_bound(sums.begin(), sums.end(), u * sum);
  return place != sums.end() ? ids[place - sums.begin()] : best;
}

std::string generate_text(model::Gpt2Decoder& decoder, const plan::Gpt2Shape& shape,
                          const data::Tokenizer& tokenizer, std::string_view prompt,
                          const SamplingOptions& options, const StreamKey& key, uint64_t sample) {
  check_sampling(options);
  std::vector<int32_t> tokens = {tokenizer.end_of_text()};
  const std::vector<int32_t> prompt_tokens = tokenizer.encode(prompt);
  tokens.insert(tokens.end(), prompt_tokens.begin(), prompt_tokens.end());
  const int64_t given = static_cast<int64_t>(tokens.size());
  if (given > shape.positions) {
    throw ConfigError("the prompt has " + std::to_string(given - 1) + " tokens; this model has room for " +
                      std::to_string(shape.positions - 1));
  }
  decoder.keep(0);
  std::span<const float> logits;
  for (const int32_t token : tokens) logits = decoder.next(token);
  for (int64_t i = 0; i < options.max_tokens; ++i) {
    const int64_t token = pick_token(logits.first(tokenizer.vocab_size()), options,
                                     uniform(key, sample, static_cast<uint64_t>(i)));
    if (token == tokenizer.end_of_text()) break;
    tokens.push_back(static_cast<int32_t>(token));
    if (decoder.tokens() == shape.positions) break;
    logits = decoder.next(token);
  }
  return tokenizer.decode(tokens);
}

}  // namespace dpfa::train
