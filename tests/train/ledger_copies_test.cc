// What the ranks of a run between owners remember of it, on hosts that share nothing; ranks are threads.
#include "src/train/ledger_copies.h"

#include <gtest/gtest.h>

#include <functional>

#include "src/base/error.h"
#include "src/train/collective.h"
#include "tests/accounting/ledger_fixture.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_world.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using accounting::Ledger;
using testing::read_text;
using testing::write_text;

std::string ledger_text(int charges, const std::string& run = "made-up", const std::string& start = "s") {
  nlohmann::json open = accounting::testing::open_fields();
  open["run_id"] = run;
  Ledger ledger = Ledger::in_memory(open);
  ledger.start({{"world_size", 3}, {"id", start}});
  for (int i = 0; i < charges; ++i) ledger.charge(i, i, accounting::testing::event());
  return ledger.text();
}

class LedgerCopies : public ::testing::Test {
 protected:
  static constexpr int kRanks = 3;

  LedgerCopies() {
    for (int rank = 0; rank < kRanks; ++rank) fs::create_directories(copy(rank).parent_path());
  }
  // A host of each rank's own.
  fs::path copy(int rank) const { return folder_ / ("host" + std::to_string(rank) + "/run/ledger.0.jsonl"); }
  fs::path ledger() const { return copy(0).parent_path() / "ledger.jsonl"; }

  // What every rank would go on with.
  std::vector<std::string> longest() const {
    std::vector<std::string> texts(kRanks);
    testing::ThreadWorld(kRanks).run([&](comm::Communicator& communicator) {
      texts[static_cast<size_t>(communicator.rank())] =
          longest_ledger(communicator, copy(communicator.rank()));
    });
    return texts;
  }
  void expect_refused(const std::vector<std::string>& words,
                      const std::function<void(comm::Communicator&)>& work,
                      testing::ThreadWorld::Wire wire = {}) const {
    for (const std::exception_ptr& thrown : testing::ThreadWorld(kRanks, wire).outcomes(work)) {
      try {
        if (thrown) std::rethrow_exception(thrown);
        ADD_FAILURE() << "a rank went on: " << words[0];
      } catch (const AgreedError& error) {
        EXPECT_EQ(error.code(), ExitCode::kState) << error.what();
        for (const std::string& word : words)
          EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << "\n" << error.what();
      }
    }
  }
  void expect_refused(const std::vector<std::string>& words) const {
    expect_refused(words, [&](comm::Communicator& communicator) {
      longest_ledger(communicator, copy(communicator.rank()));
    });
  }

  testing::TemporaryFolder folder_;
};

TEST_F(LedgerCopies, BringBackWhatRankZeroForgot) {
  write_text(ledger(), ledger_text(2));
  write_text(copy(0), ledger_text(2));
  write_text(copy(1), ledger_text(7));  // and rank 2 is new
  for (const std::string& text : longest()) EXPECT_EQ(text, ledger_text(7));
}

TEST_F(LedgerCopies, OfRankZeroKeepWhatTheLedgerThatItWasGivenLacks) {
  write_text(ledger(), ledger_text(2));
  write_text(copy(0), ledger_text(5));
  for (const std::string& text : longest()) EXPECT_EQ(text, ledger_text(5));
}

TEST_F(LedgerCopies, ThatEndInATornLineStayChargedForIt) {
  const std::string whole = ledger_text(4);
  const size_t end = whole.size();
  write_text(ledger(), whole.substr(0, end - 40));
  write_text(copy(1), whole.substr(0, end - 90));
  for (const std::string& text : longest()) EXPECT_EQ(text, whole.substr(0, end - 40));
  write_text(copy(2), whole);
  for (const std::string& text : longest()) EXPECT_EQ(text, whole);
}

TEST_F(LedgerCopies, WithoutACompleteLineVouchForNothing) {
  write_text(ledger(), ledger_text(1));
  write_text(copy(1), "");
  write_text(copy(2), ledger_text(1).substr(0, 20));
  for (const std::string& text : longest()) EXPECT_EQ(text, ledger_text(1));
}

TEST_F(LedgerCopies, ThatContradictEachOtherStopAllRanks) {
  write_text(ledger(), ledger_text(2));
  write_text(copy(1), ledger_text(4, "made-up", "s"));
  write_text(copy(2), ledger_text(3, "made-up", "fork"));
  expect_refused({"rank 2: the ledger '" + copy(2).string() + "' of rank 2", copy(1).string(),
                  "contradict each other from line 2 on"});
}

TEST_F(LedgerCopies, OfAnotherRunStopAllRanks) {
  write_text(ledger(), ledger_text(4));
  write_text(copy(1), ledger_text(3, "another"));
  expect_refused({"'" + copy(1).string() + "' of rank 1", "is of the run another", "of the run made-up"});
}

