// The agreement on keys, between threads whose wires are altered. Keys come from the operating system here: a
// bound of 7 on byte_excess() is crossed by correct code once in 1e8 runs.
#include "comm/secagg/key_agreement.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "comm/secagg/secure_sum.h"
#include "src/base/error.h"
#include "tests/support/secagg_keys.h"
#include "tests/support/thread_world.h"

namespace dpfa::comm::secagg {
namespace {

using testing::Members;
using testing::ThreadWorld;
using Parts = ThreadWorld::Parts;

// The numbers of the operations of one agreement; in the others the ranks report how it went.
constexpr int kNonces = 1, kHellos = 2, kConfirmations = 5, kGroupSecret = 7;

const Terms kTerms = {{"plan", "abc"}, {"lane_bits", "32"}};

TEST(KeyAgreement, GivesKeysWhoseMasksCancel) {
  for (const int ranks : {1, 2, 3, 4, 7}) {
    const Members members(ranks);
    for (int colluders = 0; colluders < ranks; ++colluders)
      ThreadWorld(ranks).run([&](Communicator& world) {
        SecureSum sum(world, 32,
                      agree_on_keys(world, members.identities[static_cast<size_t>(world.rank())],
                                    members.allow_list, colluders, kTerms));
        std::vector<int32_t> lanes(100, world.rank() + 1);
        sum.sum(0, 0, lanes);
        EXPECT_EQ(lanes, std::vector<int32_t>(100, ranks * (ranks + 1) / 2));
      });
  }
}

std::vector<uint32_t> words_sent_by(int rank, const Members& members) {
  std::vector<uint32_t> words;
  ThreadWorld world(3, [&](int receiver, const std::string& operation, int, Parts& parts) {
    if (receiver == 0 && operation == "sum32") words = testing::words_of(parts[static_cast<size_t>(rank)]);
  });
  world.run([&](Communicator& communicator) {
    SecureSum sum(communicator, 32,
                  agree_on_keys(communicator, members.identities[static_cast<size_t>(communicator.rank())],
                                members.allow_list, 1, kTerms));
    std::vector<int32_t> lanes(5000);
    sum.sum(0, 0, lanes);
  });
  return words;
}

TEST(KeyAgreement, MakesWhatEveryRankSendsUniform) {
  const Members members(3);
  for (int rank = 0; rank < 3; ++rank)
    EXPECT_LT(testing::byte_excess(words_sent_by(rank, members)), 7) << "rank " << rank;
}

TEST(KeyAgreement, OfEveryStartGivesUnrelatedKeys) {
  const Members members(3);
  std::vector<uint32_t> change = words_sent_by(1, members);
  const std::vector<uint32_t> later = words_sent_by(1, members);
  for (size_t i = 0; i < change.size(); ++i) change[i] -= later[i];
  EXPECT_LT(testing::byte_excess(change), 7);
}

TEST(KeyAgreement, GivesEveryPairOtherKeysInWhichAllBytesVary) {
  const Members members(3);
  std::mutex mutex;
  std::set<std::array<uint32_t, 8>> keys;
  std::array<std::set<uint8_t>, 32> values;
  constexpr int kStarts = 16;
  for (int start = 0; start < kStarts; ++start)
    ThreadWorld(3).run([&](Communicator& world) {
      const SessionKeys session = agree_on_keys(world, members.identities[static_cast<size_t>(world.rank())],
                                                members.allow_list, 1, kTerms);
      const std::lock_guard lock(mutex);
      for (const Masks* masks : {&session.lanes, &session.hashes})
        for (size_t number = 0; number < 2; ++number) {
          const auto words = test::MasksAccess::key(*masks, number).words();
          keys.insert(words);
          for (size_t i = 0; i < 32; ++i) values[i].insert(static_cast<uint8_t>(words[i / 4] >> 8 * (i % 4)));
        }
    });
  EXPECT_EQ(keys.size(), 6u * kStarts);  // three pairs, two uses
  for (size_t i = 0; i < values.size(); ++i) EXPECT_GT(values[i].size(), 8u) << "byte " << i;
}

struct Refusal {
  std::string sentences;  // of all ranks
  int ranks = 0;          // that threw
  bool summed = false;
};

// What the ranks say to `work` over these wires.
template <typename ErrorType>
Refusal refusal(const Members& members, const ThreadWorld::Wire& wire,
                const std::function<void(Communicator&)>& work) {
  Refusal refusal;
  ThreadWorld world(members.allow_list.size(),
                    [&](int to, const std::string& operation, int number, Parts& parts) {
                      refusal.summed |= operation == "sum32";
                      if (wire) wire(to, operation, number, parts);
                    });
  for (const std::exception_ptr& thrown : world.outcomes([&](Communicator& communicator) {
         work(communicator);
         std::vector<int32_t> lanes(1);  // where no rank refuses, something is sent
         communicator.all_reduce_sum(std::span<int32_t>(lanes));
       })) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const ErrorType& error) {
      ++refusal.ranks;
      refusal.sentences += std::string(error.what()) + "\n";
    } catch (const Error& error) {
      refusal.sentences += std::string("of another kind: ") + error.what() + "\n";
    }
  }
  return refusal;
}

