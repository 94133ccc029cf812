// Runs with noise = shares on several ranks: every start says its ranks and shares, charges are never
// lowered, and a run may go on with fewer ranks.
#include <cmath>

#include "src/plan/plan.h"
#include "tests/e2e/failures_fixture.h"

namespace dpfa::testing {
namespace {

class NoiseShares : public Failures {
 protected:
  Words shares(const Words& more = {}) const { return train({"--aggregation.noise", "shares"}) + more; }
  std::vector<nlohmann::json> lines(const std::string& kind) const {
    std::vector<nlohmann::json> found;
    for (const auto& line : read_json_lines(ledger_))
      if (line.at("kind") == kind) found.push_back(line);
    return found;
  }
};

TEST_F(NoiseShares, GoOnWithFewerRanksUnderTheSameClaim) {
  Job job(on_ranks(3, shares()));
  ASSERT_TRUE(waits_for_charges(job, 10)) << job.errors();
  job.send(SIGUSR1);
  ASSERT_EQ(job.wait(), 75) << job.errors();
  const size_t before = charges();
  expect_success(on_ranks(2, resume({"--privacy.steps", std::to_string(kSteps)})));
  const auto starts = lines("start"), charged = lines("charge");
  ASSERT_EQ(starts.size(), 2u);
  EXPECT_EQ(starts[0].at("world_size"), 3);
  EXPECT_EQ(starts[1].at("world_size"), 2);
  EXPECT_EQ(starts[0].at("colluding_ranks"), 0);
  const double ratio = starts[1].at("share_sigma").get<double>() / starts[0].at("share_sigma").get<double>();
  EXPECT_NEAR(ratio, std::sqrt(1.5), 1e-12);
  EXPECT_EQ(charged.size(), static_cast<size_t>(kSteps)) << "nothing was refunded or repeated";
  for (size_t i = 0; i < charged.size(); ++i) {
    const auto& event = charged[i].at("event");
    EXPECT_EQ(event.at("ranks"), i < before ? 3 : 2) << i;
    EXPECT_EQ(event.at("share_sigma"), starts[i < before ? 0 : 1].at("share_sigma")) << i;
    EXPECT_EQ(charged[i].at("draw"), i);
  }
  const auto report = verified();
  EXPECT_EQ(report.value("valid", false), true) << report;
  EXPECT_EQ(report.at("epsilon"), report.at("epsilon_outsiders"));
}

// A rank that is killed between charge and apply, in checkpoints, anywhere: what it left is charged.
TEST_F(NoiseShares, StayChargedWhereARankIsLost) {
  for (const int lost : {1, 0}) {
    Job job(on_ranks(2, lost == 1 ? shares() : resume()));
    const size_t before = charges();
    ASSERT_TRUE(waits_for_charges(job, before + 7)) << job.errors();
    kill(job.rank(lost), SIGKILL);
    EXPECT_NE(job.wait(), 0);
    EXPECT_GE(charges(), before + 7);
    expect_all_charged();
  }
}

TEST_F(NoiseShares, AreRefusedOnAnotherNumberOfRanksThanStated) {
  expect_failure(on_ranks(2, shares({"--aggregation.ranks", "3"})), 2, "2 ranks were started");
  expect_failure(shares({"--aggregation.colluding_ranks", "1"}), 6, "mode = plaintext");
  expect_failure(train({"--aggregation.colluding_ranks", "1"}), 6, "every rank knows the noise");
  expect_failure(shares({"--runtime.constant_step_slots", "true"}), 2, "privacy.dataset_size");
  EXPECT_FALSE(std::filesystem::exists(run_));
  // A dry run states what a job of three ranks would claim.
  const Ended dry = run_command(shares({"--aggregation.ranks", "3", "--dry_run"}));
  EXPECT_EQ(dry.code, 0) << dry.errors;
  EXPECT_NE(dry.output.find("each of 3 ranks adds"), std::string::npos) << dry.output;
  EXPECT_NE(dry.output.find("no claim"), std::string::npos) << dry.output;
}

// Owners with an identity and a folder of records each; a job of the first `ranks` of them.
class MaskedOwners : public NoiseShares {
 protected:
  static constexpr int kOwners = 3;

  MaskedOwners() {
    for (int rank = 0; rank < kOwners; ++rank) {
      const std::string number = std::to_string(rank);
      write_dataset(folder_ / ("own" + number), made_records(20, /*series=*/1 + rank));
      const Ended made = run_command(dpfa_command(
          {"keys", "new", "--out", identity(rank), "--rank", number, "--owner", "owner" + number}));
      EXPECT_EQ(made.code, 0) << made.errors;
      list_ += made.output;
      write_text(folder_ / ("list" + std::to_string(rank + 1)), list_);
    }
  }
  std::string identity(int rank) const { return folder_ / ("identity" + std::to_string(rank)); }

