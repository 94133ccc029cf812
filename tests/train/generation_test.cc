// Sampling follows the logits, its options and its key, and nothing else.
#include "src/train/generation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "src/base/error.h"
#include "src/model/gpt2.h"
#include "tests/support/text_model.h"

namespace dpfa::train {
namespace {

StreamKey key_of(uint64_t seed) { return RootKey::from_insecure_seed(seed).stream(Purpose::kSynthesis); }

std::string write(const plan::Gpt2Shape& shape, const std::vector<float>& weights, const std::string& prompt,
                  const SamplingOptions& options, uint64_t seed = 1, uint64_t sample = 0) {
  model::Gpt2Decoder decoder(shape, weights, shape.positions);
  return generate_text(decoder, shape, *data::make_byte_tokenizer(), prompt, options, key_of(seed), sample);
}

const plan::Gpt2Shape kShape = {1, 16, 2, 40, 257, true};
std::vector<float> untrained() {
  std::vector<float> weights(kShape.parameter_count());
  model::initialise_gpt2(kShape, RootKey::from_insecure_seed(9).stream(Purpose::kInit), weights);
  return weights;
}

TEST(PickToken, ChoosesByTheCumulatedProbabilities) {
  const std::vector<float> logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  EXPECT_EQ(pick_token(logits, {}, 0.0), 0);
  EXPECT_EQ(pick_token(logits, {}, 0.124), 0);
  EXPECT_EQ(pick_token(logits, {}, 0.126), 1);
  EXPECT_EQ(pick_token(logits, {}, 0.374), 1);
  EXPECT_EQ(pick_token(logits, {}, 0.376), 2);
  EXPECT_EQ(pick_token(logits, {}, 1 - 0x1p-53), 2);
}

TEST(PickToken, TemperatureSharpensAndFlattens) {
  const std::vector<float> logits = {0.0f, std::log(3.0f)};  // at temperature 1/2: 1 against 9
  SamplingOptions options;
  options.temperature = 0.5;
  EXPECT_EQ(pick_token(logits, options, 0.099), 0);
  EXPECT_EQ(pick_token(logits, options, 0.101), 1);
  options.temperature = 1e6;
  EXPECT_EQ(pick_token(logits, options, 0.499), 0);
  options.temperature = 0;
  EXPECT_EQ(pick_token(logits, options, 0.0), 1);
  options.temperature = 1e-300;  // the quotient overflows to minus infinity: still the best token
  EXPECT_EQ(pick_token(logits, options, 0.0), 1);
}

TEST(PickToken, TopKKeepsTheMostProbableAndTheSmallerIdOfEquals) {
  const std::vector<float> logits = {1, 3, 2, 3, 3};
  SamplingOptions options;
  options.top_k = 2;
  std::set<int64_t> seen;
  for (int i = 0; i < 100; ++i) seen.insert(pick_token(logits, options, i / 100.0));
  EXPECT_EQ(seen, (std::set<int64_t>{1, 3}));
  options.top_k = 99;
  EXPECT_EQ(pick_token(logits, options, 0.0), 0);
  options.top_k = 1;
  EXPECT_EQ(pick_token(logits, options, 0.999), 1);
}

TEST(PickToken, LogitsThatAreNotNumbersAreAStateError) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  EXPECT_THROW(pick_token(std::vector<float>{0, nan}, {}, 0.5), StateError);
  EXPECT_THROW(pick_token(std::vector<float>{nan, 0}, {}, 0.5), StateError);
  EXPECT_THROW(pick_token(std::vector<float>{0, infinity}, {}, 0.5), StateError);
  EXPECT_THROW(pick_token(std::vector<float>{-infinity}, {}, 0.5), StateError);
  EXPECT_EQ(pick_token(std::vector<float>{-infinity, 0}, {}, 0.0), 1);
}

TEST(Generation, EqualSeedsGiveEqualTextsAndOthersGiveOthers) {
  const std::vector<float> weights = untrained();
  const std::string text = write(kShape, weights, "abc", {});
  EXPECT_TRUE(text.starts_with("abc"));
  EXPECT_EQ(write(kShape, weights, "abc", {}), text);
  EXPECT_NE(write(kShape, weights, "abc", {}, 2), text);
  EXPECT_NE(write(kShape, weights, "abc", {}, 1, 1), text);
}

TEST(Generation, AModelThatKnowsATextWritesIt) {
  const auto tokenizer = data::make_byte_tokenizer();
  std::vector<int32_t> tokens = tokenizer->encode("to be or not");
  tokens.insert(tokens.begin(), tokenizer->end_of_text());
  tokens.push_back(tokenizer->end_of_text());
  const plan::Gpt2Shape shape = testing::text_model_shape(32, 257);
  const auto weights = testing::text_model_weights(shape, tokens, 50);
  for (const double temperature : {0.0, 1.0}) {
    SamplingOptions options;
    options.temperature = temperature;
    EXPECT_EQ(write(shape, weights, "", options), "to be or not");
    EXPECT_EQ(write(shape, weights, "to be", options), "to be or not");
    options.max_tokens = 4;
    EXPECT_EQ(write(shape, weights, "to", options), "to be ");
  }
}

TEST(Generation, EndsAtTheLastPositionOfTheModel) {
  SamplingOptions options;
  options.max_tokens = 1000;
  options.top_k = 0;
  const std::string text = write(kShape, untrained(), std::string(30, 'x'), options, 4);
  // 39 tokens after end-of-text fill the positions, and one more follows the last of them.
  EXPECT_LE(text.size(), 40u);
  EXPECT_EQ(write(kShape, untrained(), std::string(39, 'x'), options, 4).size(), 40u);
  EXPECT_THROW(write(kShape, untrained(), std::string(40, 'x'), options), ConfigError);
}

TEST(Generation, TokensThatTheTokenizerLacksAreNeverSampled) {
  plan::Gpt2Shape shape = testing::text_model_shape(32, 300);
  const std::vector<int32_t> tokens(20, 299);
  SamplingOptions options;
  options.max_tokens = 10;
  EXPECT_NO_THROW(write(shape, testing::text_model_weights(shape, tokens, 50), "", options));
}

TEST(Generation, OptionsOutOfRangeAreConfigErrors) {
  const std::vector<float> weights = untrained();
  EXPECT_THROW(write(kShape, weights, "", {0, 1, 0}), ConfigError);
  EXPECT_THROW(write(kShape, weights, "", {5, -1, 0}), ConfigError);
  EXPECT_THROW(write(kShape, weights, "", {5, std::nan(""), 0}), ConfigError);
  EXPECT_THROW(write(kShape, weights, "", {5, 1, -1}), ConfigError);
}

}  // namespace
}  // namespace dpfa::train
