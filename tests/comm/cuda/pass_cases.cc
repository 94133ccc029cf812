// The pass over a contribution against its per-thread code on the host, which the host's tests compare with
// the CPU's pass.
#include "comm/cuda/device_pass.h"

#include <bit>

#include "src/base/cuda/device.h"
#include "tests/comm/cuda/host_pass.h"
#include "tests/kernels/cuda/suite.h"

namespace dpfa::kernels::cuda::suite {
namespace {

using comm::cuda::DevicePass;
using comm::cuda::Group;
using comm::cuda::kAlignment;
using comm::cuda::kHashSlice;
using comm::cuda::LaneRange;
using comm::cuda::MaskKey;
using comm::cuda::PlainLanes;
using comm::cuda::RankSum;
using comm::cuda::SliceHashes;
using dpfa::cuda::DeviceArray;
namespace host = comm::cuda::testing;

constexpr uint64_t kNonce = 5 | uint64_t{2} << 32, kDraw = 0x300000001;

StreamKey key_of(uint64_t number) { return RootKey::from_insecure_seed(number).stream(Purpose::kMask); }

struct Keys {
  comm::secagg::Masks device;
  std::vector<MaskKey> plain;
  explicit Keys(int count) {
    for (int k = 0; k < count; ++k) {
      device.add_key(key_of(static_cast<uint64_t>(k)), k % 2 == 1);
      plain.push_back(host::mask_key(key_of(static_cast<uint64_t>(k)), k % 2 == 1));
    }
  }
};

SliceHashes some_points() {
  return {{0x123456789ABCDEF, 0xFEDCBA987654321}, {77, comm::secagg::kHashPrime - 1}};
}

// Three levels, and a table of 256 rows: any numbers say whether the same row is found and compared.
struct Noise {
  std::vector<int64_t> weights = {1, 13, 13 * 16};
  std::vector<uint64_t> table;
  Noise() {
    for (uint64_t word = 0; word < 2 * 256; ++word) table.push_back((word + 1) * 0x9E3779B97F4A7C15);
  }
};

std::vector<int32_t> some_lanes(int64_t count) {
  std::vector<int32_t> lanes(static_cast<size_t>(count));
  for (size_t i = 0; i < lanes.size(); ++i)
    lanes[i] = static_cast<int32_t>(static_cast<uint32_t>(i + 1) * 2654435761u);
  return lanes;
}

struct Problem {
  int64_t first, count;
  int keys;
};
std::vector<Problem> problems() {
  std::vector<Problem> all;
  for (const int64_t count : {1, 16, 17, 47, 49, 4095, 4097, 24577, 1000003})
    for (const int keys : {0, 1, 4}) all.push_back({0, count, keys});
  all.push_back({kHashSlice - kAlignment, kAlignment + 5001, 2});
  all.push_back({0, 4300001, 0});  // more blocks than threads add up their hashes
  return all;
}

template <int kBits>
int64_t words_of(int64_t lanes) {
  return (lanes + Group<kBits>::kPerWord - 1) / Group<kBits>::kPerWord;
}

// Makes the words of a problem in two calls, of which the second may be empty.
template <typename Call>
void in_two_ranges(const Problem& p, const Call& call) {
  const int64_t cut = p.count > kAlignment ? kAlignment : p.count;
  call(LaneRange{p.first, cut}, 0);
  call(LaneRange{p.first + kAlignment, p.count - cut}, cut);
}

template <int kBits>
void expect_rank_sums(Failures& f, const Problem& p) {
  using Word = typename Group<kBits>::Word;
  const Keys keys(p.keys);
  const Noise noise;
  const RankShare share = {5, 1000000, 1};
  const std::vector<int64_t> sums = host::some_sums(p.count);
  RankSum source = {{{},
                     {},
                     kDraw,
                     share.clamp,
                     share.dither_shift,
                     static_cast<int32_t>(noise.weights.size()),
                     std::countr_zero(noise.table.size() / 2),
                     noise.weights.data(),
                     noise.table.data()},
                    sums.data(),
                    p.first};
  std::copy_n(key_of(50).words().begin(), 8, source.share.noise_key);
  std::copy_n(key_of(51).words().begin(), 8, source.share.dither_key);
  std::vector<Word> expected(static_cast<size_t>(words_of<kBits>(p.count)));
  const SliceHashes hashes =
      host::make_words<kBits>(source, keys.plain, host::powers_of(some_points(), Group<kBits>::kLanes),
                              kNonce, p.first, p.first + p.count, expected.data());

  DevicePass pass(kBits);
  pass.set_keys(keys.device.keys());
  pass.set_share({share, key_of(50), key_of(51), noise.weights, noise.table});
  pass.set_points(some_points());
  const DeviceArray<int64_t> sum{std::span<const int64_t>(sums)};
  DeviceArray<Word> words(static_cast<int64_t>(expected.size()));
  in_two_ranges(p, [&](LaneRange range, int64_t done) {
    pass.make_words(range, kDraw, kNonce, sum.data() + done, words.data() + words_of<kBits>(done), nullptr);
  });
  f.expect(words.to_host() == expected, "words of ", kBits, " bits, ", p.count, " lanes, ", p.keys, " keys");
  f.expect(pass.made_hashes(nullptr) == hashes, "hashes of ", kBits, " bits, ", p.count, " lanes");
}

void contributions_have_the_words_and_hashes_of_the_host(Failures& f) {
  for (const Problem& p : problems()) {
    expect_rank_sums<16>(f, p);
    expect_rank_sums<21>(f, p);
    expect_rank_sums<32>(f, p);
  }
}

template <int kBits>
void expect_there_and_back(Failures& f, const Problem& p) {
  using Word = typename Group<kBits>::Word;
  const Keys keys(p.keys);
  std::vector<int32_t> plain = some_lanes(p.count);
  for (int32_t& lane : plain) lane >>= 32 - kBits;
  const auto powers = host::powers_of(some_points(), Group<kBits>::kLanes);
  std::vector<Word> expected(static_cast<size_t>(words_of<kBits>(p.count)));
  const SliceHashes hashes = host::make_words<kBits>(PlainLanes{plain.data(), p.first}, keys.plain, powers,
                                                     kNonce, p.first, p.first + p.count, expected.data());

  DevicePass pass(kBits), open(kBits);
  pass.set_keys(keys.device.keys());
  pass.set_points(some_points());
  open.set_points(some_points());
  const DeviceArray<int32_t> lanes{std::span<const int32_t>(plain)};
  DeviceArray<Word> words(static_cast<int64_t>(expected.size()));
  in_two_ranges(p, [&](LaneRange range, int64_t done) {
    pass.make_words(range, kNonce, lanes.data() + done, words.data() + words_of<kBits>(done), nullptr);
  });
  f.expect(words.to_host() == expected, "words of ", kBits, " bits, ", p.count, " plain lanes");
  f.expect(pass.made_hashes(nullptr) == hashes, "hashes of ", kBits, " bits, ", p.count, " plain lanes");

  const LaneRange range = {p.first, p.count};
  open.make_words(range, kNonce, lanes.data(), words.data(), nullptr);
  DeviceArray<int32_t> back(p.count);
  auto* to = kBits == 32 ? reinterpret_cast<int32_t*>(words.data()) : back.data();  // in place
  open.read_words(range, words.data(), to, nullptr);
  f.expect(open.read_hashes(nullptr) == hashes, "hashes of what was read, ", kBits, " bits, ", p.count);
  std::vector<int32_t> result(plain.size());
  dpfa::cuda::check(cudaMemcpy(result.data(), to, result.size() * sizeof(int32_t), cudaMemcpyDeviceToHost),
                    "copy from the device");
  f.expect(result == plain, "lanes that were read, ", kBits, " bits, ", p.count);
}

void lanes_come_back_and_their_hashes_are_those_of_the_host(Failures& f) {
  for (const Problem& p : problems()) {
    expect_there_and_back<16>(f, p);
    expect_there_and_back<21>(f, p);
    expect_there_and_back<32>(f, p);
  }
}

}  // namespace

std::vector<Case> pass_cases() {
  return {
      {"ContributionsHaveTheWordsAndHashesOfTheHost", contributions_have_the_words_and_hashes_of_the_host},
      {"LanesComeBackAndTheirHashesAreThoseOfTheHost",
       lanes_come_back_and_their_hashes_are_those_of_the_host}};
}

}  // namespace dpfa::kernels::cuda::suite
