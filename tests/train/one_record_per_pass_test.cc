// Where the self-test at start finds that an example's bits depend on its slot, a run takes one record per
// pass and releases the bits of an honest run at one record per pass. The program is linked with the planted
// libraries: the bug is asleep or awake as each test says.
#include "src/train/run_setup.h"
#include "src/train/steps.h"
#include "tests/support/scoped_environment.h"
#include "tests/train/trainer_fixture.h"

namespace dpfa::train {
namespace {

using testing::SumRecorder;

class SlotDependentProduct : public testing::TrainerTest {
 protected:
  // A seeded run of two steps with `slots` records per pass; 0: as many as are fastest.
  RunOptions options_of(const std::string& name, int64_t slots, const std::string& compute,
                        const std::string& numerics = "exact") const {
    RunOptions options{.config = config(name), .insecure_seed = 21};
    options.config.privacy.steps = 2;
    options.config.privacy.numerics = numerics;
    if (numerics == "fp32")
      options.config.runtime.norm_method = "gram";  // whatever the number of records per pass
    options.config.runtime.microbatch_size = slots;
    options.config.runtime.compute = compute;
    return options;
  }
  void put(bool awake) {
    environment_.set("DPFA_PLANT",
                     awake ? std::optional<std::string>("slot_dependent_product") : std::nullopt);
  }
  // Of the steps that a run of these options makes.
  int64_t records_per_pass(const RunOptions& options) const {
    const auto alone = comm::make_self_communicator();
    RunSetup setup = prepare_run(options, *alone);
    Watchdog watchdog(0, std::chrono::seconds(0));
    const auto steps = make_private_steps({.plan = *setup.plan,
                                           .config = setup.config,
                                           .communicator = *alone,
                                           .dataset = *setup.train,
                                           .model = *setup.model,
                                           .weights = setup.weights.span(),
                                           .keys = *setup.keys,
                                           .watchdog = watchdog,
                                           .context = setup.context,
                                           .microbatch_size = setup.microbatch_size},
                                          *setup.ledger);
    return steps->records_per_pass();
  }

 private:
  testing::ScopedEnvironment environment_;
};

TEST_F(SlotDependentProduct, LeavesARunWithOneRecordPerPass) {
  for (const std::string numerics : {"exact", "fp32"}) {
    put(/*awake=*/false);
    EXPECT_EQ(records_per_pass(options_of("honest_" + numerics, 4, "fp32", numerics)), 4);
    put(/*awake=*/true);
    for (const std::string compute : {"fp32", "bf16"})
      for (const int64_t slots : {4, 0}) {
        const std::string name = numerics + "_" + compute + "_" + std::to_string(slots);
        ::testing::internal::CaptureStderr();
        EXPECT_EQ(records_per_pass(options_of(name, slots, compute, numerics)), 1) << name;
        const std::string log = ::testing::internal::GetCapturedStderr();
        const auto said = log.find("self-test: in passes of 4 records");
        EXPECT_TRUE(slots == 0 || said != std::string::npos) << log;
        EXPECT_TRUE(slots == 0 || log.find("self-test:", said + 1) == std::string::npos) << "tested twice";
      }
  }
}

TEST_F(SlotDependentProduct, ChangesNoBitOfWhatIsReleased) {
  for (const std::string numerics : {"exact", "fp32"}) {
    put(/*awake=*/false);
    SumRecorder honest;
    ASSERT_EQ(run(options_of("honest_" + numerics, 1, "fp32", numerics), honest), Outcome::kFinished);
    ASSERT_EQ(honest.sums.size(), 2u);
    put(/*awake=*/true);
    for (const int64_t slots : {1, 4, 0}) {
      const std::string name = numerics + "_" + std::to_string(slots);
      SumRecorder recorder;
      ASSERT_EQ(run(options_of(name, slots, "fp32", numerics), recorder), Outcome::kFinished);
      EXPECT_EQ(recorder.sums, honest.sums) << name;
      EXPECT_EQ(weights_of(run_dir(name)), weights_of(run_dir("honest_" + numerics))) << name;
    }
  }
}

// The bug is no empty one: a run that is not private asks for no self-test, and there it changes the weights.
TEST_F(SlotDependentProduct, ChangesARunThatSharesPassesUntested) {
  std::vector<std::string> weights;
  for (const bool awake : {false, true}) {
    put(awake);
    RunOptions options = options_of(awake ? "awake" : "asleep", 4, "fp32");
    options.config.privacy.enabled = false;
    ASSERT_EQ(run(options), Outcome::kFinished);
    weights.push_back(weights_of(options.config.output.dir));
  }
  EXPECT_NE(weights[0], weights[1]);
}

}  // namespace
}  // namespace dpfa::train
