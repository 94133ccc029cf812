#include "comm/secagg/key_agreement.h"

#include <sodium.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "comm/secagg/mask_graph.h"
#include "src/base/check.h"
#include "src/base/plant.h"

namespace dpfa::comm::secagg {
namespace {

constexpr size_t kSealed = sizeof(Bytes32) + crypto_aead_chacha20poly1305_ietf_ABYTES;

template <typename T>
std::vector<T> gather(Communicator& communicator, const T& mine) {
  const std::vector<std::byte> bytes = communicator.all_gather(std::as_bytes(std::span(&mine, 1)));
  std::vector<T> all(static_cast<size_t>(communicator.size()));
  DPFA_CHECK(bytes.size() == all.size() * sizeof(T));
  std::memcpy(all.data(), bytes.data(), bytes.size());
  return all;
}

// All ranks go on, or all throw the same sentence. A rank that found a problem throws whatever the network
// tells it about the others.
template <typename ErrorType>
void settle(Communicator& communicator, const std::string& problem) {
  struct Report {
    char text[512] = {};
  };
  Report mine;
  std::strncpy(mine.text, problem.c_str(), sizeof(mine.text) - 1);
  std::string first = problem;
  std::vector<Report> reports = gather(communicator, mine);
  for (auto report = reports.rbegin(); report != reports.rend(); ++report) {
    report->text[sizeof(report->text) - 1] = '\0';
    if (report->text[0] != '\0') first = report->text;
  }
  // Another rank's words go to a terminal: no control characters.
  std::replace_if(
      first.begin(), first.end(), [](unsigned char c) { return c < ' ' || c > '~'; }, '?');
  if (!first.empty()) throw ErrorType("no keys were agreed on: " + first + ". No gradient was sent");
}

// The ephemeral X25519 pair of this process.
class Ephemeral {
 public:
  Ephemeral() : secret_(Secret::from_system()) {
    crypto_scalarmult_base(public_key_.data(), secret_.bytes().data());
  }
  const Bytes32& public_key() const { return public_key_; }

  // HKDF-Extract of the shared point; empty where the other key is of low order, so that the point is known.
  std::optional<Secret> shared(const Bytes32& other, const Bytes32& transcript) const {
    Bytes32 point;
    const bool good = crypto_scalarmult(point.data(), secret_.bytes().data(), other.data()) == 0;
    if (DPFA_PLANT("equal_mask_keys")) point.fill(7);
    std::optional<Secret> key;
    if (good) key = hkdf_extract(transcript, point);
    sodium_memzero(point.data(), point.size());
    return key;
  }

 private:
  Secret secret_;
  Bytes32 public_key_;
};

// The label of a key that two ranks share.
Context label_of(std::string_view use, int first, int second) {
  Context label(std::string("dpfa/secagg/") + std::string(use));
  if (DPFA_PLANT("equal_mask_keys")) return label;
  return label.add(static_cast<uint64_t>(std::min(first, second)))
      .add(static_cast<uint64_t>(std::max(first, second)));
}

class Pairs {
 public:
  Pairs(int rank, const std::vector<int>& neighbours) : rank_(rank), neighbours_(neighbours) {}

  // Returns the problem, if any.
  std::string derive(const Ephemeral& own, std::span<const Hello> hellos) {
    Context all("dpfa/secagg/transcript");
    for (const Hello& hello : hellos) {
      all.add(hello.signed_bytes());
      all.add(hello.signature);
    }
    const Bytes32 transcript = digest(all.bytes());
    for (int other = 0; other < static_cast<int>(hellos.size()); ++other) {
      const bool wanted = rank_ == 0 || other == 0 || is_neighbour(other);  // rank 0 reaches everyone
      if (other == rank_ || !wanted) continue;
      std::optional<Secret> key = own.shared(hellos[static_cast<size_t>(other)].ephemeral_key, transcript);
      if (!key)
        return "rank " + std::to_string(other) +
               " sent a key of low order, which would make the masks public: that rank lies";
      keys_.emplace(other, std::move(*key));
    }
    return "";
  }

  Secret key(std::string_view use, int other) const {
    return hkdf_expand(keys_.at(other), label_of(use, rank_, other).bytes());
  }

  Masks masks(std::string_view use) const {
    Masks masks;
    for (const int other : neighbours_) {
      StreamKey stream = key(use, other).stream_key();
      if (DPFA_PLANT("mask_key_32bit")) stream = StreamKey({stream.words()[0]});
      masks.add_key(stream, /*subtract=*/rank_ > other);
    }
    return masks;
  }

  // The MAC by which `sender` shows `receiver` that it has their key.
  Bytes32 confirmation(int sender, int receiver) const {
    const int other = sender == rank_ ? receiver : sender;
    return mac(key("confirmation", other),
               Context("dpfa/secagg/confirm").add(static_cast<uint64_t>(sender)).bytes());
  }

  const std::vector<int>& neighbours() const { return neighbours_; }

