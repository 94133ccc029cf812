// Runs on one data set compose, forks charge their common beginning once, and nothing makes the number
// smaller.
#include "accounting/joint_ledger.h"

#include <gtest/gtest.h>

#include <cmath>

#include "accounting/accountant.h"
#include "accounting/ledger.h"
#include "src/base/error.h"
#include "tests/accounting/ledger_fixture.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::accounting {
namespace {

using dpfa::testing::read_text;
using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;
using nlohmann::json;
using testing::event;
using testing::open_fields;

namespace fs = std::filesystem;

constexpr const char* kDataset = "00ff";  // of the fixture

class JointLedger : public ::testing::Test {
 protected:
  json fields(const std::string& run_id) const {
    json open = open_fields();
    open["run_id"] = run_id;
    return open;
  }
  static void go_on(Ledger& ledger, const std::string& start_id, int charges) {
    json start = {{"world_size", 1}};
    if (!start_id.empty()) start["id"] = start_id;
    ledger.start(start);
    for (int i = 0; i < charges; ++i) {
      const int64_t draw = ledger.last_draw() + 1;
      ledger.charge(draw, draw, event());
    }
  }
  void make_run(const std::string& name, const json& open, int charges, const std::string& start_id = "s") {
    fs::create_directories(folder_ / name);
    Ledger ledger = Ledger::create(folder_ / (name + "/ledger.jsonl"), open);
    go_on(ledger, start_id + name, charges);
  }
  void fork(const std::string& from, const std::string& to, const std::string& start_id, int charges) {
    fs::copy(folder_ / from, folder_ / to, fs::copy_options::recursive);
    resume(to, start_id, charges);
  }
  void resume(const std::string& name, const std::string& start_id, int charges) {
    Ledger ledger = Ledger::resume(folder_ / (name + "/ledger.jsonl"));
    go_on(ledger, start_id, charges);
  }
  std::string without_last_line(const std::string& name) const {
    const std::string text = read_text(folder_ / name);
    return text.substr(0, text.rfind('\n', text.size() - 2) + 1);
  }
  JointReport joint(double delta = 0) const { return joint_ledgers(kDataset, {folder_.path()}, delta); }
  static double epsilon_of_steps(int64_t count, double delta = 1e-5) {
    return epsilon_of(event_from_json(event()), count, delta).epsilon;
  }

