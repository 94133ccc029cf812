// Secure sums and key agreements between the processes of a real mpirun, of which one sends, or is shown,
// something else than it should. Runs on every rank.
#include <gtest/gtest.h>
#include <mpi.h>

#include "src/base/error.h"
#include "tests/comm/secagg/processes.h"

// What this rank sends in the gather of a sum by reduce-scatter: the slice that it has added (MPI's profiling
// interface).
static std::function<void(std::span<std::byte>)> alter_slice;

extern "C" int MPI_Allgatherv(const void* slice, int count, MPI_Datatype type, void* all, const int counts[],
                              const int begins[], MPI_Datatype type_of_all, MPI_Comm comm) {
  int word = 0;
  PMPI_Type_size(type, &word);
  std::vector<std::byte> sent(static_cast<size_t>(count) * static_cast<size_t>(word));
  if (!sent.empty()) std::memcpy(sent.data(), slice, sent.size());
  if (alter_slice) alter_slice(sent);
  return PMPI_Allgatherv(sent.data(), count, type, all, counts, begins, type_of_all, comm);
}

namespace dpfa::comm::secagg {
namespace {

using testing::fixed_session;
using Bytes = std::span<std::byte>;
using Lanes = std::vector<int32_t>;

// The operations of one sum on a wiretap of its own.
constexpr int kWords = 0, kHashes = 1, kVerdicts = 2, kOfOneSum = 3;

int last_rank() { return world().size() - 1; }

// A tap on what `rank` sends or receives in operation `number`, and on nothing else.
Wiretap::Tap on_rank(int rank, int number, const std::function<void(Bytes)>& alter) {
  return [=](int operation, Bytes bytes) {
    if (operation == number && world().rank() == rank) alter(bytes);
  };
}

// Runs one step; expects every rank to find it void in the same words, to keep nothing of it and to send
// nothing after the verdicts.
void expect_void(LaneLayout layout, Wiretap wire, const std::string& how) {
  SecureSum sum(wire, layout.bits, fixed_session(world().rank(), world().size()));
  Lanes lanes = contribution(world().rank(), layout);
  std::string said = "took the sum";
  try {
    sum.sum(0, 0, lanes);
  } catch (const IntegrityError& error) {
    said = error.what();
  }
  const std::set<std::string> verdicts = said_by_all(said);
  EXPECT_EQ(verdicts.size(), 1u) << how;
  EXPECT_NE(verdicts.begin()->find("void on all ranks"), std::string::npos)
      << how << ": " << *verdicts.begin();
  EXPECT_EQ(lanes, Lanes(lanes.size())) << how;
  EXPECT_EQ(wire.operations(), kOfOneSum) << how;
}

TEST(TamperedSum, WithAnyBitAlteredIsVoidOnAllRanks) {
  const LaneLayout layout{32, 40};
  for (size_t bit = 0; bit < 32 * 40; bit += 17) {
    const int rank = static_cast<int>(bit) % world().size();
    expect_void(
        layout,
        Wiretap(on_rank(rank, kWords, [&](Bytes words) { words[bit / 8] ^= std::byte(1 << bit % 8); })),
        "bit " + std::to_string(bit));
  }
}

TEST(TamperedSum, WithABitAlteredForOneRankAloneIsVoidOnAllRanks) {
  for (const int bits : {16, 21, 32})
    for (const int operation : {kWords, kHashes})
      for (int receiver = 0; receiver < world().size(); ++receiver)
        expect_void({bits, 40},
                    Wiretap({}, on_rank(receiver, operation, [](Bytes sum) { sum[5] ^= std::byte(1); })),
                    "operation " + std::to_string(operation) + " for rank " + std::to_string(receiver));
}

TEST(TamperedSum, WithASliceAlteredBeforeItIsGatheredIsVoidOnAllRanks) {
  const auto by_slices = make_mpi_communicator(std::nullopt, WordSums::kByReduceScatter);
  for (const int bits : {16, 21, 32})
    for (int rank = 0; rank < world().size(); ++rank) {
      int slices = 0;  // of words, then of hashes
      alter_slice = [&](Bytes slice) {
        if (slices++ == 0 && world().rank() == rank) slice[3] ^= std::byte(4);
      };
      expect_void({bits, 101}, Wiretap({}, {}, *by_slices), "the slice of rank " + std::to_string(rank));
      EXPECT_EQ(slices, 2);
    }
  alter_slice = {};
}

// What all ranks were about to send, rank by rank. Collective.
std::vector<std::vector<std::byte>> of_all(Bytes bytes) {
  const std::vector<std::byte> all = world().all_gather(bytes);
  std::vector<std::vector<std::byte>> parts;
  for (auto part = all.begin(); part != all.end(); part += static_cast<std::ptrdiff_t>(bytes.size()))
    parts.emplace_back(part, part + static_cast<std::ptrdiff_t>(bytes.size()));
  return parts;
}

template <typename Word>
void double_words(Bytes bytes) {
  for (size_t i = 0; i < bytes.size(); i += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + i, sizeof(Word));
    word *= 2;
    std::memcpy(bytes.data() + i, &word, sizeof(Word));
  }
}

TEST(TamperedSum, OfLostDoubledAndExchangedWordsIsVoidOnAllRanks) {
  for (const int bits : {16, 21, 32}) {
    const LaneLayout layout{bits, 5000};
    const auto chunk = static_cast<size_t>(layout.bytes()) / 8 * 2, word = size_t{bits == 21 ? 8u : 4u};
    const std::pair<std::string, std::function<void(Bytes)>> alterations[] = {
        {"a lost rank", [](Bytes words) { std::fill(words.begin(), words.end(), std::byte(0)); }},
        {"a lost chunk", [&](Bytes words) { std::fill_n(words.begin() + 64, chunk, std::byte(0)); }},
        {"a doubled rank",
         [&](Bytes w) { word == 8 ? double_words<uint64_t>(w) : double_words<uint32_t>(w); }},
        {"exchanged chunks",
         [&](Bytes words) { std::swap_ranges(words.begin(), words.begin() + chunk, words.end() - chunk); }},
        {"words at other places",
         [&](Bytes words) { std::rotate(words.begin(), words.begin() + word, words.end()); }},
    };
    for (const auto& [how, alter] : alterations)
      for (const int rank : {0, last_rank()}) expect_void(layout, Wiretap(on_rank(rank, kWords, alter)), how);
    expect_void(layout, Wiretap([](int operation, Bytes words) {
                  if (operation != kWords) return;
                  const auto all = of_all(words);  // collective
                  if (world().rank() == last_rank()) std::copy(all[0].begin(), all[0].end(), words.begin());
                }),
                "rank 0 twice in the place of the last one");
    expect_void(layout, Wiretap([&](int operation, Bytes words) {
                  if (operation != kWords) return;
                  const auto all = of_all(words);
                  const auto& other = all[static_cast<size_t>(last_rank() - world().rank())];
                  if (world().rank() == 0) std::copy_n(other.end() - chunk, chunk, words.begin());
                  if (world().rank() == last_rank()) std::copy_n(other.begin(), chunk, words.end() - chunk);
                }),
                "chunks of two ranks at each other's places");
  }
}

TEST(TamperedSum, OfContributionsThatChangePlacesWholeIsTheSum) {
  Wiretap wire([](int operation, Bytes words) {
    if (operation != kWords) return;
    const auto all = of_all(words);
    const auto& other = all[static_cast<size_t>(last_rank() - world().rank())];
    std::copy(other.begin(), other.end(), words.begin());
  });
  SecureSum sum(wire, 32, fixed_session(world().rank(), world().size()));
  Lanes lanes = contribution(world().rank(), {32, 500});
  sum.sum(0, 0, lanes);
  EXPECT_EQ(lanes, expected_sum({32, 500}));
}

TEST(TamperedSum, WithAForgedVerdictIsVoidOnAllRanks) {
  for (int rank = 0; rank < world().size(); ++rank) {
    expect_void({32, 10}, Wiretap(on_rank(rank, kVerdicts, [](Bytes tag) { tag[31] ^= std::byte(1); })),
                "an altered verdict");
    expect_void({32, 10}, Wiretap([&](int operation, Bytes tag) {
                  if (operation != kVerdicts) return;
                  const auto all = of_all(tag);
                  const auto& other = all[static_cast<size_t>((rank + 1) % world().size())];
                  if (world().rank() == rank) std::copy(other.begin(), other.end(), tag.begin());
                }),
                "the verdict of another rank");
  }
}

// One rank is shown another sum; on the way to the others its verdict becomes one that says "good".
TEST(TamperedSum, CannotBeMadeGoodByVerdictsOfOtherRanksOrOfEarlierSteps) {
  for (const bool of_earlier_step : {true, false}) {
    std::vector<std::byte> earlier;
    Wiretap wire({}, [&](int operation, Bytes bytes) {
      const auto tag_of = [&](int rank) { return bytes.subspan(static_cast<size_t>(rank) * 32, 32); };
      if (operation == kVerdicts) earlier.assign(tag_of(last_rank()).begin(), tag_of(last_rank()).end());
      if (operation == kOfOneSum + kWords && world().rank() == last_rank()) bytes[0] ^= std::byte(1);
      if (operation == kOfOneSum + kVerdicts && world().rank() != last_rank()) {
        const std::vector<std::byte> of_rank_0(tag_of(0).begin(), tag_of(0).end());
        const auto& good = of_earlier_step ? earlier : of_rank_0;
        std::copy(good.begin(), good.end(), tag_of(last_rank()).begin());
      }
    });
    SecureSum sum(wire, 32, fixed_session(world().rank(), world().size()));
    Lanes lanes(10, 1);
    sum.sum(0, 0, lanes);
    EXPECT_EQ(lanes, Lanes(10, world().size()));
    EXPECT_THROW(sum.sum(1, 0, lanes), IntegrityError) << "an earlier one: " << of_earlier_step;
    EXPECT_EQ(lanes, Lanes(10));
  }
}

TEST(TamperedSum, WithAVerdictForgedForOneRankIsVoidThereAndExactElsewhere) {
  for (int victim = 0; victim < world().size(); ++victim) {
    Wiretap wire({}, on_rank(victim, kVerdicts,
                             [](Bytes tags) { std::rotate(tags.begin(), tags.begin() + 32, tags.end()); }));
    SecureSum sum(wire, 32, fixed_session(world().rank(), world().size()));
    Lanes lanes = contribution(world().rank(), {32, 40});
    if (world().rank() == victim) {
      EXPECT_THROW(sum.sum(0, 0, lanes), IntegrityError);
      EXPECT_EQ(lanes, Lanes(40));
    } else {
      EXPECT_NO_THROW(sum.sum(0, 0, lanes));
      EXPECT_EQ(lanes, expected_sum({32, 40}));
    }
  }
}

// The words of the void step and of the next one are under unrelated pads: their difference is uniform, where
// the contributions are equal. Keys are fixed.
TEST(TamperedSum, LeavesAPadThatIsRefusedOnEveryRankAndTheNextStepIsExactUnderAnother) {
  constexpr size_t kLanes = 5000;
  std::vector<uint32_t> sent;
  Wiretap wire([&](int operation, Bytes bytes) {
    if (operation % kOfOneSum == kWords) sent = testing::words_of({bytes.begin(), bytes.end()});
    if (operation == kWords && world().rank() == last_rank()) bytes[0] ^= std::byte(1);
  });
  SecureSum sum(wire, 32, fixed_session(world().rank(), world().size()));
  Lanes lanes(kLanes, 3);
  EXPECT_THROW(sum.sum(0, 0, lanes), IntegrityError);
  const std::vector<uint32_t> of_void_step = sent;
  EXPECT_LT(testing::byte_excess(of_void_step), 7);
  for (int again = 0; again < 2; ++again) EXPECT_THROW(sum.sum(0, 0, lanes), InternalError);
  EXPECT_EQ(wire.operations(), kOfOneSum) << "something was sent under a pad that had served";
  lanes.assign(kLanes, 3);
  sum.sum(1, 0, lanes);
  EXPECT_EQ(lanes, Lanes(kLanes, 3 * world().size()));
  for (size_t i = 0; i < kLanes; ++i) sent[i] -= of_void_step[i];
  EXPECT_LT(testing::byte_excess(sent), 7);
}

TEST(TamperedSum, OfWordsOfTheStepBeforeIsVoidOnAllRanks) {
  std::vector<std::byte> before;
  Wiretap wire([&](int operation, Bytes words) {
    if (operation == kWords) before.assign(words.begin(), words.end());
    if (operation == kOfOneSum + kWords && world().rank() == 0)
      std::copy(before.begin(), before.end(), words.begin());
  });
  SecureSum sum(wire, 32, fixed_session(world().rank(), world().size()));
  Lanes lanes(100, 1);
  sum.sum(0, 0, lanes);
  EXPECT_THROW(sum.sum(1, 0, lanes), IntegrityError);
  EXPECT_EQ(lanes, Lanes(100));
}

// The numbers of the operations of one agreement; in the others the ranks report how it went.
constexpr int kNonces = 1, kHellos = 2, kConfirmations = 5, kGroupSecret = 7;

class TamperedAgreement : public Processes {
 protected:
  // One agreement over these wires: every rank refuses it in the same words, with an error of this type.
  template <typename ErrorType>
  void expect_refused(const std::string& sentence, const Wiretap::Tap& sends,
                      const Wiretap::Tap& receives = {}) {
    Wiretap wire(sends, receives);
    std::string said = "agreed";
    try {
      agree_on_keys(wire, own_, allow_list_, 1, kTerms);
    } catch (const ErrorType& error) {
      said = error.what();
    } catch (const Error& error) {
      said = std::string("of another kind: ") + error.what();
    }
    const std::set<std::string> all = said_by_all(said);
    EXPECT_EQ(all.size(), 1u) << said;
    EXPECT_EQ(said.find("no keys were agreed on: "), 0u) << said;
    EXPECT_NE(said.find(sentence), std::string::npos) << said;
    EXPECT_NE(said.find("No gradient was sent"), std::string::npos) << said;
  }

