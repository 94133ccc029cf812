// The ledger never loses what was charged: killed processes, torn lines, full disks, restarts.
#include "accounting/ledger.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "accounting/ledger_verify.h"
#include "src/base/error.h"
#include "tests/accounting/ledger_fixture.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::accounting {
namespace {

using dpfa::testing::read_text;
using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;
using testing::event;
using testing::open_fields;

Ledger with_charges(const std::filesystem::path& path, int charges) {
  Ledger ledger = Ledger::create(path, open_fields());
  ledger.start({{"world_size", 1}});
  for (int i = 0; i < charges; ++i) ledger.charge(i, i, event());
  return ledger;
}

TEST(Ledger, CountsWhatWasWritten) {
  TemporaryFolder folder;
  Ledger ledger = with_charges(folder / "ledger.jsonl", 3);
  EXPECT_EQ(ledger.lines(), 5);
  EXPECT_EQ(ledger.charges(), 3);
  EXPECT_EQ(ledger.starts(), 1);
  EXPECT_EQ(ledger.last_draw(), 2);
  EXPECT_EQ(ledger.open().at("run_id"), "made-up");
  EXPECT_EQ(ledger.digest().size(), 64u);
  EXPECT_EQ(ledger.text(), read_text(folder / "ledger.jsonl"));
  EXPECT_TRUE(verify_ledger(folder / "ledger.jsonl").valid);
}

TEST(Ledger, KeepsACopyThatIsAsComplete) {
  TemporaryFolder folder;
  const auto file = folder / "ledger.jsonl", own = folder / "ledger.1.jsonl";
  Ledger ledger = with_charges(file, 2);
  write_text(own, ledger.text().substr(0, ledger.text().size() - 300));
  Ledger replica = Ledger::in_memory_from_text(ledger.text());
  replica.keep_copy(own);
  ledger.keep_copy(folder / "ledger.0.jsonl");
  for (Ledger* each : {&ledger, &replica}) each->charge(2, 2, event());
  EXPECT_EQ(replica.digest(), ledger.digest());
  for (const char* name : {"ledger.0.jsonl", "ledger.1.jsonl"})
    EXPECT_EQ(read_text(folder / name), read_text(file));
  EXPECT_EQ(replica.text(), ledger.text());
  EXPECT_TRUE(verify_ledger(own).valid);
  EXPECT_THROW(Ledger::resume(own), StateError) << "in use";
}

TEST(Ledger, TakesNothingBackFromACopy) {
  TemporaryFolder folder;
  const auto own = folder / "ledger.1.jsonl";
  const std::string longer = with_charges(folder / "a", 5).text();
  write_text(own, longer);
  Ledger shorter = with_charges(folder / "b", 4);
  EXPECT_THROW(shorter.keep_copy(own), StateError);
  EXPECT_EQ(read_text(own), longer);
  shorter.charge(4, 4, event());
  EXPECT_EQ(read_text(own), longer) << "a copy that was refused is not written to";
}

TEST(Ledger, ResumesFromTheLongerTextThatSomebodyElseHas) {
  TemporaryFolder folder;
  const std::string longer = with_charges(folder / "a", 5).text();
  const auto file = folder / "b";
  const std::string before = with_charges(file, 2).text();
  const std::string torn = longer.substr(0, longer.size() - 30);
  std::string altered = longer;
  altered.replace(altered.find("\"step\":4"), 8, "\"step\":5");
  EXPECT_THROW(Ledger::resume(file, altered), StateError);
  EXPECT_THROW(Ledger::resume(file, before.substr(0, before.size() / 2)), StateError);
  EXPECT_EQ(read_text(file), before);
  EXPECT_EQ(Ledger::resume(file, torn).charges(), 5) << "a torn line is a charge";
  EXPECT_TRUE(verify_ledger(file).valid);
  write_text(file, before);
  EXPECT_EQ(Ledger::resume(file, longer).last_draw(), 4);
  EXPECT_EQ(read_text(file), longer);
}

TEST(Ledger, ResumeKeepsEveryChargeMadeBefore) {
  TemporaryFolder folder;
  std::string digest;
  {
    Ledger ledger = with_charges(folder / "ledger.jsonl", 4);
    digest = ledger.digest();
  }
  Ledger ledger = Ledger::resume(folder / "ledger.jsonl");
  EXPECT_EQ(ledger.charges(), 4);
  EXPECT_EQ(ledger.last_draw(), 3);
  EXPECT_EQ(ledger.digest(), digest);
  ledger.start({{"world_size", 2}});
  ledger.charge(4, 4, event());
  EXPECT_EQ(ledger.charges(), 5);
  EXPECT_EQ(ledger.starts(), 2);
  EXPECT_EQ(verify_ledger(folder / "ledger.jsonl").steps, 5);
}

TEST(Ledger, ReplicasOfOtherRanksHaveTheSameDigest) {
  TemporaryFolder folder;
  Ledger file = with_charges(folder / "ledger.jsonl", 2);
  Ledger memory = Ledger::in_memory(open_fields());
  memory.start({{"world_size", 1}});
  for (int i = 0; i < 2; ++i) memory.charge(i, i, event());
  EXPECT_EQ(memory.digest(), file.digest());
  EXPECT_EQ(memory.text(), file.text());
  Ledger copy = Ledger::in_memory_from_text(file.text());
  copy.charge(2, 2, event());
  file.charge(2, 2, event());
  EXPECT_EQ(copy.digest(), file.digest());
  EXPECT_EQ(copy.charges(), 3);
}

TEST(Ledger, DrawsNeverRepeat) {
  Ledger ledger = Ledger::in_memory(open_fields());
  ledger.charge(0, 5, event());
  EXPECT_THROW(ledger.charge(1, 5, event()), InternalError);
  EXPECT_THROW(ledger.charge(1, 4, event()), InternalError);
  EXPECT_EQ(ledger.charges(), 1);
}

TEST(Ledger, ExistingFileIsNeverOverwritten) {
  TemporaryFolder folder;
  with_charges(folder / "ledger.jsonl", 1);
  const std::string before = read_text(folder / "ledger.jsonl");
  EXPECT_THROW(Ledger::create(folder / "ledger.jsonl", open_fields()), StateError);
  EXPECT_EQ(read_text(folder / "ledger.jsonl"), before);
  EXPECT_THROW(Ledger::resume(folder / "absent.jsonl"), IoError);
  EXPECT_THROW(Ledger::create(folder / "no-such-folder/ledger.jsonl", open_fields()), IoError);
}

TEST(Ledger, SecondWriterIsRefusedWhileTheFirstLives) {
  TemporaryFolder folder;
  Ledger ledger = with_charges(folder / "ledger.jsonl", 1);
  EXPECT_THROW(Ledger::resume(folder / "ledger.jsonl"), StateError);
}

TEST(Ledger, TornLineCountsAsOneChargeWhereverItWasCut) {
  TemporaryFolder folder;
  with_charges(folder / "whole.jsonl", 3);
  const std::string whole = read_text(folder / "whole.jsonl");
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  // From the first byte of the last line to all of it but the line feed.
  for (size_t cut = last + 1; cut < whole.size(); cut += cut + 20 < whole.size() ? 19 : 1) {
    const std::filesystem::path path = folder / "cut.jsonl";
    write_text(path, whole.substr(0, cut));
    const LedgerReport before = verify_ledger(path);
    ASSERT_TRUE(before.valid) << before.reason;
    EXPECT_EQ(before.steps, 3);
    EXPECT_EQ(before.torn, 1);
    {
      Ledger ledger = Ledger::resume(path);
      EXPECT_EQ(ledger.charges(), 3);
      EXPECT_EQ(ledger.last_draw(), 2);
      ledger.start({{"world_size", 1}});
      ledger.charge(3, 3, event());
    }
    EXPECT_EQ(Ledger::resume(path).charges(), 4);
    const LedgerReport after = verify_ledger(path);
    ASSERT_TRUE(after.valid) << after.reason;
    EXPECT_EQ(after.steps, 4);
  }
}

TEST(Ledger, ClosingATornLineCanItselfBeInterruptedAnywhere) {
  TemporaryFolder folder;
  with_charges(folder / "whole.jsonl", 3);
  const std::string torn =
      read_text(folder / "whole.jsonl").substr(0, read_text(folder / "whole.jsonl").size() - 20);
  write_text(folder / "closed.jsonl", torn);
  Ledger::resume(folder / "closed.jsonl");
  const std::string closed = read_text(folder / "closed.jsonl");
  for (size_t cut = torn.size() + 1; cut < closed.size(); cut += cut < torn.size() + 4 ? 1 : 17) {
    write_text(folder / "cut.jsonl", closed.substr(0, cut));
    const Ledger ledger = Ledger::resume(folder / "cut.jsonl");
    EXPECT_GE(ledger.charges(), 3) << cut;
    EXPECT_TRUE(verify_ledger_text(ledger.text()).valid) << cut;
  }
}

TEST(Ledger, FirstLineCutOffMeansNothingWasReleased) {
  TemporaryFolder folder;
  write_text(folder / "ledger.jsonl", "{\"digest\":\"0");
  EXPECT_THROW(Ledger::resume(folder / "ledger.jsonl"), StateError);
  write_text(folder / "ledger.jsonl", "");
  EXPECT_THROW(Ledger::resume(folder / "ledger.jsonl"), StateError);
}

TEST(Ledger, AlteredLedgerCannotBeResumed) {
  TemporaryFolder folder;
  with_charges(folder / "ledger.jsonl", 3);
  std::string text = read_text(folder / "ledger.jsonl");
  text.replace(text.find("\"step\":1"), 8, "\"step\":7");
  write_text(folder / "ledger.jsonl", text);
  EXPECT_THROW(Ledger::resume(folder / "ledger.jsonl"), StateError);
}

// Runs `body` in a child process and returns its wait status.
pid_t start_child(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  return child;
}

TEST(Ledger, EveryAcknowledgedChargeSurvivesAKillAtAnyMoment) {
  for (int rounds : {1, 2, 5, 9}) {
    TemporaryFolder folder;
    int acknowledgements[2];
    ASSERT_EQ(pipe(acknowledgements), 0);
    const pid_t child = start_child([&] {
      Ledger ledger = with_charges(folder / "ledger.jsonl", 0);
      for (int i = 0; i < 1000000; ++i) {
        ledger.charge(i, i, event());
        const char byte = 1;
        if (write(acknowledgements[1], &byte, 1) != 1) _exit(1);
      }
    });
    ASSERT_GT(child, 0);
    close(acknowledgements[1]);
    int64_t acknowledged = 0;
    char byte;
    for (; acknowledged < rounds; ++acknowledged) ASSERT_EQ(read(acknowledgements[0], &byte, 1), 1);
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    while (read(acknowledgements[0], &byte, 1) == 1) ++acknowledged;
    close(acknowledgements[0]);
    const Ledger ledger = Ledger::resume(folder / "ledger.jsonl");
    // The charge in flight may be on disk without having been acknowledged: counted, never lost.
    EXPECT_GE(ledger.charges(), acknowledged);
    EXPECT_LE(ledger.charges(), acknowledged + 1);
  }
}

TEST(Ledger, FullDiskIsAnIoErrorAndLosesNothing) {
  TemporaryFolder folder;
  Ledger ledger = with_charges(folder / "ledger.jsonl", 2);
  const std::string before = read_text(folder / "ledger.jsonl");
  // A file size limit stands for the full disk: write() stores a part of the line, then fails.
  struct rlimit old {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{static_cast<rlim_t>(before.size() + 30), old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_THROW(ledger.charge(2, 2, event()), IoError);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(ledger.charges(), 2);  // not charged for the caller, who therefore releases nothing
  EXPECT_THROW(ledger.charge(2, 2, event()), IoError) << "after a failure the run must end";
  EXPECT_EQ(read_text(folder / "ledger.jsonl").substr(0, before.size()), before);
  ledger = Ledger::in_memory(open_fields());
  EXPECT_EQ(Ledger::resume(folder / "ledger.jsonl").charges(), 3);  // the part of a line counts
}

}  // namespace
}  // namespace dpfa::accounting
