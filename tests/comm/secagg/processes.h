// What tests of secure sums between the processes of an mpirun share: identities, contributions, and what all
// ranks say of one attempt.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "comm/secagg/secure_sum.h"
#include "src/base/random/chacha20.h"
#include "tests/support/mpi_world.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/wiretap.h"

namespace dpfa::comm::secagg {

using testing::Wiretap;
using testing::world;

// Every rank makes its identity; the public halves become the allow-list.
class Processes : public ::testing::Test {
 protected:
  Processes() : own_(Identity::generate()), allow_list_(list(own_)) {}

  SessionKeys agree(int colluders, const Terms& terms = {{"plan", "abc"}}) {
    return agree_on_keys(world(), own_, allow_list_, colluders, terms);
  }

  Identity own_;
  AllowList allow_list_;

 private:
  static AllowList list(const Identity& own) {
    const auto all = world().all_gather(std::as_bytes(std::span(own.public_key())));
    std::string text;
    for (int rank = 0; rank < world().size(); ++rank) {
      Bytes32 key;
      std::memcpy(key.data(), all.data() + key.size() * static_cast<size_t>(rank), key.size());
      text += allow_list_line(rank, key, "owner") + "\n";
    }
    return AllowList::parse(text, "of a test");
  }
};

// Contributions whose sum over all ranks stays within the lane's range.
inline std::vector<int32_t> contribution(int rank, LaneLayout layout) {
  std::vector<uint32_t> words(static_cast<size_t>(layout.lanes));
  fill_words(StreamKey({static_cast<uint32_t>(rank), 77}), 0, 0, words);
  std::vector<int32_t> lanes(words.size());
  const int64_t bound = ((int64_t{1} << (layout.bits - 1)) - 1) / world().size();
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = static_cast<int32_t>(static_cast<int64_t>(words[i]) % (2 * bound + 1) - bound);
  return lanes;
}

inline std::vector<int32_t> expected_sum(LaneLayout layout) {
  std::vector<int32_t> sum(static_cast<size_t>(layout.lanes));
  for (int rank = 0; rank < world().size(); ++rank) {
    const std::vector<int32_t> one = contribution(rank, layout);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += one[i];
  }
  return sum;
}

// The different sentences of all ranks, the same set on every rank.
inline std::set<std::string> said_by_all(const std::string& sentence) {
  std::string padded = sentence;
  padded.resize(600);
  const std::vector<std::byte> all = world().all_gather(std::as_bytes(std::span(padded)));
  std::set<std::string> sentences;
  for (size_t first = 0; first < all.size(); first += padded.size())
    sentences.insert(reinterpret_cast<const char*>(all.data() + first));
  return sentences;
}

}  // namespace dpfa::comm::secagg