template <typename ErrorType>
void expect_refused(const Members& members, const ThreadWorld::Wire& wire, const std::string& sentence,
                    const std::function<void(Communicator&)>& work = {}) {
  const auto honest = [&](Communicator& world) {
    agree_on_keys(world, members.identities[static_cast<size_t>(world.rank())], members.allow_list, 1,
                  kTerms);
  };
  const Refusal outcome = refusal<ErrorType>(members, wire, work ? work : honest);
  EXPECT_EQ(outcome.ranks, members.allow_list.size()) << outcome.sentences;
  EXPECT_FALSE(outcome.summed) << "something was sent after the refusal";
  EXPECT_NE(outcome.sentences.find(sentence), std::string::npos) << outcome.sentences;
}

Hello hello_in(const Parts& parts, size_t rank) {
  Hello hello;
  std::memcpy(&hello, parts[rank].data(), sizeof(hello));
  return hello;
}

void replace(Parts& parts, size_t rank, const Hello& hello) {
  std::memcpy(parts[rank].data(), &hello, sizeof(hello));
}

TEST(KeyAgreement, IsRefusedWithAnIdentityThatTheListDoesNotName) {
  const Members members(3), strangers(3);
  expect_refused<ConfigError>(members, {}, "rank 1 has an identity that is not the one of its line",
                              [&](Communicator& world) {
                                const size_t rank = static_cast<size_t>(world.rank());
                                agree_on_keys(world, (rank == 1 ? strangers : members).identities[rank],
                                              members.allow_list, 1, kTerms);
                              });
}

TEST(KeyAgreement, IsRefusedWhereRanksWereExchanged) {
  const Members members(3);
  expect_refused<ConfigError>(
      members, {}, "rank 1 has an identity that is not the one of its line", [&](Communicator& world) {
        const size_t place[] = {0, 2, 1};
        agree_on_keys(world, members.identities[place[world.rank()]], members.allow_list, 1, kTerms);
      });
}

TEST(KeyAgreement, IsRefusedWhereOneRankHasAnotherList) {
  // The same rank 1 and another rank 2: an attempt to bring in a stranger.
  const Members members(3), others(3);
  const AllowList altered =
      AllowList::parse(allow_list_line(0, members.identities[0].public_key(), "a") + "\n" +
                           allow_list_line(1, members.identities[1].public_key(), "b") + "\n" +
                           allow_list_line(2, others.identities[2].public_key(), "c"),
                       "altered");
  expect_refused<ConfigError>(members, {}, "rank 1 has another allow-list", [&](Communicator& world) {
    const size_t rank = static_cast<size_t>(world.rank());
    agree_on_keys(world, members.identities[rank], rank == 1 ? altered : members.allow_list, 1, kTerms);
  });
}