TEST_F(LedgerCopies, ThatAreDamagedStopAllRanks) {
  write_text(ledger(), ledger_text(4));
  std::string text = ledger_text(4);
  text.replace(text.find("\"step\":1"), 8, "\"step\":9");
  write_text(copy(2), text);
  expect_refused({"'" + copy(2).string() + "' of rank 2", "is not intact", "line 4"});
}

// Rank 0 agrees to the longest text and then goes on with an older one.
TEST_F(LedgerCopies, AreNotFollowedByALedgerThatTookLinesBack) {
  write_text(copy(1), ledger_text(5));
  const auto share = [&](comm::Communicator& communicator) {
    std::optional<Ledger> given;
    if (communicator.rank() == 0) given = Ledger::in_memory(accounting::testing::open_fields());
    share_ledger(communicator, copy(communicator.rank()), given);
  };
  expect_refused({"rank 1: the ledger '" + copy(1).string() + "' holds what the ledger of this run does not"},
                 share);
  EXPECT_EQ(read_text(copy(1)), ledger_text(5));

  // And it hides from everybody that rank 1 objects.
  const auto hide = [](int, const std::string& operation, int, testing::ThreadWorld::Parts& parts) {
    if (operation == "gather") std::fill(parts[1].begin(), parts[1].end(), std::byte{0});
  };
  const auto outcomes = testing::ThreadWorld(kRanks, hide).outcomes(share);
  ASSERT_TRUE(outcomes[1]);
  EXPECT_THROW(std::rethrow_exception(outcomes[1]), AgreedError);
  EXPECT_EQ(read_text(copy(1)), ledger_text(5));
}

TEST_F(LedgerCopies, AreMissedByARankThatLiesAboutItsLength) {
  write_text(ledger(), ledger_text(2));
  write_text(copy(1), ledger_text(5));
  const auto claim_the_longest = [](int, const std::string& operation, int number,
                                    testing::ThreadWorld::Parts& parts) {
    const int64_t size = int64_t{1} << 40;  // the first operation tells how reading went, the second the size
    if (operation == "gather" && number == 1) std::memcpy(parts[0].data(), &size, sizeof(size));
  };
  expect_refused(
      {"rank 1: the ledger '" + copy(1).string() + "' of rank 1", "contradict each other"},
      [&](comm::Communicator& communicator) { longest_ledger(communicator, copy(communicator.rank())); },
      claim_the_longest);
}

TEST_F(LedgerCopies, AreKeptUpOnEveryRankFromTheStartOn) {
  fs::remove_all(copy(2).parent_path());  // a host that has never seen the run
  write_text(copy(1), ledger_text(3));
  testing::ThreadWorld(kRanks).run([&](comm::Communicator& communicator) {
    std::optional<Ledger> shared;
    if (communicator.rank() == 0) {
      write_text(ledger(), ledger_text(6));
      shared = Ledger::resume(ledger());
    }
    share_ledger(communicator, copy(communicator.rank()), shared);
    shared->charge(6, 6, accounting::testing::event());
  });
  EXPECT_EQ(read_text(ledger()), ledger_text(7));
  for (int rank = 0; rank < kRanks; ++rank) EXPECT_EQ(read_text(copy(rank)), ledger_text(7)) << rank;
}

TEST_F(LedgerCopies, OfAnEarlierRunRefuseAFreshStart) {
  EXPECT_NO_THROW(refuse_existing_copy(copy(1)));
  write_text(copy(1), "");
  EXPECT_THROW(refuse_existing_copy(copy(1)), ConfigError);
}

TEST(LedgerCopy, IsNamedByItsRanksKeyAndNotByItsNumber) {
  testing::TemporaryFolder folder;
  const testing::Members members(2);
  plan::Config config;
  config.output.dir = "run";
  EXPECT_EQ(ledger_copy_of(config, 0), std::nullopt);
  config.aggregation.mode = "masked";
  config.aggregation.allow_list = folder / "list";
  std::vector<fs::path> names;
  for (const bool exchanged : {false, true}) {
    std::string list;
    for (int rank = 0; rank < 2; ++rank) {
      const auto& identity = members.identities[static_cast<size_t>(exchanged ? 1 - rank : rank)];
      list +=
          comm::secagg::allow_list_line(rank, identity.public_key(), "owner" + std::to_string(rank)) + "\n";
    }
    write_text(config.aggregation.allow_list, list);
    for (int rank = 0; rank < 2; ++rank) names.push_back(*ledger_copy_of(config, rank));
  }
  EXPECT_EQ(names[0], names[3]);
  EXPECT_EQ(names[1], names[2]);
  EXPECT_NE(names[0], names[1]);
  const std::string key = comm::secagg::to_hex(members.identities[0].public_key());
  EXPECT_EQ(names[0], fs::path("run/ledger." + key.substr(0, 16) + ".jsonl"));
}

}  // namespace
}  // namespace dpfa::train