  // Where a rank's process stands: its host.
  virtual std::string place(int) const { return folder_.path(); }
  // One command per rank, each with its own identity.
  Words job(int ranks, const Words& command) const {
    Words words = {required_variable("DPFA_MPIRUN"), "--oversubscribe", "--bind-to", "none"};
    for (int rank = 0; rank < ranks; ++rank) {
      if (rank > 0) words.push_back(":");
      words = words + Words{"-np", "1", "-wdir", place(rank)} + command +
              Words{"--aggregation.allow_list", folder_ / ("list" + std::to_string(ranks)),
                    "--aggregation.identity", identity(rank)};
    }
    return words;
  }
  Words masked() const {
    return shares({"--aggregation.mode", "masked", "--aggregation.colluding_ranks", "1", "--data.train",
                   folder_ / "own{rank}", "--privacy.dataset_size", "64", "--runtime.constant_step_slots",
                   "true", "--runtime.microbatch_size", "0"});
  }

 private:
  std::string list_;
};

// Nothing of a lost rank is unmasked: the others start again with new keys and larger shares, as long as more
// ranks than may collude are left.
TEST_F(MaskedOwners, ThatLoseARankGoOnWithLargerSharesAndNeverWithAsManyAsMayCollude) {
  Job running(job(kOwners, masked()));
  ASSERT_TRUE(waits_for_charges(running, 8)) << running.errors();
  kill(running.rank(2), SIGKILL);
  EXPECT_NE(running.wait(), 0);
  expect_all_charged();
  const size_t before = charges();
  Job fewer(job(2, resume()));
  ASSERT_TRUE(waits_for_charges(fewer, before + 5)) << fewer.errors();
  fewer.send(SIGUSR1);
  EXPECT_EQ(fewer.wait(), 75) << fewer.errors();
  const auto starts = lines("start");
  ASSERT_EQ(starts.size(), 2u);
  for (const auto& [start, ranks] : {std::pair(0, 3), std::pair(1, 2)}) {
    EXPECT_EQ(starts[start].at("world_size"), ranks);
    EXPECT_EQ(starts[start].at("colluding_ranks"), 1);
  }
  EXPECT_NEAR(starts[1].at("share_sigma").get<double>() / starts[0].at("share_sigma").get<double>(),
              std::sqrt(2), 1e-12);
  const auto report = verified();
  EXPECT_EQ(report.value("valid", false), true) << report;
  EXPECT_EQ(report.at("certificate").at("verdict"), "confirmed") << report;
  EXPECT_EQ(report.at("certificate_outsiders").at("verdict"), "confirmed") << report;
  EXPECT_LT(report.at("epsilon_outsiders"), report.at("epsilon"));
  const size_t now = charges();
  expect_failure(job(1, resume()), 6, "at most ranks - 1");
  EXPECT_EQ(charges(), now);
}

// A rank whose configuration differs in what decides about privacy stops all before anything is charged.
TEST_F(MaskedOwners, StartNothingWhereOneRankHasAnotherConfiguration) {
  for (const Words& other : std::vector<Words>{{"--privacy.noise_multiplier", "1.01"},
                                               {"--privacy.max_grad_norm", "2"},
                                               {"--aggregation.collective", "reduce_scatter"},
                                               {"--aggregation.lane_bits", "21"}}) {
    const Ended ended = run_command(job(2, masked()) + other);  // of the last rank
    EXPECT_EQ(ended.code, 2) << other[0] << "\n" << ended.errors;
    EXPECT_NE(ended.errors.find("another configuration than rank 0"), std::string::npos) << ended.errors;
    EXPECT_FALSE(std::filesystem::exists(ledger_)) << other[0];
  }
}

// Under --insecure-seed runs can be compared bit by bit.
TEST_F(MaskedOwners, TrainTheSameWeightsByAllReduceAndByReduceScatter) {
  std::vector<std::string> weights;
  for (const std::string collective : {"allreduce", "reduce_scatter"}) {
    expect_success(
        job(kOwners, masked() + Words{"--output.dir", folder_ / collective, "--insecure_seed", "13",
                                      "--privacy.steps", "6", "--aggregation.collective", collective}));
    const auto latest = folder_ / collective / "latest";
    weights.push_back(read_text(latest / "model.safetensors") + read_text(latest / "optimizer.safetensors"));
  }
  EXPECT_TRUE(weights[0] == weights[1]);
}

// Two owners whose hosts share no disk: on the second there is its copy of the ledger and nothing else.
class OwnersWithDisks : public MaskedOwners {
 protected:
  OwnersWithDisks() { std::filesystem::create_directories(host_1_); }
  std::string place(int rank) const override { return rank == 0 ? folder_.path() : host_1_; }