TEST(KeyAgreement, IsRefusedForAWorldOfAnotherSizeThanTheList) {
  const Members members(3), four(4);
  expect_refused<ConfigError>(members, {}, "names 4 ranks and 3 were started", [&](Communicator& world) {
    agree_on_keys(world, four.identities[static_cast<size_t>(world.rank())], four.allow_list, 1, kTerms);
  });
}

TEST(KeyAgreement, IsRefusedWhereOneTermDiffersAndSaysWhich) {
  const Members members(3);
  const std::pair<Terms, std::string> cases[] = {
      {{{"plan", "abd"}, {"lane_bits", "32"}}, "rank 2 differs in plan:"},
      {{{"plan", "abc"}, {"lane_bits", "16"}}, "rank 2 differs in lane_bits:"},
      {{{"plan", "abc"}}, "rank 2 differs in lane_bits:"},
      {{{"plan", "abc"}, {"lane_bits", "32"}, {"x", ""}}, "rank 2 differs in a term that this rank does not"},
      {{{"planab", "c"}, {"lane_bits", "32"}}, "rank 2 differs in plan:"},
  };
  for (const auto& [terms, sentence] : cases)
    expect_refused<ConfigError>(members, {}, sentence, [&](Communicator& world) {
      agree_on_keys(world, members.identities[static_cast<size_t>(world.rank())], members.allow_list, 1,
                    world.rank() == 2 ? terms : kTerms);
    });
}

TEST(KeyAgreement, IsRefusedWhereRanksTolerateDifferentNumbersOfColluders) {
  const Members members(4);
  expect_refused<ConfigError>(members, {}, "rank 3 tolerates 2 colluding ranks", [&](Communicator& world) {
    agree_on_keys(world, members.identities[static_cast<size_t>(world.rank())], members.allow_list,
                  world.rank() == 3 ? 2 : 1, kTerms);
  });
}

TEST(KeyAgreement, IsRefusedForAHelloThatIsUnsignedAlteredOrExchanged) {
  const Members members(3);
  const std::vector<std::function<void(Parts&)>> alterations = {
      [](Parts& parts) {
        Hello hello = hello_in(parts, 1);
        hello.signature = {};
        replace(parts, 1, hello);
      },
      [](Parts& parts) { parts[1][100] ^= std::byte(1); },
      [](Parts& parts) { std::swap(parts[1], parts[2]); },
      [](Parts& parts) { parts[1] = parts[2]; },
  };
  for (const auto& alter : alterations)
    expect_refused<ConfigError>(
        members,
        [&](int, const std::string&, int number, Parts& parts) {
          if (number == kHellos) alter(parts);
        },
        "the hello of rank 1 is not signed");
}

