// Exposure is the full number of bits where a model prefers the secret, about one bit where it knows nothing.
#include "src/train/exposure.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "src/base/error.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/text_model.h"

namespace dpfa::train {
namespace {

using testing::TemporaryFolder;
using testing::write_text;

CanarySet digits(std::vector<data::Canary> canaries) { return {"0123456789", 6, std::move(canaries)}; }

std::vector<CanaryExposure> exposure_of(const plan::Gpt2Shape& shape, const std::vector<float>& weights,
                                        const CanarySet& set, int64_t candidates) {
  return measure_exposure(shape, weights, *data::make_byte_tokenizer(), set, candidates);
}

std::vector<int32_t> tokens_of(const std::string& text) {
  const auto tokenizer = data::make_byte_tokenizer();
  std::vector<int32_t> tokens = tokenizer->encode(text);
  tokens.insert(tokens.begin(), tokenizer->end_of_text());
  return tokens;
}

TEST(Exposure, ASecretThatTheModelKnowsHasAllBits) {
  const plan::Gpt2Shape shape = testing::text_model_shape(32, 257);
  const auto weights = testing::text_model_weights(shape, tokens_of("Ada code 271828"), 5);
  const CanarySet set = digits({{"Ada code ", "271828", 0}, {"Eve code ", "271828", 1}});
  for (const int64_t candidates : {2, 100, 1024}) {
    for (const CanaryExposure& exposure : exposure_of(shape, weights, set, candidates)) {
      EXPECT_EQ(exposure.rank, 1);
      EXPECT_DOUBLE_EQ(exposure.bits, std::log2(candidates));
    }
  }
}

TEST(Exposure, ASecretThatTheModelAvoidsHasNone) {
  const plan::Gpt2Shape shape = testing::text_model_shape(32, 257);
  const auto weights = testing::text_model_weights(shape, tokens_of("Ada code 271828"), -5);
  const auto exposure = exposure_of(shape, weights, digits({{"Ada code ", "271828", 0}}), 500);
  EXPECT_EQ(exposure[0].rank, 500);
  EXPECT_DOUBLE_EQ(exposure[0].bits, 0);
}

TEST(Exposure, PartOfASecretGivesTheBitsOfThatPart) {
  // All candidates with the three known digits in place share the rank: about 1024 / 1000 of them besides the
  // secret.
  const plan::Gpt2Shape shape = testing::text_model_shape(32, 257);
  const auto weights = testing::text_model_weights(shape, tokens_of("Ada code 271"), 5);
  const auto exposure = exposure_of(shape, weights, digits({{"Ada code ", "271828", 0}}), 1024);
  // False alarm over public keys: more than 15 of 1023 draws with probability 10^-3 each, below 1e-13.
  EXPECT_LE(exposure[0].rank, 16);
}

TEST(Exposure, AModelWithoutPreferenceHasZeroBits) {
  const plan::Gpt2Shape shape = {1, 8, 2, 32, 257, true};
  const std::vector<float> zero(shape.parameter_count(), 0.0f);
  for (const CanaryExposure& e :
       exposure_of(shape, zero, digits({{"a", "000000", 0}, {"b", "123456", 1}}), 64)) {
    EXPECT_EQ(e.rank, 64);
    EXPECT_DOUBLE_EQ(e.bits, 0);
  }
}

TEST(Exposure, LossesThatAreNotNumbersAreNoMemorisation) {
  const plan::Gpt2Shape shape = {1, 8, 2, 32, 257, true};
  const std::vector<float> damaged(shape.parameter_count(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_DOUBLE_EQ(exposure_of(shape, damaged, digits({{"a", "000000", 0}}), 64)[0].bits, 0);
}

TEST(Exposure, AnUntrainedModelHasAMedianNearOneBit) {
  const plan::Gpt2Shape shape = {2, 16, 2, 64, 257, true};
  std::vector<float> weights(shape.parameter_count());
  model::initialise_gpt2(shape, RootKey::from_insecure_seed(5).stream(Purpose::kInit), weights);
  for (float& w : weights) w *= 10;
  const auto synthetic = data::synthesize_records(200, 24, 7);
  const CanarySet set = digits(synthetic.canaries);
  const auto exposures = exposure_of(shape, weights, set, 256);
  ASSERT_EQ(exposures.size(), 24u);
  // Secrets are uniform, so bits > b with probability about 2^-b each. The median leaves [0.2, 3] only if 12
  // of 24 lie on one side: P[Bin(24, 0.125) >= 12] + P[Bin(24, 0.13) >= 12] < 6e-5.
  EXPECT_GE(median_bits(exposures), 0.2);
  EXPECT_LE(median_bits(exposures), 3.0);

  const auto again = exposure_of(shape, weights, set, 256);
  for (size_t i = 0; i < again.size(); ++i) EXPECT_EQ(again[i].rank, exposures[i].rank);
}

TEST(Exposure, MedianOfAnEvenNumberIsTheMeanOfTheMiddleTwo) {
  EXPECT_DOUBLE_EQ(median_bits({{1, 3}}), 3);
  EXPECT_DOUBLE_EQ(median_bits({{1, 8}, {1, 1}}), 4.5);
  EXPECT_DOUBLE_EQ(median_bits({{1, 8}, {1, 1}, {1, 2}}), 2);
}

TEST(Exposure, NumbersOfCandidatesThatCannotBeAreRefused) {
  const plan::Gpt2Shape shape = {1, 8, 2, 32, 257, true};
  const std::vector<float> zero(shape.parameter_count(), 0.0f);
  const CanarySet coins = {"01", 3, {{"x", "010", 0}}};
  for (const int64_t candidates : {-1, 0, 1, 9})
    EXPECT_THROW(exposure_of(shape, zero, coins, candidates), ConfigError);
  EXPECT_EQ(exposure_of(shape, zero, coins, 8)[0].rank, 8);
  EXPECT_THROW(exposure_of(shape, zero, digits({{std::string(40, 'x'), "123456", 0}}), 16), ConfigError);
}

TEST(Canaries, TheFileOfDataSynthIsRead) {
  const TemporaryFolder dir;
  const auto synthetic = data::synthesize_records(50, 5, 1);
  data::write_synthetic_records(synthetic, dir / "data");
  const CanarySet set = read_canaries(dir / "data/canaries.json");
  EXPECT_EQ(set.alphabet, "0123456789");
  EXPECT_EQ(set.length, 6);
  ASSERT_EQ(set.canaries.size(), 5u);
  EXPECT_EQ(set.canaries[2].prefix, synthetic.canaries[2].prefix);
  EXPECT_EQ(set.canaries[2].secret, synthetic.canaries[2].secret);
  EXPECT_EQ(set.canaries[2].record, synthetic.canaries[2].record);
}

TEST(Canaries, MalformedFilesAreInputErrors) {
  const TemporaryFolder dir;
  EXPECT_THROW(read_canaries(dir / "absent.json"), IoError);
  for (const char* text :
       {"", "[]", R"({"alphabet": "01", "length": 2, "canaries": []})",
        R"({"alphabet": "", "length": 2, "canaries": [{"prefix": "", "secret": "01", "record": 0}]})",
        R"({"alphabet": "011", "length": 2, "canaries": [{"prefix": "", "secret": "01", "record": 0}]})",
        R"({"alphabet": "01", "length": 2, "canaries": [{"prefix": "", "secret": "012", "record": 0}]})",
        R"({"alphabet": "01", "length": 2, "canaries": [{"prefix": "", "secret": "02", "record": 0}]})",
        R"({"alphabet": "01", "length": 2, "canaries": [{"secret": "01", "record": 0}]})"}) {
    write_text(dir / "canaries.json", text);
    EXPECT_THROW(read_canaries(dir / "canaries.json"), IoError) << text;
  }
}

}  // namespace
}  // namespace dpfa::train