 private:
  bool is_neighbour(int other) const {
    return std::find(neighbours_.begin(), neighbours_.end(), other) != neighbours_.end();
  }
  int rank_;
  std::vector<int> neighbours_;
  std::map<int, Secret> keys_;
};

// Every rank sends one tag for every other; those for strangers are zero and read by nobody.
std::string confirm(Communicator& communicator, const Pairs& pairs) {
  const int ranks = communicator.size(), rank = communicator.rank();
  std::vector<Bytes32> mine(static_cast<size_t>(ranks), Bytes32{});
  for (const int other : pairs.neighbours())
    mine[static_cast<size_t>(other)] = pairs.confirmation(rank, other);
  const std::vector<std::byte> all = communicator.all_gather(std::as_bytes(std::span(mine)));
  DPFA_CHECK(all.size() == mine.size() * mine.size() * sizeof(Bytes32));
  for (const int other : pairs.neighbours()) {
    const Bytes32 wanted = pairs.confirmation(other, rank);
    const size_t place = static_cast<size_t>(other) * static_cast<size_t>(ranks) + static_cast<size_t>(rank);
    if (sodium_memcmp(all.data() + place * sizeof(Bytes32), wanted.data(), wanted.size()) != 0)
      return "rank " + std::to_string(other) + " does not have the key that it should share with rank " +
             std::to_string(rank) + ": something altered what the two sent each other";
  }
  return "";
}

// Each key seals one message, so the nonce may be constant.
constexpr std::array<uint8_t, crypto_aead_chacha20poly1305_ietf_NPUBBYTES> kOnlyNonce = {};

std::vector<uint8_t> sealed_for_all(const Secret& group, const Pairs& pairs, int ranks) {
  std::vector<uint8_t> sealed(static_cast<size_t>(ranks) * kSealed);
  for (int other = 1; other < ranks; ++other)
    crypto_aead_chacha20poly1305_ietf_encrypt(sealed.data() + static_cast<size_t>(other) * kSealed, nullptr,
                                              group.bytes().data(), group.bytes().size(), nullptr, 0, nullptr,
                                              kOnlyNonce.data(), pairs.key("group", other).bytes().data());
  return sealed;
}

// The secret of the group, which rank 0 draws; empty where what came from rank 0 does not open.
std::optional<Secret> share_group_secret(Communicator& communicator, const Pairs& pairs) {
  const int rank = communicator.rank(), ranks = communicator.size();
  std::optional<Secret> group;
  std::vector<uint8_t> sealed(static_cast<size_t>(ranks) * kSealed);
  if (rank == 0) {
    group = Secret::from_system();
    sealed = sealed_for_all(*group, pairs, ranks);
  }
  communicator.broadcast(std::as_writable_bytes(std::span(sealed)), 0);
  if (rank == 0) return group;
  Bytes32 opened;
  if (crypto_aead_chacha20poly1305_ietf_decrypt(
          opened.data(), nullptr, nullptr, sealed.data() + static_cast<size_t>(rank) * kSealed, kSealed,
          nullptr, 0, kOnlyNonce.data(), pairs.key("group", 0).bytes().data()) == 0)
    group.emplace(opened);
  sodium_memzero(opened.data(), opened.size());
  return group;
}

}  // namespace

SessionKeys agree_on_keys(Communicator& communicator, const Identity& identity, const AllowList& allow_list,
                          int colluding_ranks, const Terms& terms) {
  start_sodium();
  const int rank = communicator.rank(), ranks = communicator.size();
  std::string problem;
  if (allow_list.size() != ranks) {
    problem = "the allow-list names " + std::to_string(allow_list.size()) + " ranks and " +
              std::to_string(ranks) + " were started";
  } else if (allow_list.entry(rank).public_key != identity.public_key()) {
    problem =
        "rank " + std::to_string(rank) + " has an identity that is not the one of its line in the allow-list";
  }
  settle<ConfigError>(communicator, problem);
  Pairs pairs(rank, mask_neighbours(rank, ranks, colluding_ranks));

  const Bytes32 nonce = RootKey::from_system().bytes();
  const std::vector<Bytes32> nonces = gather(communicator, nonce);
  const Expected expected{session_of(nonces), ranks, colluding_ranks, allow_list, terms};
  const Ephemeral ephemeral;
  const std::vector<Hello> hellos =
      gather(communicator, make_hello(expected, rank, ephemeral.public_key(), identity));
  settle<ConfigError>(communicator, problem_of(hellos, expected));

  settle<IntegrityError>(communicator, pairs.derive(ephemeral, hellos));
  settle<IntegrityError>(communicator, confirm(communicator, pairs));
  std::optional<Secret> group = share_group_secret(communicator, pairs);
  settle<IntegrityError>(communicator, group ? "" : "the secret of the group from rank 0 was altered");
  return {pairs.masks("mask"), pairs.masks("hash-mask"), std::move(*group)};
}

}  // namespace dpfa::comm::secagg
