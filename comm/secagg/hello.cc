#include "comm/secagg/hello.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "src/base/check.h"

namespace dpfa::comm::secagg {
namespace {

static_assert(std::endian::native == std::endian::little, "a hello travels as it lies in memory");

constexpr uint32_t kProtocol = 1;  // changes with every change of what is signed, derived or sent

Bytes32 digest_of(const std::string& name, const std::string& value) {
  const auto bytes = [](const std::string& text) {
    return std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  };
  return digest(Context("dpfa/secagg/term")
                    .add(name.size())
                    .add(bytes(name))
                    .add(value.size())
                    .add(bytes(value))
                    .bytes());
}

Hello unsigned_hello(const Expected& expected, int rank, const Bytes32& ephemeral_key) {
  DPFA_CHECK(expected.terms.size() <= 16, expected.terms.size(), " terms");
  Hello hello = {};
  hello.session = expected.session;
  hello.protocol = kProtocol;
  hello.rank = static_cast<uint32_t>(rank);
  hello.ranks = static_cast<uint32_t>(expected.ranks);
  hello.colluding_ranks = static_cast<uint32_t>(expected.colluding_ranks);
  hello.ephemeral_key = ephemeral_key;
  hello.allow_list = expected.allow_list.digest();
  Context all("dpfa/secagg/terms");
  for (size_t k = 0; k < expected.terms.size(); ++k) {
    const Bytes32 term = digest_of(expected.terms[k].first, expected.terms[k].second);
    std::memcpy(&hello.terms[k], term.data(), sizeof(uint64_t));
    all.add(term);
  }
  hello.all_terms = digest(all.bytes());
  return hello;
}

// The label keeps a signature of one purpose from serving another.
std::vector<uint8_t> signed_message(const Hello& hello) {
  const Context context = Context("dpfa/secagg/hello").add(hello.signed_bytes());
  return {context.bytes().begin(), context.bytes().end()};
}

std::string differing_terms(const Hello& hello, const Hello& mine, const Terms& terms) {
  std::string names;
  for (size_t k = 0; k < hello.terms.size(); ++k) {
    if (hello.terms[k] == mine.terms[k]) continue;
    names += (names.empty() ? "" : ", ") +
             (k < terms.size() ? terms[k].first : std::string("a term that this rank does not know"));
  }
  return names.empty() ? "terms" : names;
}

std::string problem_of_one(const Hello& hello, int rank, const Expected& expected) {
  const std::string who = "rank " + std::to_string(rank);
  // First of all the signature: what follows is then said by that rank and nobody else.
  if (!signature_is_valid(hello.signature, signed_message(hello), expected.allow_list.entry(rank).public_key))
    return "the hello of " + who +
           " is not signed by the key that the allow-list names for it: give that rank the identity file of "
           "its line, or correct the list";
  const Hello mine = unsigned_hello(expected, rank, hello.ephemeral_key);
  if (hello.session != mine.session)
    return "the hello of " + who +
           " belongs to another start: it was replayed, or the network altered what was sent";
  if (hello.protocol != mine.protocol)
    return who + " runs another version of dpfa: use the same build on all ranks";
  if (hello.rank != mine.rank || hello.ranks != mine.ranks)
    return who + " says that it is rank " + std::to_string(hello.rank) + " of " +
           std::to_string(hello.ranks) + ": start all ranks with one launcher";
  if (hello.colluding_ranks != mine.colluding_ranks)
    return who + " tolerates " + std::to_string(hello.colluding_ranks) + " colluding ranks, this rank " +
           std::to_string(mine.colluding_ranks) + ": give all ranks the same colluding_ranks";
  if (hello.allow_list != mine.allow_list)
    return who + " has another allow-list: give all ranks the same file";
  if (hello.all_terms != mine.all_terms)
    return who + " differs in " + differing_terms(hello, mine, expected.terms) +
           ": start all ranks with the same configuration";
  return "";
}

}  // namespace

std::span<const uint8_t> Hello::signed_bytes() const {
  return {reinterpret_cast<const uint8_t*>(this), offsetof(Hello, signature)};
}

Bytes32 session_of(std::span<const Bytes32> nonces) {
  Context context("dpfa/secagg/session");
  for (const Bytes32& nonce : nonces) context.add(nonce);
  return digest(context.bytes());
}

Hello make_hello(const Expected& expected, int rank, const Bytes32& ephemeral_key, const Identity& identity) {
  Hello hello = unsigned_hello(expected, rank, ephemeral_key);
  hello.signature = identity.sign(signed_message(hello));
  return hello;
}

std::string problem_of(std::span<const Hello> hellos, const Expected& expected) {
  std::set<Bytes32> ephemeral_keys;
  for (size_t rank = 0; rank < hellos.size(); ++rank) {
    const std::string problem = problem_of_one(hellos[rank], static_cast<int>(rank), expected);
    if (!problem.empty()) return problem;
    if (!ephemeral_keys.insert(hellos[rank].ephemeral_key).second)
      return "rank " + std::to_string(rank) +
             " sent the key of another rank: two processes draw the same randomness, or a rank lies";
  }
  return "";
}

}  // namespace dpfa::comm::secagg
