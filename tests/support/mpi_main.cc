// main() of GoogleTest programs under mpirun: every rank runs all tests; the program fails where any rank
// failed. Rank 0 prints as usual, the others print their failures only.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "src/base/watchdog.h"
#include "tests/support/mpi_world.h"

namespace dpfa::testing {
namespace {

std::unique_ptr<comm::Communicator> world_of_all_tests;
constexpr std::chrono::seconds kLongestTest{120};

class FailurePrinter : public ::testing::EmptyTestEventListener {
  // GoogleTest holds the lock of current_test_info() while it reports a failure, so the name is kept from
  // here.
  void OnTestStart(const ::testing::TestInfo& test) override {
    name_ = std::string(test.test_suite_name()) + "." + test.name();
  }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s failed at %s:%d\n%s\n", world().rank(), name_.c_str(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(),
                 result.message());
  }
  std::string name_ = "the set-up";
};

class ProgressReporter : public ::testing::EmptyTestEventListener {
 public:
  explicit ProgressReporter(Watchdog* watchdog) : watchdog_(watchdog) {}

 private:
  void OnTestStart(const ::testing::TestInfo&) override { watchdog_->progress("test"); }
  Watchdog* watchdog_;
};

// DPFA_TEST_WORD_SUMS = reduce_scatter runs the tests of a program on the other way to add words.
comm::WordSums word_sums() {
  const char* wanted = std::getenv("DPFA_TEST_WORD_SUMS");
  if (wanted == nullptr) return comm::WordSums::kByAllReduce;
  if (std::string(wanted) != "reduce_scatter")
    throw std::runtime_error("DPFA_TEST_WORD_SUMS: expected reduce_scatter, or nothing");
  return comm::WordSums::kByReduceScatter;
}

int run(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  world_of_all_tests = comm::make_mpi_communicator(std::nullopt, word_sums());
  Watchdog watchdog(world().rank(), kLongestTest);
  ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
  listeners.Append(new ProgressReporter(&watchdog));
  if (world().rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailurePrinter);
  }
  int64_t result = RUN_ALL_TESTS();
  world().all_reduce_max(std::span(&result, 1));
  world_of_all_tests.reset();
  return static_cast<int>(result);
}

}  // namespace

comm::Communicator& world() { return *world_of_all_tests; }

}  // namespace dpfa::testing

int main(int argc, char** argv) {
  try {
    return dpfa::testing::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    if (dpfa::testing::world_of_all_tests) dpfa::testing::world_of_all_tests->abort(1);
    return 1;
  }
}
