// Keys and statistics for tests of secure sums.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "comm/secagg/key_agreement.h"
#include "comm/secagg/mask_graph.h"

namespace dpfa::test {
struct MasksAccess {
  static const StreamKey& key(const comm::secagg::Masks& masks, size_t number) {
    return masks.keys_.at(number).key;
  }
};
}  // namespace dpfa::test

namespace dpfa::testing {

// The stream that ranks a and b would share: fixed, so that tests give the same answer every time.
inline StreamKey fixed_pair_key(int a, int b, uint32_t use) {
  return RootKey::from_insecure_seed(use).stream(
      Purpose::kMask, static_cast<uint64_t>(std::min(a, b)) << 32 | static_cast<uint64_t>(std::max(a, b)));
}

inline comm::secagg::Masks fixed_masks(int rank, int ranks, int colluders, uint32_t use) {
  comm::secagg::Masks masks;
  for (const int other : comm::secagg::mask_neighbours(rank, ranks, colluders))
    masks.add_key(fixed_pair_key(rank, other, use), rank > other);
  return masks;
}

inline comm::secagg::SessionKeys fixed_session(int rank, int ranks, int colluders = 1) {
  comm::secagg::Bytes32 group;
  group.fill(9);
  return {fixed_masks(rank, ranks, colluders, 1), fixed_masks(rank, ranks, colluders, 2),
          comm::secagg::Secret(group)};
}

// Identities of `ranks` ranks and the allow-list that names them.
struct Members {
  std::vector<comm::secagg::Identity> identities;
  comm::secagg::AllowList allow_list;

  explicit Members(int ranks) : allow_list(list(ranks, identities)) {}

 private:
  static comm::secagg::AllowList list(int ranks, std::vector<comm::secagg::Identity>& identities) {
    std::string text;
    for (int rank = 0; rank < ranks; ++rank) {
      identities.push_back(comm::secagg::Identity::generate());
      text += comm::secagg::allow_list_line(rank, identities.back().public_key(), "owner") + "\n";
    }
    return comm::secagg::AllowList::parse(text, "of a test");
  }
};

// Standard deviations by which the chi-square of the byte counts (255 degrees of freedom) exceeds its mean.
// For uniform bytes more than 7 has a probability below 1e-8.
inline double byte_excess(std::span<const std::byte> bytes) {
  std::vector<double> counts(256, 0);
  for (const std::byte byte : bytes) counts[static_cast<size_t>(byte)] += 1;
  const double expected = static_cast<double>(bytes.size()) / 256;
  double chi_square = 0;
  for (const double count : counts) chi_square += (count - expected) * (count - expected) / expected;
  return (chi_square - 255) / std::sqrt(2 * 255.0);
}

template <typename T>
double byte_excess(const std::vector<T>& values) {
  return byte_excess(std::as_bytes(std::span(values)));
}

// Correlation of two vectors of words, as signed numbers.
inline double correlation(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<int32_t>(a[i]), y = static_cast<int32_t>(b[i]);
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return ab / std::sqrt(aa * bb);
}

inline std::vector<uint32_t> words_of(const std::vector<std::byte>& bytes) {
  std::vector<uint32_t> words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), 4 * words.size());
  return words;
}

}  // namespace dpfa::testing
