// The job of configs/multi_party.ini as the README has it: three owners, each on a machine of its own that
// holds its records, its identity, the list of keys and the public records.
#include "tests/e2e/failures_fixture.h"

namespace dpfa::testing {
namespace {

TEST(MultiParty, OfTheReadmeTrainsOnThreeMachinesAndItsLedgerHolds) {
  constexpr int kOwners = 3;
  const TemporaryFolder folder;
  const auto machine = [&](int rank) { return folder / ("machine" + std::to_string(rank)); };
  const auto home = [&](int rank) { return machine(rank) / "runs/multi_party"; };
  std::string list;
  for (int rank = 0; rank < kOwners; ++rank) {
    std::filesystem::create_directories(home(rank));
    const std::string number = std::to_string(rank);
    const auto data = home(rank) / ("owner" + number) / "data";
    std::filesystem::create_directories(data);
    write_dataset(data / "train", made_records(60, /*series=*/1 + rank));
    if (rank > 0) std::filesystem::create_directories(home(rank) / "owner0/data");
    write_dataset(home(rank) / "owner0/data/eval", made_records(8, /*series=*/9));
    const Ended made = run_command(dpfa_command(
        {"keys", "new", "--out", home(rank) / "identity", "--rank", number, "--owner", "owner" + number}));
    ASSERT_EQ(made.code, 0) << made.errors;
    list += made.output;
  }
  Words job = {required_variable("DPFA_MPIRUN"), "--oversubscribe", "--bind-to", "none"};
  for (int rank = 0; rank < kOwners; ++rank) {
    write_text(home(rank) / "allow_list", list);
    if (rank > 0) job.push_back(":");
    job =
        job + Words{"-np", "1", "-wdir", machine(rank)} +
        dpfa_command({"train", "--config", required_variable("DPFA_SOURCE_DIR") + "/configs/multi_party.ini",
                      "--privacy.steps", "3", "--train.eval_every", "3", "--privacy.expected_batch_size", "6",
                      "--privacy.dataset_size", "180"});
  }
  const Ended trained = run_command(job);
  ASSERT_EQ(trained.code, 0) << trained.errors;
  const Ended verified = run_command(dpfa_command({"ledger", "verify", home(0) / "run", "--json"}));
  const auto report = nlohmann::json::parse(verified.output, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(report.is_object()) << verified.output << verified.errors;
  EXPECT_EQ(report.value("valid", false), true) << report;
  EXPECT_EQ(report.value("steps", 0), 3) << report;
  EXPECT_LE(report.value("epsilon", 9.0), 3) << report;
  EXPECT_LT(report.at("epsilon_outsiders"), report.at("epsilon"));
  for (int rank = 1; rank < kOwners; ++rank) {
    EXPECT_FALSE(std::filesystem::exists(home(rank) / "run/ledger.jsonl"));
    EXPECT_FALSE(std::filesystem::is_empty(home(rank) / "run")) << "the owner's copy of the ledger";
  }
}

}  // namespace
}  // namespace dpfa::testing
