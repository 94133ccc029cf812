// Ranks that do not stand at the same place stop together and release nothing. Runs under mpirun.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "accounting/ledger_chain.h"
#include "src/plan/model_shape.h"
#include "src/train/collective.h"
#include "src/train/run_keys.h"
#include "src/train/trainer.h"
#include "tests/support/tiny_run.h"
#include "tests/support/wiretap.h"

namespace dpfa::train {
namespace {

using nlohmann::json;
using testing::world;

// The ranks of a test, with what rank 1 receives in broadcasts altered. Counts the sums of gradients.
class AlteredWorld : public testing::Wiretap {
 public:
  std::function<void(std::span<std::byte>)> alter = [](std::span<std::byte>) {};
  int sums = 0;

  using Wiretap::all_reduce_sum;
  void all_reduce_sum(std::span<uint32_t> values) override {
    ++sums;
    Wiretap::all_reduce_sum(values);
  }
  void broadcast(std::span<std::byte> bytes, int root) override {
    Wiretap::broadcast(bytes, root);
    if (rank() == 1) alter(bytes);
  }
};

// The lines of a ledger, changed, in an intact chain.
std::string retold(const std::string& text, const std::function<void(json&)>& change) {
  std::string result, prev = accounting::kNoDigest;
  int64_t seq = 0;
  const accounting::Chain chain = accounting::read_chain(text, [&](json line) {
    const std::string kind = line.at("kind");
    for (const char* name : {"seq", "prev", "kind", "digest"}) line.erase(name);
    change(line);
    std::string digest;
    result += accounting::chained_line(seq++, prev, kind, line, &digest) + "\n";
    prev = digest;
  });
  EXPECT_TRUE(chain.valid);
  return result;
}

class Disagreement : public ::testing::Test {
 protected:
  Disagreement() {
    const std::string shared = broadcast_text(world(), folder_.path().string());
    if (world().rank() == 0) testing::write_dataset(folder_ / "train", testing::made_records(64));
    world().barrier();
    config_ = testing::tiny_config(shared + "/train", shared + "/run");
  }
  ~Disagreement() override { world().barrier(); }  // the folder of rank 0 outlives the use of the others

  static plan::Config without_runtime(plan::Config config) {
    config.runtime = {};
    return config;
  }
  Outcome train(comm::Communicator& communicator, RunOptions options = {}) const {
    options.config = config_;
    return run_training(options, communicator);
  }
  void expect_stop(comm::Communicator& communicator, int expected_code, const std::string& words,
                   const RunOptions& options = {}) {
    int code = 0;
    std::string sentence;
    const size_t before = testing::charges_of(config_.output.dir).size();
    try {
      train(communicator, options);
    } catch (const AgreedError& error) {
      code = static_cast<int>(error.code());
      sentence = error.what();
    }
    EXPECT_EQ(code, expected_code) << sentence;
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;
    if (world().rank() == 0) {
      EXPECT_EQ(testing::charges_of(config_.output.dir).size(), before);
    }
  }

