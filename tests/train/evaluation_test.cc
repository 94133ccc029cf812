// Held-out loss: every token once, whatever the batches and the number of ranks. Runs alone and under mpirun.
#include "src/train/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/data/microbatch.h"
#include "src/data/tokenizer.h"
#include "tests/support/mpi_world.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::train {
namespace {

using testing::TemporaryFolder;
using testing::world;

const plan::Gpt2Shape kShape = {2, 16, 2, 24, 257, true};
const std::vector<std::string> kRecords = {
    "a",          "some words", "one that is longer than the context of the model", "", "b", "two",
    "more words", "the end"};

struct Case {
  TemporaryFolder dir;
  std::vector<float> weights = std::vector<float>(kShape.parameter_count());
  model::Gpt2 gpt2{kShape, at::kFloat};

  explicit Case(const std::vector<std::string>& records = kRecords) {
    const auto tokenizer = data::make_byte_tokenizer();
    data::DatasetWriter writer(dir / "data", *tokenizer);
    for (const std::string& record : records) writer.add(record);
    writer.finish();
    model::initialise_gpt2(kShape, RootKey::from_insecure_seed(2).stream(Purpose::kInit), weights);
    for (float& w : weights) w *= 5;
    gpt2.bind(weights);
  }
  data::Dataset data() const { return data::Dataset::open(dir / "data"); }
};

TEST(HeldOutLoss, IsTheMeanOverAllTokensOfAllRecords) {
  Case setup;
  const data::Dataset dataset = setup.data();
  for (const int64_t context : {24, 7, 2}) {
    double sum = 0;
    int64_t tokens = 0;
    std::vector<int32_t> record;
    for (int64_t i = 0; i < dataset.size(); ++i) {
      dataset.record(i, context, record);
      const std::vector<int64_t> ids(record.begin(), record.end() - 1),
          targets(record.begin() + 1, record.end());
      const std::vector<int64_t> number = {i};
      const std::vector<double> weight = {1};
      double loss = 0;
      setup.gpt2.forward({1, static_cast<int64_t>(ids.size()), ids, targets, weight, number}, nullptr, false,
                         std::span<double>(&loss, 1));
      sum += loss;
      tokens += static_cast<int64_t>(targets.size());
    }
    for (const int64_t slots : {1, 3, 100}) {
      const HeldOutLoss found = evaluate(setup.gpt2, dataset, context, slots, world());
      EXPECT_EQ(found.records, 8);
      EXPECT_EQ(found.tokens, tokens);
      EXPECT_NEAR(found.loss_per_token, sum / static_cast<double>(tokens), 1e-5) << context << ", " << slots;
    }
  }
}

TEST(HeldOutLoss, AllRanksHaveTheSameBits) {
  Case setup;
  const HeldOutLoss mine = evaluate(setup.gpt2, setup.data(), 24, 2, world());
  const auto all = world().all_gather(std::as_bytes(std::span(&mine.loss_per_token, 1)));
  for (int r = 0; r < world().size(); ++r)
    EXPECT_EQ(std::memcmp(all.data() + r * sizeof(double), &mine.loss_per_token, sizeof(double)), 0)
        << "rank " << r;
}

TEST(HeldOutLoss, OfOneRecordWorksOnAnyNumberOfRanks) {
  Case setup({"only one"});
  const HeldOutLoss found = evaluate(setup.gpt2, setup.data(), 24, 4, world());
  EXPECT_EQ(found.records, 1);
  EXPECT_EQ(found.tokens, 9);
  EXPECT_GT(found.loss_per_token, 0);
}

TEST(HeldOutLoss, DataOfALargerVocabularyIsAStateError) {
  const Case setup;
  plan::Gpt2Shape shape = kShape;
  shape.vocab = 256;
  model::Gpt2 smaller(shape, at::kFloat);
  EXPECT_THROW(evaluate(smaller, setup.data(), 24, 1, world()), StateError);
}

}  // namespace
}  // namespace dpfa::train