TEST(KeyAgreement, EveryBitOfAHelloIsSigned) {
  const Members members(2);
  const Expected expected{Bytes32{1}, 2, 1, members.allow_list, kTerms};
  const std::vector<Hello> hellos = {make_hello(expected, 0, Bytes32{7}, members.identities[0]),
                                     make_hello(expected, 1, Bytes32{8}, members.identities[1])};
  EXPECT_EQ(problem_of(hellos, expected), "");
  for (size_t bit = 0; bit < 8 * sizeof(Hello); ++bit) {
    std::vector<Hello> altered = hellos;
    reinterpret_cast<uint8_t*>(&altered[1])[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    ASSERT_NE(problem_of(altered, expected).find("rank 1 is not signed"), std::string::npos) << bit;
  }
}

TEST(KeyAgreement, IsRefusedForAHelloOfAnEarlierStart) {
  const Members members(3);
  Hello earlier{};
  expect_refused<ConfigError>(
      members,
      [&](int, const std::string&, int number, Parts& parts) {
        if (number == kHellos) earlier = hello_in(parts, 2);
        if (number == kHellos) parts[1][0] ^= std::byte(1);
      },
      "not signed");
  expect_refused<ConfigError>(
      members,
      [&](int, const std::string&, int number, Parts& parts) {
        if (number == kHellos) replace(parts, 2, earlier);
      },
      "the hello of rank 2 belongs to another start");
}

TEST(KeyAgreement, IsRefusedWhereTheNetworkShowsOneRankAnotherNonce) {
  expect_refused<ConfigError>(
      Members(3),
      [&](int to, const std::string&, int number, Parts& parts) {
        if (number == kNonces && to == 1) parts[2][0] ^= std::byte(1);
      },
      "belongs to another start");
}

// A rank that has its identity but sends another ephemeral key than its own.
void expect_key_refused(const std::function<Bytes32(const Parts&)>& key, const std::string& sentence,
                        bool network) {
  const Members members(3);
  Bytes32 session{};
  const ThreadWorld::Wire wire = [&](int, const std::string&, int number, Parts& parts) {
    if (number == kNonces) {
      std::vector<Bytes32> nonces(3);
      for (size_t rank = 0; rank < 3; ++rank) std::memcpy(&nonces[rank], parts[rank].data(), 32);
      session = session_of(nonces);
    }
    if (number == kHellos)
      replace(parts, 2,
              make_hello({session, 3, 1, members.allow_list, kTerms}, 2, key(parts), members.identities[2]));
  };
  network ? expect_refused<IntegrityError>(members, wire, sentence)
          : expect_refused<ConfigError>(members, wire, sentence);
}

TEST(KeyAgreement, IsRefusedWhereTwoRanksSendOneKey) {
  expect_key_refused([](const Parts& parts) { return hello_in(parts, 1).ephemeral_key; },
                     "rank 2 sent the key of another rank", /*network=*/false);
}

TEST(KeyAgreement, IsRefusedForAKeyOfLowOrder) {
  // The points of order 1, 2 and 8 of Curve25519 (RFC 7748 section 7).
  Bytes32 one = {1}, eight = {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3,
                              0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32,
                              0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00};
  for (const Bytes32& point : {Bytes32{}, one, eight})
    expect_key_refused([&](const Parts&) { return point; }, "rank 2 sent a key of low order",
                       /*network=*/true);
}

TEST(KeyAgreement, IsRefusedForAKeyOfWhichTheSenderLacksTheSecret) {
  // A valid hello with a key that is not rank 2's own: only the confirmation can show it.
  expect_key_refused([](const Parts&) { return Bytes32{9}; }, "does not have the key that it should share",
                     /*network=*/true);
}

TEST(KeyAgreement, IsRefusedWhereAConfirmationOrTheSecretOfTheGroupIsAltered) {
  const Members members(3);
  expect_refused<IntegrityError>(
      members,
      [&](int to, const std::string&, int number, Parts& parts) {
        if (number == kConfirmations && to == 0) parts[1][0] ^= std::byte(1);
      },
      "does not have the key that it should share with rank 0");
  expect_refused<IntegrityError>(
      members,
      [&](int to, const std::string&, int number, Parts& parts) {
        if (number == kGroupSecret && to == 2) parts[0][2 * 48 + 5] ^= std::byte(1);
      },
      "the secret of the group from rank 0 was altered");
}

TEST(KeyAgreement, ARankThatFoundAProblemStopsWhateverTheNetworkTellsTheOthers) {
  const Members members(3);
  const Refusal outcome = refusal<ConfigError>(
      members,
      [&](int to, const std::string&, int number, Parts& parts) {
        if (number == kHellos && to == 1) parts[2][100] ^= std::byte(1);
        if (number == 3)  // the reports on round 2
          for (auto& part : parts) std::fill(part.begin(), part.end(), std::byte(0));
      },
      [&](Communicator& world) {
        agree_on_keys(world, members.identities[static_cast<size_t>(world.rank())], members.allow_list, 1,
                      kTerms);
      });
  EXPECT_EQ(outcome.ranks, 1);  // the others find that it has left
  EXPECT_FALSE(outcome.summed);
}

}  // namespace
}  // namespace dpfa::comm::secagg
