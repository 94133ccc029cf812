#include "comm/secagg/lane_layout.h"

#include <string>

#include "src/base/check.h"
#include "src/base/error.h"

namespace dpfa::comm::secagg {
namespace {

template <int kBits, typename Word>
void pack_all(std::span<const int32_t> lanes, std::span<Word> words) {
  constexpr size_t kLanes = 8 * sizeof(Word) / kBits;
  DPFA_CHECK(words.size() == (lanes.size() + kLanes - 1) / kLanes);
  const size_t whole = lanes.size() / kLanes;
  for (size_t w = 0; w < whole; ++w) words[w] = word_of<kBits, Word>(lanes.data() + kLanes * w, kLanes);
  if (whole < words.size())
    words[whole] = word_of<kBits, Word>(lanes.data() + kLanes * whole, lanes.size() - kLanes * whole);
}

template <int kBits, typename Word>
void unpack_all(std::span<const Word> words, std::span<int32_t> lanes) {
  constexpr size_t kLanes = 8 * sizeof(Word) / kBits;
  DPFA_CHECK(words.size() == (lanes.size() + kLanes - 1) / kLanes);
  const size_t whole = lanes.size() / kLanes;
  for (size_t w = 0; w < whole; ++w) lanes_of<kBits, Word>(words[w], lanes.data() + kLanes * w, kLanes);
  if (whole < words.size())
    lanes_of<kBits, Word>(words[whole], lanes.data() + kLanes * whole, lanes.size() - kLanes * whole);
}

}  // namespace

void LaneLayout::check() const {
  if (bits != 16 && bits != 21 && bits != 32)
    throw ConfigError("lane_bits = " + std::to_string(bits) + ": lanes have 16, 21 or 32 bits");
  DPFA_CHECK(lanes >= 0, lanes, " lanes");
}

void pack(std::span<const int32_t> lanes, std::span<uint32_t> words) { pack_all<16>(lanes, words); }
void pack(std::span<const int32_t> lanes, std::span<uint64_t> words) { pack_all<21>(lanes, words); }
void unpack(std::span<const uint32_t> words, std::span<int32_t> lanes) { unpack_all<16>(words, lanes); }
void unpack(std::span<const uint64_t> words, std::span<int32_t> lanes) { unpack_all<21>(words, lanes); }

}  // namespace dpfa::comm::secagg
