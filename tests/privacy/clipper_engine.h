// A small model with its plan and clipper, the settings that tests run it in, and ten made examples of every
// kind.
#pragma once

#include <cstdint>
#include <limits>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "src/privacy/clipper.h"
#include "tests/support/clipped_sum_access.h"
#include "tests/support/engine_oracle.h"

namespace dpfa::privacy {

using test::ClippedSumAccess;
using test::Example;

inline constexpr int64_t kVocab = 61, kTokens = 32;
// The token whose embedding row tests make non-finite: in the last example alone.
inline constexpr int64_t kPoisoned = 5;
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Setting {
  std::string numerics = "exact";
  at::ScalarType compute = at::kFloat;
  bool tied = true;
  double max_grad_norm = 1;
  double weight_scale = 3;
  model::Execution execution = {};
  std::string norm_method = "gram";
  bool constant_work = false;
  std::string clipping = "flat";
};

inline std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << s.numerics << ", " << c10::toString(s.compute) << (s.tied ? ", tied" : ", untied")
             << ", C = " << s.max_grad_norm << ", weights x " << s.weight_scale << ", " << s.norm_method
             << (s.execution.recompute_layers ? ", recomputed" : "")
             << (s.constant_work ? ", constant work" : "") << ", " << s.clipping;
}

class Engine {
 public:
  explicit Engine(const Setting& setting)
      : shape_{.layers = 2,
               .width = 32,  // narrower heads have no neighbours in attention
               .heads = 2,
               .positions = kTokens,
               .vocab = kVocab,
               .tied_head = setting.tied},
        weights_(test::made_parameters(shape_, setting.weight_scale)),
        plan_(test::make_plan({.numerics = setting.numerics,
                               .max_grad_norm = setting.max_grad_norm,
                               .clipping = setting.clipping},
                              shape_.parameter_count())),
        model_(shape_, setting.compute, setting.execution),
        clipper_(plan_, model_, {.method = setting.norm_method}, setting.constant_work) {
    model_.bind(weights_);
  }

  const plan::PrivacyPlan& plan() const { return plan_; }
  Clipper& clipper() { return clipper_; }
  int64_t parameters() const { return shape_.parameter_count(); }
  test::OracleGradient oracle(const Example& example) const {
    return test::oracle_gradient(shape_, weights_, example);
  }
  // Puts a number into the embedding row of kPoisoned.
  void poison(float bad) {
    weights_[kPoisoned * shape_.width + 3] = bad;
    model_.weights_changed();
  }

  // The integer sum over `draw`, in microbatches of `slots`.
  std::vector<int64_t> sum(std::span<const Example> examples, std::span<const int64_t> draw, int64_t slots,
                           const model::Dropout* dropout = nullptr) {
    ClippedSum sum = clipper_.zero();
    for (size_t first = 0; first < draw.size(); first += slots) {
      const auto chunk = draw.subspan(first, std::min<size_t>(slots, draw.size() - first));
      clipper_.accumulate(test::pack(examples, chunk, slots, kTokens), dropout, sum);
    }
    return ClippedSumAccess::total(sum);
  }
  double norm(std::span<const int64_t> integers) const { return test::l2(integers) * plan_.grid(); }

 private:
  plan::Gpt2Shape shape_;
  std::vector<float> weights_;
  plan::PrivacyPlan plan_;
  model::Gpt2 model_;
  Clipper clipper_;
};

// 0 to 4: whole records. Then one token again and again, records of 3 and of 1 token, one without targets,
// and the only one with the token kPoisoned.
inline std::vector<Example> made_examples() {
  std::vector<Example> examples;
  for (uint64_t seed = 0; seed < 5; ++seed) examples.push_back(test::random_example(seed, kTokens, kVocab));
  examples.push_back(test::repeated_example(7, kTokens));
  examples.push_back(test::padded_example(20, 3, kTokens, kVocab));
  examples.push_back(test::padded_example(21, 1, kTokens, kVocab));
  examples.push_back(test::without_targets(22, kTokens, kVocab));
  examples.push_back(test::random_example(23, kTokens, kVocab));
  for (Example& example : examples)
    for (int64_t& id : example.ids) id = id == kPoisoned ? kPoisoned + 1 : id;
  examples.back().ids[0] = kPoisoned;
  return examples;
}

}  // namespace dpfa::privacy
