// What the operating system gives as randomness and what is derived from it for noise, draws and dithers is
// found nowhere in what a run writes and prints (masked_run_test.cc: nor are the keys of masked sums).
#include <gtest/gtest.h>

#include "src/train/trainer.h"
#include "tests/support/secret_recorder.h"
#include "tests/support/tiny_run.h"

namespace dpfa::train {
namespace {

TEST(Secrets, OfNoRootAndNoKeyIsATraceInWhatARunWritesAndPrints) {
  for (const std::string noise : {"after_sum", "shares"}) {
    testing::TemporaryFolder folder;
    testing::write_dataset(folder / "train", testing::made_records(64));
    RunOptions run;
    run.config = testing::tiny_config(folder / "train", folder / "run");
    run.config.aggregation.noise = noise;
    run.config.train.checkpoint_every = 2;
    testing::forget_recorded_secrets();
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    ASSERT_EQ(run_training(run, *comm::make_self_communicator()), Outcome::kFinished);
    std::string all = ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr();
    size_t files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "run"))
      if (entry.is_regular_file()) all += testing::read_text(entry.path()), ++files;
    EXPECT_GE(files, 10u);
    EXPECT_GE(testing::recorded_secrets().size(), 4u) << "the two roots were not seen: nothing was checked";
    const auto found = testing::secrets_in(all, run.config.privacy.steps);
    EXPECT_EQ(testing::without_ids(found, testing::public_ids_of(folder / "run")).size(), 0u) << noise;
    EXPECT_EQ(found.size(), 2u) << "the search finds what is there: the ids of the run and of its start";
  }
}

}  // namespace
}  // namespace dpfa::train
