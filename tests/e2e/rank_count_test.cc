// Under --insecure-seed a run is the same to the last bit on any number of ranks and in any microbatch size,
// also where it is stopped and resumed on another number of ranks.
#include "tests/e2e/failures_fixture.h"

namespace dpfa::testing {
namespace {

class RankCount : public Failures {
 protected:
  Words seeded(const std::string& run, const Words& more = {}) const {
    return train({"--output.dir", folder_ / run, "--insecure_seed", "13", "--privacy.steps", "12",
                  "--model.dropout", "0.1", "--train.checkpoint_every", "5"}) +
           more;
  }
  std::string checkpoint(const std::string& run) const {
    return read_text(folder_ / run / "latest" / "model.safetensors") +
           read_text(folder_ / run / "latest" / "optimizer.safetensors");
  }
};

TEST_F(RankCount, OrMicrobatchSizeDoesNotChangeABitOfTheCheckpoint) {
  expect_success(seeded("alone"));
  const std::string alone = checkpoint("alone");
  for (const int ranks : {1, 2, 4, 8}) {
    const std::string run = "ranks_" + std::to_string(ranks);
    expect_success(
        on_ranks(ranks, seeded(run, {"--runtime.microbatch_size", std::to_string(1 + ranks % 3)})));
    EXPECT_TRUE(checkpoint(run) == alone) << ranks << " ranks";
  }
  expect_success(train({"--output.dir", folder_ / "other", "--insecure_seed", "14", "--privacy.steps", "12",
                        "--model.dropout", "0.1"}));
  EXPECT_FALSE(checkpoint("other") == alone);
}

TEST_F(RankCount, DoesNotChangeABitWithAutomaticClipping) {
  const Words automatic = {"--privacy.clipping", "automatic"};
  expect_success(seeded("flat"));
  expect_success(seeded("alone", automatic));
  expect_success(on_ranks(2, seeded("ranks", automatic)));
  EXPECT_TRUE(checkpoint("ranks") == checkpoint("alone"));
  EXPECT_FALSE(checkpoint("flat") == checkpoint("alone"));
  EXPECT_EQ(read_json_lines(folder_ / "ranks" / "ledger.jsonl").front().at("plan").at("clipping"),
            "automatic");
}

TEST_F(RankCount, MayChangeAtAResume) {
  const auto command = [&](const std::string& run) {
    return train({"--output.dir", folder_ / run, "--insecure_seed", "13", "--privacy.steps", "100"});
  };
  expect_success(command("whole"));
  Job job(on_ranks(2, command("run")));
  ASSERT_TRUE(waits_for_charges(job, 10)) << job.errors();
  job.send(SIGUSR1);
  ASSERT_EQ(job.wait(), 75) << job.errors();
  ASSERT_LT(checkpoint_step(), 100);
  expect_success(on_ranks(4, resume({"--insecure_seed", "13"})));
  EXPECT_TRUE(checkpoint("run") == checkpoint("whole"));
}

}  // namespace
}  // namespace dpfa::testing