  Words start() const { return job(2, masked() + Words{"--output.dir", "run"}); }
  Words go_on() const { return job(2, masked() + Words{"--resume", "run"}); }
  // Runs until `count` steps are charged, then stops; what it said.
  std::string run_until(size_t count, const Words& command) const {
    Job running(command);
    EXPECT_TRUE(waits_for_charges(running, count)) << running.errors();
    running.send(SIGUSR1);
    EXPECT_EQ(running.wait(), 75) << running.errors();
    return running.errors();
  }
  void keep_folder_of_rank_0() const {
    std::filesystem::copy(
        run_, old_, std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
  }
  void set_back_folder_of_rank_0() const {
    std::filesystem::remove_all(run_);
    std::filesystem::rename(old_, run_);
  }
  std::filesystem::path copy_of_rank_1() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(host_1_ / "run"))
      files.push_back(entry.path());
    EXPECT_EQ(files.size(), 1u);
    return files.at(0);
  }
  // Charges before each start.
  std::vector<size_t> charges_at_starts() const {
    std::vector<size_t> found;
    size_t count = 0;
    for (const auto& line : read_json_lines(ledger_)) {
      if (line.at("kind") == "start") found.push_back(count);
      if (line.at("kind") == "charge" || line.at("kind") == "torn") ++count;
    }
    return found;
  }

  const std::filesystem::path host_1_ = folder_ / "host1", old_ = folder_ / "old";
};

TEST_F(OwnersWithDisks, RememberWhatAFolderOfRankZeroThatWasSetBackHasForgotten) {
  run_until(8, start());
  keep_folder_of_rank_0();
  const size_t early = charges();
  EXPECT_EQ(run_until(early + 10, go_on()).find("cannot vouch"), std::string::npos);
  const size_t honest = charges();
  set_back_folder_of_rank_0();
  ASSERT_EQ(charges(), early);
  const std::string said = run_until(honest + 5, go_on());
  EXPECT_NE(said.find("is brought up to it"), std::string::npos) << said;
  EXPECT_EQ(charges_at_starts(), (std::vector<size_t>{0, early, honest}));
  expect_all_charged();
  EXPECT_EQ(read_text(copy_of_rank_1()), read_text(ledger_));
  const Ended verify = run_command(dpfa_command({"ledger", "verify", copy_of_rank_1().string(), "--json"}));
  EXPECT_EQ(verify.code, 0) << verify.output << verify.errors;

  // Where all of rank 0 is lost, a copy is the ledger of a run that begins again and owes what was charged.
  const size_t last = charges();
  std::filesystem::remove_all(run_);
  std::filesystem::create_directories(run_);
  std::filesystem::copy_file(copy_of_rank_1(), ledger_);
  run_until(last + 3, go_on());
  EXPECT_EQ(charges_at_starts(), (std::vector<size_t>{0, early, honest, last}));
}

// The control of the test above: without copies the same goes unnoticed. The copy that comes back stops all.
TEST_F(OwnersWithDisks, WithoutCopiesForgetAndOnesThatContradictStopAllRanks) {
  run_until(8, start());
  keep_folder_of_rank_0();
  const size_t early = charges();
  run_until(early + 10, go_on());
  const auto copy = copy_of_rank_1();
  const std::string kept = read_text(copy);
  std::filesystem::remove(copy);
  set_back_folder_of_rank_0();
  const std::string said = run_until(early + 3, go_on());
  EXPECT_NE(said.find("warning: rank 1 has no copy"), std::string::npos) << said;
  EXPECT_EQ(charges_at_starts(), (std::vector<size_t>{0, early})) << "the second start is forgotten";

  write_text(copy, kept);
  const std::string ledger = read_text(ledger_);
  expect_failure(go_on(), 5, "contradict each other");
  EXPECT_EQ(read_text(ledger_), ledger);
  EXPECT_EQ(read_text(copy), kept);
  std::filesystem::remove_all(run_);
  expect_failure(start(), 2, "the ledger of an earlier run");
  EXPECT_FALSE(std::filesystem::exists(run_));
}

TEST_F(NoiseShares, TrainWithADitherAndWithConstantWork) {
  for (const std::string numerics : {"exact", "fp32"}) {
    expect_success(on_ranks(2, shares({"--output.dir", folder_ / numerics, "--privacy.numerics", numerics,
                                       "--aggregation.lane_bits", "21", "--aggregation.clamp_norms", "1",
                                       "--privacy.dataset_size", "64", "--runtime.constant_step_slots",
                                       "true", "--runtime.microbatch_size", "0", "--privacy.steps", "5"})));
    const auto open = read_json_lines(folder_ / numerics / "ledger.jsonl").front();
    EXPECT_EQ(open.at("plan").at("event").at("rounded_dimension").get<int64_t>() > 0, numerics == "fp32");
    EXPECT_NO_THROW(plan::PrivacyPlan::from_json(open.at("plan")));
  }
}

}  // namespace
}  // namespace dpfa::testing
