// Constant work: what a record is, and whether it counts, changes neither what is added nor when the sum
// moves on to 64 bits; and the sum is that of other work.
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

#include "tests/privacy/clipper_engine.h"

namespace dpfa::privacy {
namespace {

const Setting kSettings[] = {{},
                             {.compute = at::kBFloat16},
                             {.execution = {.recompute_layers = true}},
                             {.numerics = "fp32", .norm_method = "direct"},
                             {.numerics = "fp32", .norm_method = "materialise"}};

// Of made_examples(); the second is not finite where the head is not tied.
constexpr int64_t kWithoutTargets = 8, kNotFinite = 9;

struct PoisonedEngine : Engine {
  PoisonedEngine(Setting setting, bool tied, bool constant_work)
      : Engine((setting.tied = tied, setting.constant_work = constant_work, setting)) {
    if (!tied) poison(kNan);
  }
};

// A record that is nobody's.
data::Microbatch nobody() {
  data::Microbatch microbatch = data::made_up_microbatch(1, kTokens, kVocab);
  microbatch.records = {-1};
  return microbatch;
}

// Of 400 passes, all sums move on to 64 bits at the same ones and have had them from the first, whether 0,
// 300 or 400 are for somebody; and the sum is that of the drawn records.
TEST(ConstantWork, SumsMoveOnTo64BitsByTheNumberOfThePass) {
  constexpr int64_t kRoom = 400;
  Engine engine({.constant_work = true}), plain({});
  const std::vector<Example> examples = made_examples();
  std::vector<std::vector<int64_t>> counts;
  for (const int64_t drawn : {0, 300, 400}) {
    ClippedSum sum = engine.clipper().zero(std::nullopt, kRoom);
    std::vector<int64_t> draw;
    counts.emplace_back();
    for (int64_t pass = 0; pass < kRoom; ++pass) {
      const int64_t record[] = {pass % 5};
      const bool is_drawn = pass < drawn;
      if (is_drawn) draw.push_back(record[0]);
      engine.clipper().accumulate(is_drawn ? test::pack(examples, record, 1, kTokens) : nobody(), nullptr,
                                  sum);
      EXPECT_TRUE(ClippedSumAccess::has_64_bits(sum));
      counts.back().push_back(ClippedSumAccess::since_flush(sum));
    }
    EXPECT_EQ(ClippedSumAccess::total(sum), plain.sum(examples, draw, 1)) << drawn;
  }
  EXPECT_EQ(counts[0], counts[1]);
  EXPECT_EQ(counts[0], counts[2]);
  EXPECT_LT(counts[0].back(), kRoom);
  EXPECT_FALSE(ClippedSumAccess::has_64_bits(engine.clipper().zero(std::nullopt, 10)));
}

// The sizes of all that is added, in any order, and whether any of it counts.
class AddedSizes final : public kernels::ContributionSink {
 public:
  void add(int64_t, std::span<const float> v, double factor) override { note(v.size(), factor); }
  void add(int64_t, std::span<const c10::BFloat16> v, double factor) override { note(v.size(), factor); }
  void add(int64_t, std::span<const double> v, double factor) override { note(v.size(), factor); }
  std::vector<size_t> sizes() const {
    std::vector<size_t> sorted = sizes_;
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }
  bool counts() const { return counts_; }

 private:
  void note(size_t size, double factor) {
    const std::lock_guard lock(mutex_);
    sizes_.push_back(size);
    counts_ = counts_ || factor > 0;
  }
  std::mutex mutex_;
  std::vector<size_t> sizes_;
  bool counts_ = false;
};

TEST(ConstantWork, AddsAsMuchForEveryRecordWhetherItCountsOrNot) {
  const std::vector<Example> examples = made_examples();
  for (const Setting& setting : kSettings)
    for (const bool tied : {true, false}) {
      PoisonedEngine engine(setting, tied, /*constant_work=*/true);
      const auto added = [&](const data::Microbatch& microbatch, bool counts) {
        AddedSizes sink;
        engine.clipper().accumulate_into(microbatch, nullptr, sink);
        EXPECT_EQ(sink.counts(), counts) << setting;
        return sink.sizes();
      };
      const int64_t whole_record[] = {0};
      const std::vector<size_t> whole = added(test::pack(examples, whole_record, 1, kTokens), true);
      EXPECT_FALSE(whole.empty());
      for (const int64_t record : {5, 6, 7, 8, 9}) {
        const int64_t alone[] = {record};
        const bool counts = record != kWithoutTargets && (tied || record != kNotFinite);
        EXPECT_EQ(added(test::pack(examples, alone, 1, kTokens), counts), whole)
            << setting << ", example " << record;
      }
      EXPECT_EQ(added(nobody(), false), whole) << setting;
    }
}

// Rows of padding and zeros between token rows change the order of some sums: their last bit, and so each
// record's share of a number by a unit at most.
TEST(ConstantWork, GivesTheSumOfOtherWork) {
  const std::vector<Example> examples = made_examples();
  const std::vector<int64_t> draw = {0, 6, 2, 5, 3, 8, 4, 7, 9};
  for (const Setting& setting : kSettings)
    for (const bool tied : {true, false}) {
      PoisonedEngine plain(setting, tied, false), constant(setting, tied, true);
      const std::vector<int64_t> a = plain.sum(examples, draw, 1), b = constant.sum(examples, draw, 1);
      EXPECT_NE(a, std::vector<int64_t>(a.size()));
      for (size_t i = 0; i < a.size(); ++i)
        ASSERT_LE(std::abs(a[i] - b[i]), static_cast<int64_t>(draw.size())) << setting << ", " << i;
    }
}

}  // namespace
}  // namespace dpfa::privacy
