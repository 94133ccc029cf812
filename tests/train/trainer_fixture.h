// Whole runs in one process, with a look at every collective and a crash at any of them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "src/base/error.h"
#include "src/train/trainer.h"
#include "tests/support/recording_communicator.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_run.h"

namespace dpfa::testing {

// Keeps the clipped sums (P) that go into the reduction, before any noise.
class SumRecorder : public test::RecordingCommunicator {
 public:
  std::vector<std::vector<int32_t>> sums;

  void all_reduce_sum(std::span<uint32_t> values) override {
    sums.emplace_back(values.begin(), values.end());
    RecordingCommunicator::all_reduce_sum(values);
  }
};

// What ends a run in the middle of a step: every step asks its peers once whether to stop ("max"), then
// charges, then sums ("sum").
struct Crash : std::runtime_error {
  Crash() : std::runtime_error("crash of a test") {}
};

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() { write_dataset(folder_ / "train", made_records(64)); }

  std::filesystem::path run_dir(const std::string& name) const { return folder_ / name; }
  plan::Config config(const std::string& run) const { return tiny_config(folder_ / "train", run_dir(run)); }

  train::Outcome run(const train::RunOptions& options, comm::Communicator& communicator) const {
    return train::run_training(options, communicator);
  }
  train::Outcome run(const train::RunOptions& options) const {
    const auto alone = comm::make_self_communicator();
    return run(options, *alone);
  }
  // Ends like a lost process at the `count`-th call (from 1) of `collective`, or of "any"; true where it came
  // that far.
  bool crashes(const train::RunOptions& options, const std::string& collective, int64_t count,
               SumRecorder& recorder) const {
    recorder.at_call = [&, seen = int64_t{0}](const std::string& call) mutable {
      if ((call == collective || collective == "any") && ++seen == count) throw Crash();
    };
    try {
      run(options, recorder);
    } catch (const Crash&) {
      return true;
    }
    return false;
  }
  bool crashes(const train::RunOptions& options, const std::string& collective, int64_t count) const {
    SumRecorder recorder;
    return crashes(options, collective, count, recorder);
  }
  // Exit code and sentence of the error that ends the run; 0 where none does.
  std::pair<int, std::string> failure_of(const train::RunOptions& options) const {
    try {
      run(options);
    } catch (const Error& error) {
      return {static_cast<int>(error.code()), error.what()};
    }
    return {0, ""};
  }

  static std::string weights_of(const std::filesystem::path& run) {
    return read_text(run / "latest" / "model.safetensors");
  }
  static std::string moments_of(const std::filesystem::path& run) {
    return read_text(run / "latest" / "optimizer.safetensors");
  }

  TemporaryFolder folder_;
};

// The same run, continued.
inline train::RunOptions resumed(train::RunOptions options) {
  options.resume = true;
  return options;
}

}  // namespace dpfa::testing
