// The decoder that keeps keys and values computes the same function as a pass over the whole text.
#include "src/model/gpt2_decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "src/base/error.h"
#include "src/model/gpt2.h"

namespace dpfa::model {
namespace {

std::vector<float> made_weights(const plan::Gpt2Shape& shape) {
  std::vector<float> weights(shape.parameter_count());
  initialise_gpt2(shape, RootKey::from_insecure_seed(3).stream(Purpose::kInit), weights);
  for (float& w : weights) w = 4 * w + 0.01f;
  return weights;
}

TEST(Gpt2Decoder, EveryPositionHasTheLogitsOfAWholePass) {
  for (const bool tied : {true, false}) {
    const plan::Gpt2Shape shape = {3, 24, 3, 17, 29, tied};
    const std::vector<float> weights = made_weights(shape);
    Gpt2 whole(shape, at::kFloat);
    whole.bind(weights);
    Gpt2Decoder decoder(shape, weights, shape.positions);
    for (const int64_t seed : {1, 2}) {  // the second text after forgetting the first
      decoder.keep(0);
      std::vector<int64_t> ids;
      for (int64_t t = 0; t < shape.positions; ++t) {
        ids.push_back((t * t * 7 + seed * 11 + t) % shape.vocab);
        const std::vector<float> expected = whole.next_token_logits(ids);
        const auto found = decoder.next(ids.back());
        ASSERT_EQ(decoder.tokens(), t + 1);
        for (int64_t v = 0; v < shape.vocab; ++v)
          EXPECT_NEAR(found[v], expected[v], 1e-4 * (1 + std::fabs(expected[v])))
              << "position " << t << ", token " << v;
      }
    }
  }
}

TEST(Gpt2Decoder, BranchesContinueOneTextEachInItsWay) {
  const plan::Gpt2Shape shape = {2, 24, 3, 17, 29, true};
  const std::vector<float> weights = made_weights(shape);
  Gpt2 whole(shape, at::kFloat);
  whole.bind(weights);
  for (const int64_t shared : {0, 3}) {
    Gpt2Decoder trunk(shape, weights, 8);
    const std::vector<int64_t> start = {4, 9, 2};
    for (int64_t t = 0; t < shared; ++t) trunk.next(start[t]);
    Gpt2Decoder branches = trunk.branch(3);
    for (const int64_t round : {1, 5}) {  // the second round forgets the first
      branches.keep(shared);
      for (int64_t t = 0; t < 4; ++t) {
        const auto token = [&](int64_t b, int64_t at) { return (round * at + 7 * b + at) % shape.vocab; };
        const auto logits = branches.next(std::vector<int64_t>{token(0, t), token(1, t), token(2, t)});
        for (int64_t b = 0; b < 3; ++b) {
          std::vector<int64_t> ids(start.begin(), start.begin() + shared);
          for (int64_t at = 0; at <= t; ++at) ids.push_back(token(b, at));
          const std::vector<float> expected = whole.next_token_logits(ids);
          for (int64_t v = 0; v < shape.vocab; ++v)
            EXPECT_NEAR(logits[b * shape.vocab + v], expected[v], 1e-4 * (1 + std::fabs(expected[v])))
                << "branch " << b << ", token " << v;
        }
      }
    }
  }
}

TEST(Gpt2Decoder, MoreTokensThanPositionsOrAnUnknownTokenIsAnError) {
  const plan::Gpt2Shape shape = {1, 8, 2, 2, 5, true};
  const std::vector<float> weights = made_weights(shape);
  Gpt2Decoder decoder(shape, weights, shape.positions);
  EXPECT_THROW(decoder.next(5), InternalError);
  EXPECT_THROW(decoder.next(-1), InternalError);
  decoder.next(0);
  decoder.next(4);
  EXPECT_THROW(decoder.next(0), InternalError);
  EXPECT_THROW(decoder.keep(3), InternalError);
  EXPECT_THROW(decoder.branch(2).next(0), InternalError);
  EXPECT_THROW(Gpt2Decoder(shape, weights, 3), InternalError);
}

}  // namespace
}  // namespace dpfa::model
