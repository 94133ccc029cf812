// Exposure of canaries: how much a model has memorised of secrets that stand in one training record each
// (Carlini et al. 2019, "The Secret Sharer", definition 5).
//
// exposure = log2(candidates) - log2(rank) bits, where `rank` is the place of the true secret, by loss, among
// `candidates` secrets of the same format: itself and candidates - 1 different others, drawn uniformly under
// a fixed public key, so that figures are reproducible. A model that knows nothing gives a uniform rank: a
// median near 1 bit.
//
// Loss: the summed cross-entropy of the tokens of end-of-text, prefix, secret, from the first token in which
// the candidates differ; the end-of-text mark after the secret is not counted. Ties and losses that are not
// finite count against memorisation: rank = 1 + number of others whose loss is not larger, and a model
// without preferences has 0 bits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "src/data/synthesis.h"
#include "src/data/tokenizer.h"
#include "src/plan/model_shape.h"

namespace dpfa::train {

struct CanarySet {
  std::string alphabet;  // bytes a secret is made of, each once
  int64_t length = 0;    // of a secret, in bytes
  std::vector<data::Canary> canaries;
};
// canaries.json of data::write_synthetic_records(). Throws IoError where it is malformed, has no canary, or a
// secret does not have its alphabet and length.
CanarySet read_canaries(const std::filesystem::path& file);

struct CanaryExposure {
  int64_t rank;  // 1 to candidates
  double bits;
};
// One per canary, in order. Throws ConfigError where candidates is below 2 or above the number of possible
// secrets, or a record has more tokens than the model has positions.
std::vector<CanaryExposure> measure_exposure(const plan::Gpt2Shape& shape, std::span<const float> weights,
                                             const data::Tokenizer& tokenizer, const CanarySet& set,
                                             int64_t candidates);

double median_bits(const std::vector<CanaryExposure>& exposures);

}  // namespace dpfa::train
