// metrics.jsonl: whole lines, rank 0 only, appended.
#include "src/train/telemetry.h"

#include <gtest/gtest.h>

#include "src/base/error.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::train {
namespace {

using testing::read_text;
using testing::TemporaryFolder;
using testing::write_text;

TEST(Telemetry, AppendsOneObjectPerLineAlsoAfterARestart) {
  const TemporaryFolder run;
  Telemetry(true, run.path(), 10).write({{"step", 1}});
  Telemetry(true, run.path(), 10).write({{"step", 2}});
  EXPECT_EQ(read_text(run / "metrics.jsonl"), "{\"step\":1}\n{\"step\":2}\n");
}

TEST(Telemetry, DropsALineThatACrashCutOff) {
  const TemporaryFolder run;
  for (const std::string before : {"{\"step\":1}\n{\"st", "{\"step\":1}\n", "{\"st"}) {
    write_text(run / "metrics.jsonl", before);
    Telemetry(true, run.path(), 10).write({{"step", 2}});
    const std::string kept =
        before.front() == '{' && before.find('\n') != std::string::npos ? "{\"step\":1}\n" : "";
    EXPECT_EQ(read_text(run / "metrics.jsonl"), kept + "{\"step\":2}\n") << before;
  }
}

TEST(Telemetry, WritesNothingOnOtherRanks) {
  const TemporaryFolder run;
  write_text(run / "metrics.jsonl", "{\"st");
  Telemetry other(false, run.path(), 10);
  other.write({{"step", 1}});
  EXPECT_EQ(read_text(run / "metrics.jsonl"), "{\"st");
}

TEST(Telemetry, ThatCannotBeWrittenIsAnIoError) {
  const TemporaryFolder run;
  Telemetry telemetry(true, run / "absent", 10);
  EXPECT_THROW(telemetry.write({{"step", 1}}), IoError);
}

TEST(Telemetry, ShowsNoProgressLineWhereStderrIsNoTerminal) {
  const TemporaryFolder run;
  ::testing::internal::CaptureStderr();
  Telemetry telemetry(true, run.path(), 10);
  telemetry.progress(1, " | text");
  telemetry.say("A sentence.");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "A sentence.\n");
}

}  // namespace
}  // namespace dpfa::train