  TemporaryFolder folder_;
};

TEST_F(JointLedger, ChargesOfAllRunsCompose) {
  make_run("a", fields("a"), 10);
  make_run("sweep/b", fields("b"), 7);
  const JointReport report = joint();
  EXPECT_EQ(report.refusal, "");
  ASSERT_EQ(report.runs.size(), 2u);
  EXPECT_EQ(report.epsilon_charged, epsilon_of_steps(17));
  EXPECT_EQ(report.epsilon, epsilon_of_steps(20)) << "three steps of b are planned";
  EXPECT_EQ(joint(1e-7).epsilon, epsilon_of_steps(20, 1e-7));
}

TEST_F(JointLedger, ForkChargesTheCommonBeginningOnceAndBothTails) {
  make_run("run", fields("run"), 4);
  fork("run", "copy", "second", 5);
  resume("run", "first", 2);
  const JointReport report = joint();
  EXPECT_EQ(report.epsilon_charged, epsilon_of_steps(4 + 5 + 2));
  EXPECT_EQ(report.epsilon, epsilon_of_steps(4 + 5 + 2 + (10 - 6) + (10 - 9)));
}

TEST_F(JointLedger, ForksThatCannotBeToldApartChargeTwice) {
  make_run("run", fields("run"), 4);
  fork("run", "copy", "", 5);
  resume("run", "", 5);  // the same lines, other releases
  EXPECT_EQ(joint().epsilon_charged, epsilon_of_steps(4 + 5 + 5));
}

TEST_F(JointLedger, SameRunNamedTwiceChargesOnce) {
  make_run("run", fields("run"), 10);
  fs::create_directory_symlink(folder_ / "run", folder_ / "link");
  const JointReport report = joint_ledgers(
      kDataset, {folder_ / "run", folder_ / "run/ledger.jsonl", folder_ / "link", folder_.path()});
  EXPECT_EQ(report.runs.size(), 1u);
  EXPECT_EQ(report.epsilon, epsilon_of_steps(10));
}

// The folder of a rank whose host has no more of a run between owners than its copies.
TEST_F(JointLedger, CopiesOfRanksCountWhereThereIsNoLedger) {
  make_run("run", fields("run"), 4);
  fs::create_directories(folder_ / "own");
  fs::rename(folder_ / "run/ledger.jsonl", folder_ / "own/ledger.00.jsonl");
  write_text(folder_ / "own/ledger.11.jsonl", without_last_line("own/ledger.00.jsonl"));
  EXPECT_EQ(joint().runs.size(), 1u);
  EXPECT_EQ(joint().epsilon_charged, epsilon_of_steps(4));
  EXPECT_EQ(joint().epsilon, epsilon_of_steps(10));
}

TEST_F(JointLedger, CopyThatIsAheadOfItsLedgerAddsItsLines) {
  make_run("run", fields("run"), 4);
  write_text(folder_ / "run/ledger.00.jsonl", read_text(folder_ / "run/ledger.jsonl"));
  write_text(folder_ / "run/ledger.22.jsonl", "");
  EXPECT_EQ(joint().runs.size(), 1u) << "an equal copy says nothing, nor one that was never begun";
  write_text(folder_ / "run/ledger.jsonl", without_last_line("run/ledger.00.jsonl"));
  EXPECT_EQ(joint().epsilon_charged, epsilon_of_steps(4));
  EXPECT_EQ(joint().epsilon, epsilon_of_steps(10)) << "what is planned is planned once";
}

TEST_F(JointLedger, CopiesThatContradictEachOtherCountBothTails) {
  make_run("run", fields("run"), 4);
  fork("run", "other", "second", 5);
  resume("run", "first", 2);
  for (const char* with_ledger : {"yes", "no"}) {
    const bool keeps = with_ledger == std::string("yes");
    fs::rename(folder_ / (keeps ? "other/ledger.jsonl" : "run/ledger.jsonl"),
               folder_ / (keeps ? "run/ledger.00.jsonl" : "run/ledger.11.jsonl"));
    const JointReport report = joint();
    EXPECT_EQ(report.refusal, "");
    EXPECT_EQ(report.epsilon_charged, epsilon_of_steps(4 + 5 + 2)) << with_ledger;
    EXPECT_EQ(report.epsilon, epsilon_of_steps(4 + 5 + 2 + (10 - 6) + (10 - 9))) << with_ledger;
  }
}

// Folders of one run on hosts of their own, gathered under one; a crash left rank 0 behind.
TEST_F(JointLedger, CopiesInFoldersOfTheirOwnPlanNothingOfTheirOwn) {
  make_run("run/0", fields("run"), 4);
  const std::string behind = read_text(folder_ / "run/0/ledger.jsonl");
  resume("run/0", "later", 2);
  for (const char* rank : {"1", "2"}) {
    fs::create_directories(folder_ / "run" / rank);
    fs::copy(folder_ / "run/0/ledger.jsonl",
             folder_ / "run" / rank / ("ledger.1" + std::string(rank) + ".jsonl"));
  }
  EXPECT_EQ(joint().runs.size(), 1u);
  EXPECT_EQ(joint().epsilon, epsilon_of_steps(10));
  write_text(folder_ / "run/0/ledger.jsonl", behind);
  EXPECT_EQ(joint().runs.size(), 2u);
  EXPECT_EQ(joint().epsilon_charged, epsilon_of_steps(6));
  EXPECT_EQ(joint().epsilon, epsilon_of_steps(6 + (10 - 4))) << "rank 0's folder may go on from what it has";
}

// A fork that stands still is not taken for a copy: it may go on by itself.
TEST_F(JointLedger, CopiedRunFolderPlansTheRestAgain) {
  make_run("run", fields("run"), 4);
  fs::copy(folder_ / "run", folder_ / "copy", fs::copy_options::recursive);
  EXPECT_EQ(joint().epsilon_charged, epsilon_of_steps(4));
  EXPECT_EQ(joint().epsilon, epsilon_of_steps(4 + 6 + 6));
}

TEST_F(JointLedger, TornLinesCharge) {
  make_run("run", fields("run"), 10);
  const std::string text = read_text(folder_ / "run/ledger.jsonl");
  write_text(folder_ / "run/ledger.jsonl", text.substr(0, text.size() - 30));
  EXPECT_EQ(joint().epsilon_charged, epsilon_of_steps(10));
  Ledger::resume(folder_ / "run/ledger.jsonl");
  EXPECT_EQ(joint().epsilon_charged, epsilon_of_steps(10));
}

TEST_F(JointLedger, RunsOnOtherDataSetsAreListedApart) {
  make_run("run", fields("run"), 10);
  json other = fields("other");
  other["dataset_id"] = "another";
  make_run("other", other, 10);
  const JointReport report = joint();
  EXPECT_EQ(report.epsilon, epsilon_of_steps(10));
  ASSERT_EQ(report.others.size(), 1u);
  EXPECT_EQ(report.others[0].dataset_id, "another");
}

TEST_F(JointLedger, WhatCannotBeReadRefusesTheNumber) {
  make_run("run", fields("run"), 10);
  make_run("bad", fields("bad"), 10);
  std::string text = read_text(folder_ / "bad/ledger.jsonl");
  const size_t place = text.find("\"step\":3");
  write_text(folder_ / "bad/ledger.jsonl", std::string(text).replace(place, 8, "\"step\":4"));
  EXPECT_NE(joint().refusal.find("not intact"), std::string::npos);
  EXPECT_TRUE(std::isinf(joint().epsilon));
  fs::remove(folder_ / "bad/ledger.jsonl");
  fs::create_directories(folder_ / "bad/ledger.jsonl");
  EXPECT_FALSE(joint().refusal.empty()) << "what has the name of a ledger and is none";
  fs::remove(folder_ / "bad/ledger.jsonl");
  fs::create_directories(folder_ / "bad/checkpoints");
  EXPECT_NE(joint().refusal.find("no ledger"), std::string::npos);
  fs::remove_all(folder_ / "bad");
  EXPECT_EQ(joint().refusal, "");
  json nameless = fields("nameless");
  nameless.erase("dataset_id");
  make_run("nameless", nameless, 1);
  EXPECT_NE(joint().refusal.find("names no data set"), std::string::npos);
}

TEST_F(JointLedger, RunWithoutPrivacyRefusesTheNumber) {
  make_run("run", fields("run"), 10);
  make_run("open", open_fields(false), 1);
  EXPECT_NE(joint().refusal.find("NOT PRIVATE"), std::string::npos);
}

TEST_F(JointLedger, RunsOfDifferentRelationsRefuseTheNumber) {
  make_run("run", fields("run"), 10);
  json open = fields("replaced");
  open["plan"]["event"] = {{"mechanism", "gaussian"}, {"noise_multiplier", 4.0}, {"relation", "replace_one"}};
  open["plan_digest"] = blake2b_hex(open["plan"].dump());
  make_run("replaced", open, 0);
  EXPECT_NE(joint().refusal.find("relation"), std::string::npos) << joint().refusal;
}

TEST_F(JointLedger, NoRunOnTheDataSetCostsNothingAndNoLedgerIsAnError) {
  make_run("run", fields("run"), 10);
  const JointReport report = joint_ledgers("unused", {folder_.path()});
  EXPECT_EQ(report.epsilon, 0);
  EXPECT_EQ(report.others.size(), 1u);
  fs::create_directories(folder_ / "empty");
  EXPECT_THROW(joint_ledgers(kDataset, {folder_ / "empty"}), IoError);
  EXPECT_THROW(joint_ledgers(kDataset, {folder_ / "absent"}), IoError);
}

TEST_F(JointLedger, DatasetFolderStandsForItsId) {
  write_text(folder_ / "dataset.json", R"({"id": "00ff"})");
  EXPECT_EQ(dataset_id_of(folder_.path().string()), "00ff");
  EXPECT_EQ(dataset_id_of("00ff"), "00ff");
  write_text(folder_ / "dataset.json", "{}");
  EXPECT_THROW(dataset_id_of(folder_.path().string()), IoError);
}

}  // namespace
}  // namespace dpfa::accounting
