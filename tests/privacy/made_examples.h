// Ten made examples of every kind, for tests of what a record may contribute.
#pragma once

#include <vector>

#include "tests/support/engine_oracle.h"

namespace dpfa::test {

// 0 to 4: whole records. Then one token again and again, records of 3 and of 1 token, one without targets,
// and the only one with the token `poisoned`.
inline std::vector<Example> examples_of_every_kind(int64_t tokens, int64_t vocab, int64_t poisoned) {
  std::vector<Example> examples;
  for (uint64_t seed = 0; seed < 5; ++seed) examples.push_back(random_example(seed, tokens, vocab));
  examples.push_back(repeated_example(7, tokens));
  examples.push_back(padded_example(20, 3, tokens, vocab));
  examples.push_back(padded_example(21, 1, tokens, vocab));
  examples.push_back(without_targets(22, tokens, vocab));
  examples.push_back(random_example(23, tokens, vocab));
  for (Example& example : examples)
    for (int64_t& id : example.ids) id = id == poisoned ? poisoned + 1 : id;
  examples.back().ids[0] = poisoned;
  return examples;
}

}  // namespace dpfa::test
