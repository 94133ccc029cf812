// What the operating system gives as randomness and what is derived from it for noise, draws and dithers is
// found nowhere in what a run writes and prints.
#include <gtest/gtest.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <mutex>

#include "src/base/stream_key.h"
#include "src/train/trainer.h"
#include "tests/support/tiny_run.h"

namespace dpfa::train {
namespace {

std::mutex mutex;
std::vector<std::array<uint8_t, 32>> roots;  // every 32 bytes that this program drew

void keep(const void* bytes, size_t size) {
  std::array<uint8_t, 32> root;
  if (size != root.size()) return;
  std::memcpy(root.data(), bytes, size);
  const std::lock_guard lock(mutex);
  roots.push_back(root);
}

}  // namespace
}  // namespace dpfa::train

// In place of the C library's: the kernel's answer, kept.
extern "C" ssize_t getrandom(void* bytes, size_t size, unsigned flags) {
  const ssize_t got = syscall(SYS_getrandom, bytes, size, flags);
  if (got >= 0) dpfa::train::keep(bytes, static_cast<size_t>(got));
  return got;
}

namespace dpfa::train {
namespace {

template <typename Bytes>
std::vector<std::string> spellings(const Bytes& bytes) {
  const std::string raw(reinterpret_cast<const char*>(bytes.data()), sizeof(bytes));
  std::string hex;
  for (const unsigned char byte : raw) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", byte);
    hex += digits;
  }
  return {raw, raw.substr(8, 16), hex, hex.substr(16, 32)};  // half of a key is too much
}

TEST(Secrets, OfNoRootAndNoKeyIsATraceInWhatARunWritesAndPrints) {
  for (const std::string noise : {"after_sum", "shares"}) {
    testing::TemporaryFolder folder;
    testing::write_dataset(folder / "train", testing::made_records(64));
    RunOptions run;
    run.config = testing::tiny_config(folder / "train", folder / "run");
    run.config.aggregation.noise = noise;
    run.config.train.checkpoint_every = 2;
    roots.clear();
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    ASSERT_EQ(run_training(run, *comm::make_self_communicator()), Outcome::kFinished);
    std::string all = ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr();
    size_t files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "run"))
      if (entry.is_regular_file()) all += testing::read_text(entry.path()), ++files;
    EXPECT_GE(files, 10u);
    ASSERT_GE(roots.size(), 2u) << "the roots were not seen: nothing was checked";
    size_t looked_for = 0;
    for (const auto& bytes : roots) {
      const RootKey root = RootKey::from_bytes(bytes);
      std::vector<std::string> secrets = spellings(bytes);
      for (uint32_t purpose = 1; purpose <= 16; ++purpose)
        for (const std::string& text : spellings(root.stream(static_cast<Purpose>(purpose)).words()))
          secrets.push_back(text);
      for (const std::string& secret : secrets) {
        ++looked_for;
        EXPECT_EQ(all.find(secret), std::string::npos) << noise;
      }
    }
    EXPECT_GE(looked_for, 100u);
    // The search finds what is there: the id that the run did draw and print.
    EXPECT_NE(all.find("run_id"), std::string::npos);
  }
}

}  // namespace
}  // namespace dpfa::train
