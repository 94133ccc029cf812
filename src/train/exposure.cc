#include "src/train/exposure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <limits>
#include <set>
#include <span>

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "kernels/cross_entropy.h"
#include "src/base/check.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "src/base/random/chacha20.h"
#include "src/base/stream_key.h"
#include "src/data/microbatch.h"
#include "src/model/gpt2_decoder.h"
#include "src/train/frozen_model.h"

namespace dpfa::train {
namespace {

constexpr uint64_t kPublicSeed = 0;  // of the other candidates

bool is_secret(const CanarySet& set, const std::string& text) {
  return static_cast<int64_t>(text.size()) == set.length &&
         text.find_first_not_of(set.alphabet) == std::string::npos;
}

// The true secret first, then different others, uniform.
std::vector<std::string> draw_candidates(const CanarySet& set, size_t canary, int64_t count) {
  const StreamKey key = RootKey::from_insecure_seed(kPublicSeed).stream(Purpose::kSynthesis, canary);
  std::vector<std::string> result = {set.canaries[canary].secret};
  std::set<std::string> seen(result.begin(), result.end());
  std::vector<uint32_t> words(2 * static_cast<size_t>(set.length));
  for (uint64_t attempt = 0; static_cast<int64_t>(result.size()) < count; ++attempt) {
    fill_words(key, attempt, 0, words);
    std::string secret;
    for (int64_t i = 0; i < set.length; ++i) {
      // The high part of word x size: uniform up to 2^-56 for an alphabet of at most 256.
      const auto word = static_cast<unsigned __int128>(words[2 * i]) << 32 | words[2 * i + 1];
      secret += set.alphabet[static_cast<size_t>(word * set.alphabet.size() >> 64)];
    }
    if (seen.insert(secret).second) result.push_back(secret);
  }
  return result;
}

// How many tokens at the start all candidates share.
size_t shared_tokens(const std::vector<std::vector<int32_t>>& texts) {
  size_t shared = texts.front().size();
  for (const auto& text : texts)
    shared = std::mismatch(texts.front().begin(), texts.front().begin() + std::min(shared, text.size()),
                           text.begin())
                 .first -
             texts.front().begin();
  return shared;
}

// Losses of the texts in order, from token `shared` (at least 1) on: what all share is given to the model
// once.
std::vector<double> losses_of(const plan::Gpt2Shape& shape, std::span<const float> weights,
                              const std::vector<std::vector<int32_t>>& texts, size_t shared) {
  size_t longest = 0;
  for (const auto& text : texts) longest = std::max(longest, text.size());
  model::Gpt2Decoder prefix(shape, weights, static_cast<int64_t>(longest) - 1);
  for (size_t t = 0; t + 1 < shared; ++t) prefix.next(texts.front()[t]);
  const size_t slots = std::min(texts.size(), static_cast<size_t>(slots_for(shape, 1)));
  model::Gpt2Decoder decoder = prefix.branch(static_cast<int64_t>(slots));
  const std::vector<double> row_weights(slots, 1.0);
  std::vector<double> row_losses(slots), result(texts.size(), 0.0);
  for (size_t begin = 0; begin < texts.size(); begin += slots) {
    const size_t count = std::min(texts.size() - begin, slots);
    decoder.keep(prefix.tokens());
    for (size_t t = shared - 1; t + 1 < longest; ++t) {
      std::vector<int64_t> ids(slots, 0), targets(slots, data::kIgnored);
      for (size_t b = 0; b < count; ++b) {
        const std::vector<int32_t>& text = texts[begin + b];
        if (t + 1 < text.size()) ids[b] = text[t], targets[b] = text[t + 1];
      }
      const std::span<const float> logits = decoder.next(ids);
      kernels::cross_entropy(
          at::from_blob(const_cast<float*>(logits.data()), {static_cast<int64_t>(slots), shape.vocab},
                        at::TensorOptions().dtype(at::kFloat)),
          targets, row_weights, row_losses);
      for (size_t b = 0; b < count; ++b) result[begin + b] += row_losses[b];
    }
  }
  return result;
}

// End of text, prefix and secret of each candidate; the true one first.
std::vector<std::vector<int32_t>> texts_of(const data::Tokenizer& tokenizer, const CanarySet& set,
                                           size_t canary, int64_t candidates, int64_t positions) {
  std::vector<std::vector<int32_t>> texts;
  for (const std::string& secret : draw_candidates(set, canary, candidates)) {
    texts.push_back(tokenizer.encode(set.canaries[canary].prefix + secret));
    texts.back().insert(texts.back().begin(), tokenizer.end_of_text());
    if (static_cast<int64_t>(texts.back().size()) > positions + 1)
      throw ConfigError("the canary of record " + std::to_string(set.canaries[canary].record) +
                        " has more tokens than the model has positions");
  }
  return texts;
}

CanaryExposure exposure_of(const plan::Gpt2Shape& shape, std::span<const float> weights,
                           const std::vector<std::vector<int32_t>>& texts) {
  const std::vector<double> losses = losses_of(shape, weights, texts, shared_tokens(texts));
  const double own = std::isfinite(losses[0]) ? losses[0] : std::numeric_limits<double>::infinity();
  const auto before =
      std::count_if(losses.begin() + 1, losses.end(), [&](double loss) { return !(loss > own); });
  const double rank = 1.0 + static_cast<double>(before);
  return {1 + before, std::log2(static_cast<double>(texts.size())) - std::log2(rank)};
}

}  // namespace

CanarySet read_canaries(const std::filesystem::path& path) {
  const MappedFile file(path);
  CanarySet set;
  try {
    const nlohmann::json json = nlohmann::json::parse(file.text());
    set.alphabet = json.at("alphabet").get<std::string>();
    set.length = json.at("length").get<int64_t>();
    for (const auto& canary : json.at("canaries"))
      set.canaries.push_back({canary.at("prefix").get<std::string>(), canary.at("secret").get<std::string>(),
                              canary.at("record").get<int64_t>()});
  } catch (const nlohmann::json::exception&) {
    throw IoError("'" + path.string() +
                  R"(' is no file of canaries: expected {"alphabet", "length", "canaries": )" +
                  R"([{"prefix", "secret", "record"}]})");
  }
  const std::set<char> letters(set.alphabet.begin(), set.alphabet.end());
  if (letters.empty() || letters.size() != set.alphabet.size() || set.length < 1 || set.canaries.empty())
    throw IoError("'" + path.string() + "' needs an alphabet of different bytes, a length >= 1 and a canary");
  for (const data::Canary& canary : set.canaries)
    if (!is_secret(set, canary.secret))
      throw IoError("'" + path.string() + "': the secret of record " + std::to_string(canary.record) +
                    " does not have the alphabet and length that the file states");
  return set;
}

std::vector<CanaryExposure> measure_exposure(const plan::Gpt2Shape& shape, std::span<const float> weights,
                                             const data::Tokenizer& tokenizer, const CanarySet& set,
                                             int64_t candidates) {
  const double possible = std::pow(static_cast<double>(set.alphabet.size()), static_cast<double>(set.length));
  if (candidates < 2 || static_cast<double>(candidates) > possible)
    throw ConfigError("--candidates = " + std::to_string(candidates) +
                      ": expected at least 2 and at most the number of possible secrets");
  // One canary per thread: the passes over a small model are too short to be split.
  std::vector<CanaryExposure> result(set.canaries.size());
  std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic)
  for (size_t c = 0; c < result.size(); ++c) {
    try {
      result[c] = exposure_of(shape, weights, texts_of(tokenizer, set, c, candidates, shape.positions));
    } catch (...) {
#pragma omp critical
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
  return result;
}

double median_bits(const std::vector<CanaryExposure>& exposures) {
  DPFA_CHECK(!exposures.empty());
  std::vector<double> bits;
  for (const CanaryExposure& exposure : exposures) bits.push_back(exposure.bits);
  std::sort(bits.begin(), bits.end());
  return (bits[(bits.size() - 1) / 2] + bits[bits.size() / 2]) / 2;
}

}  // namespace dpfa::train
