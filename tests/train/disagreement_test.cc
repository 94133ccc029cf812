// Ranks that do not stand at the same place stop together and release nothing. Runs under mpirun.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "src/train/collective.h"
#include "src/train/run_keys.h"
#include "src/train/trainer.h"
#include "tests/support/tiny_run.h"
#include "tests/support/wiretap.h"

namespace dpfa::train {
namespace {

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
  Outcome train(comm::Communicator& communicator) const {
    RunOptions options;
    options.config = config_;
    return run_training(options, communicator);
  }
  void expect_stop(comm::Communicator& communicator, int expected_code, const std::string& words) {
    int code = 0;
    std::string sentence;
    try {
      train(communicator);
    } catch (const AgreedError& error) {
      code = static_cast<int>(error.code());
      sentence = error.what();
    }
    EXPECT_EQ(code, expected_code) << sentence;
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;
    if (world().rank() == 0) {
      EXPECT_TRUE(testing::charges_of(config_.output.dir).empty());
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
    if (text.starts_with("[model]") && own.size() == text.size())
      std::memcpy(bytes.data(), own.data(), own.size());
  };
  expect_stop(altered, 5, "privacy plan on rank 1");
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

TEST_F(Disagreement, OfNoRankTrains) {
  AlteredWorld plain;
  EXPECT_EQ(train(plain), Outcome::kFinished);
  EXPECT_EQ(plain.sums, 8);
}

}  // namespace
}  // namespace dpfa::train