  testing::TemporaryFolder folder_;
  plan::Config config_;
};

TEST_F(Disagreement, InTheConfigurationOfOneRankStopsAllRanks) {
  if (world().rank() == 1) config_.optimizer.learning_rate = 0.5;
  AlteredWorld altered;
  expect_stop(altered, 2, "rank 1: this rank was given another configuration");
  EXPECT_EQ(altered.sums, 0);
}

// Rank 0 prints claims against the network for all ranks: the times of every one of them must tell nothing.
TEST_F(Disagreement, InTheConstantStepSlotsOfOneRankStopsAllRanks) {
  config_.runtime.constant_step_slots = world().rank() != 1;
  AlteredWorld altered;
  expect_stop(altered, 2, "rank 1: this rank was given another configuration");
  EXPECT_EQ(altered.sums, 0);
}

TEST_F(Disagreement, InThePlanOfOneRankStopsAllRanks) {
  // Rank 1 takes its own configuration for that of rank 0.
  if (world().rank() == 1) config_.privacy.noise_multiplier = 2;  // as many characters as 1
  AlteredWorld altered;
  altered.alter = [&](std::span<std::byte> bytes) {
    const std::string own = plan::to_ini(without_runtime(config_));
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.starts_with("[model]") && own.size() <= text.size())
      std::memcpy(bytes.data(), own.data(), own.size());
  };
  expect_stop(altered, 5, "rank 1: the privacy plan of this configuration is not that of the ledger");
  EXPECT_EQ(altered.sums, 0);
}

TEST_F(Disagreement, InTheWeightsOfOneRankStopsAllRanks) {
  AlteredWorld altered;
  // The root of noise and initialisation, 32 bytes, is shared once.
  altered.alter = [](std::span<std::byte> bytes) {
    if (bytes.size() == 32) bytes[0] ^= std::byte{1};
  };
  expect_stop(altered, 5, "rank 1: the initial weights are not those of rank 0");
  EXPECT_EQ(altered.sums, 0);
}

TEST_F(Disagreement, InTheWeightsOrMomentsOfACheckpointThatOneRankReceivesStopsAllRanks) {
  AlteredWorld plain;
  ASSERT_EQ(train(plain), Outcome::kFinished);
  const plan::Gpt2Shape shape{1, 16, 2, 12, 257, true};
  const size_t floats = sizeof(float) * static_cast<size_t>(shape.parameter_count());
  RunOptions resumed;
  resumed.resume = true;
  for (int altered_one = 0; altered_one < 3; ++altered_one) {  // weights, first and second moments
    AlteredWorld altered;
    int seen = 0;
    altered.alter = [&](std::span<std::byte> bytes) {
      if (bytes.size() == floats && seen++ == altered_one) bytes[77] ^= std::byte{1};
    };
    expect_stop(altered, 5, "rank 1: the checkpoint of step 8 is not the one that this run wrote", resumed);
    EXPECT_EQ(altered.sums, 0);
  }
}

TEST_F(Disagreement, InTheLedgerOfOneRankStopsAllRanks) {
  AlteredWorld altered;
  // The start line of its replica on rank 1 becomes one that was never completed.
  altered.alter = [](std::span<std::byte> bytes) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.find("\"kind\":\"start\"") == std::string_view::npos) return;
    const size_t cut = text.find('\n') + 1;
    std::memset(bytes.data() + cut, 0, bytes.size() - cut);
  };
  expect_stop(altered, 5, "rank 1");
  EXPECT_EQ(altered.sums, 0);
}

TEST_F(Disagreement, InTheOptionsOfOneRankStopsAllRanks) {
  RunOptions with_stamp;
  with_stamp.debug_nonprivate = world().rank() == 1;
  AlteredWorld altered;
  expect_stop(altered, 2, "rank 1: this rank was given another configuration", with_stamp);
  EXPECT_EQ(altered.sums, 0);
}

// A rank 0 that lies writes a ledger of intact lines, for other terms than the other ranks were given.
TEST_F(Disagreement, InTheLinesThatRankZeroWritesStopsAllRanks) {
  const std::pair<std::string, std::function<void(json&)>> lies[] = {
      {"belongs to dataset",
       [](json& line) {
         if (line.contains("dataset_id")) line["dataset_id"] = std::string(32, '0');
       }},
      {"the privacy plan of this configuration",
       [](json& line) {
         if (line.contains("plan_digest")) line["plan_digest"] = std::string(64, '0');
       }},
      {"the privacy plan of this configuration",
       [](json& line) {
         if (line.contains("plan")) line["plan"]["steps"] = 9;
       }},
      {"other NOT PRIVATE options",
       [](json& line) {
         if (line.contains("stamps"))
           line["stamps"] = {"x"}, line["run_id"] = line["run_id"].get<std::string>().substr(3);
       }},
      {"another world_size",
       [](json& line) {
         if (line.contains("world_size")) line["world_size"] = 3;
       }},
  };
  const std::string dir = config_.output.dir;
  int run = 0;
  for (const auto& [words, lie] : lies) {
    AlteredWorld altered;
    altered.alter = [&lie = lie](std::span<std::byte> bytes) {
      const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      if (!text.starts_with('{') || text.find("\"kind\":\"open\"") == std::string::npos) return;
      const std::string told = retold(text, lie);
      ASSERT_EQ(told.size(), text.size());
      std::memcpy(bytes.data(), told.data(), told.size());
    };
    config_.output.dir = dir + std::to_string(run++);
    expect_stop(altered, 5, words);
    EXPECT_EQ(altered.sums, 0);
  }
}

// What may differ between ranks decides about no collective: they finish together.
TEST_F(Disagreement, InWhetherLayersAreRecomputedIsAllowed) {
  config_.privacy.numerics = "auto";
  const std::string dir = config_.output.dir;
  for (const int recomputes : {0, 1}) {
    config_.output.dir = dir + std::to_string(recomputes);
    config_.runtime.recompute = world().rank() == recomputes ? "layer" : "none";
    AlteredWorld plain;
    EXPECT_EQ(train(plain), Outcome::kFinished);
    EXPECT_EQ(plain.sums, 8);
  }
}

TEST_F(Disagreement, OfNoRankTrains) {
  AlteredWorld plain;
  EXPECT_EQ(train(plain), Outcome::kFinished);
  EXPECT_EQ(plain.sums, 8);
}

}  // namespace
}  // namespace dpfa::train