  // The last rank signs a hello with this key in the place of its own; keys are chosen by what all sent.
  template <typename ErrorType>
  void expect_key_refused(const std::function<Bytes32(const std::vector<Hello>&)>& key,
                          const std::string& sentence) {
    Bytes32 session{};
    expect_refused<ErrorType>(
        sentence,
        [&](int operation, Bytes bytes) {
          if (operation != kHellos) return;
          const std::vector<Hello> hellos = gathered<Hello>(bytes);
          const Expected expected{session, world().size(), 1, allow_list_, kTerms};
          if (world().rank() == last_rank())
            write(make_hello(expected, last_rank(), key(hellos), own_), bytes);
        },
        [&](int operation, Bytes bytes) {
          if (operation == kNonces) session = session_of(read<Bytes32>(bytes));
        });
  }

  template <typename T>
  static std::vector<T> read(std::span<const std::byte> bytes) {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  template <typename T>
  static std::vector<T> gathered(Bytes mine) {
    return read<T>(world().all_gather(mine));
  }
  static void write(const Hello& hello, Bytes bytes) { std::memcpy(bytes.data(), &hello, sizeof(hello)); }

  static std::string last() { return "rank " + std::to_string(last_rank()); }

  inline static const Terms kTerms = {{"plan", "abc"}, {"lane_bits", "32"}};
};

TEST_F(TamperedAgreement, IsRefusedForAHelloThatIsUnsignedAlteredOrOfAnotherRank) {
  const std::string sentence = "the hello of " + last() + " is not signed";
  for (size_t bit = 0; bit < 8 * sizeof(Hello); bit += 239)
    expect_refused<ConfigError>(sentence, on_rank(last_rank(), kHellos, [&](Bytes hello) {
                                  hello[bit / 8] ^= std::byte(1 << bit % 8);
                                }));
  expect_refused<ConfigError>(sentence, on_rank(last_rank(), kHellos, [](Bytes bytes) {
                                Hello hello = read<Hello>(bytes).front();
                                hello.signature = {};
                                write(hello, bytes);
                              }));
  expect_refused<ConfigError>(sentence, [](int operation, Bytes bytes) {
    if (operation != kHellos) return;
    const std::vector<Hello> hellos = gathered<Hello>(bytes);
    if (world().rank() == last_rank()) write(hellos[0], bytes);
  });
  EXPECT_NO_THROW(agree(1)) << "the start after a refusal";
}

TEST_F(TamperedAgreement, IsRefusedForAHelloThatIsAlteredForOneRankAlone) {
  for (int receiver = 0; receiver < world().size(); ++receiver)
    expect_refused<ConfigError>(
        "the hello of rank 0 is not signed", {},
        on_rank(receiver, kHellos, [](Bytes hellos) { hellos[100] ^= std::byte(1); }));
}

TEST_F(TamperedAgreement, IsRefusedForAHelloOfAnEarlierStart) {
  Hello earlier{};
  Wiretap wire(on_rank(last_rank(), kHellos, [&](Bytes hello) { earlier = read<Hello>(hello).front(); }));
  agree_on_keys(wire, own_, allow_list_, 1, kTerms);
  expect_refused<ConfigError>("the hello of " + last() + " belongs to another start",
                              on_rank(last_rank(), kHellos, [&](Bytes hello) { write(earlier, hello); }));
}

TEST_F(TamperedAgreement, IsRefusedWhereOneRankIsShownAnotherNonce) {
  for (int receiver = 0; receiver < world().size(); ++receiver)
    expect_refused<ConfigError>("belongs to another start", {},
                                on_rank(receiver, kNonces, [](Bytes nonces) { nonces[0] ^= std::byte(1); }));
}

TEST_F(TamperedAgreement, IsRefusedForAKeyOfLowOrderOfAnotherRankOrWithoutItsSecret) {
  // The points of order 1, 2 and 8 of Curve25519 (RFC 7748 section 7).
  const Bytes32 one = {1}, eight = {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3,
                                    0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32,
                                    0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00};
  for (const Bytes32& point : {Bytes32{}, one, eight})
    expect_key_refused<IntegrityError>([&](const auto&) { return point; },
                                       last() + " sent a key of low order");
  expect_key_refused<ConfigError>([](const auto& hellos) { return hellos[0].ephemeral_key; },
                                  last() + " sent the key of another rank");
  expect_key_refused<IntegrityError>([](const auto&) { return Bytes32{9}; },
                                     "does not have the key that it should share");
}

TEST_F(TamperedAgreement, IsRefusedWhereAConfirmationOrTheSecretOfTheGroupIsAltered) {
  expect_refused<IntegrityError>("rank 1 does not have the key that it should share with rank 0",
                                 on_rank(1, kConfirmations, [](Bytes tags) { tags[0] ^= std::byte(1); }));
  const size_t sealed = 48 * static_cast<size_t>(last_rank());
  for (const int rank : {0, last_rank()}) {  // for all, and for the one that it is for
    const auto alter = on_rank(rank, kGroupSecret, [&](Bytes bytes) { bytes[sealed + 5] ^= std::byte(1); });
    expect_refused<IntegrityError>("the secret of the group from rank 0 was altered",
                                   rank == 0 ? alter : Wiretap::Tap(), rank == 0 ? Wiretap::Tap() : alter);
  }
}

}  // namespace
}  // namespace dpfa::comm::secagg
