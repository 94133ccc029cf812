// What a rank says of itself at each process start, signed: the first message of the key agreement.
//
// A hello is accepted where its signature is that of the rank's line in the allow-list, over this session (a
// digest of fresh nonces of all ranks, so a hello of an earlier start is refused), this rank number and world
// size, the same terms, and a key of its own. Pure functions: the same bytes give the same verdict on every
// rank.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "comm/secagg/identity.h"

namespace dpfa::comm::secagg {

// The public configuration on which all ranks must agree, as (name, value): plan digest, lane width, number
// of lanes, noise, clipping norm, grid, model. At most 16.
using Terms = std::vector<std::pair<std::string, std::string>>;

struct Hello {  // as it travels; numbers in little-endian order, no padding
  Bytes32 session;
  uint32_t protocol, rank, ranks, colluding_ranks;
  Bytes32 ephemeral_key;           // X25519
  Bytes32 allow_list;              // digest
  std::array<uint64_t, 16> terms;  // the first 64 bits of the digest of each: which one differs can be said
  Bytes32 all_terms;               // digest: what counts
  Signature signature;

  std::span<const uint8_t> signed_bytes() const;
};
static_assert(std::has_unique_object_representations_v<Hello> && sizeof(Hello) == 336);

// What this rank expects of all hellos.
struct Expected {
  Bytes32 session;
  int ranks;
  int colluding_ranks;
  const AllowList& allow_list;
  const Terms& terms;
};

// The session of these nonces, one per rank.
Bytes32 session_of(std::span<const Bytes32> nonces);

Hello make_hello(const Expected& expected, int rank, const Bytes32& ephemeral_key, const Identity& identity);

// What is wrong with the hellos, one per rank, in a sentence that says what to do; empty: nothing.
std::string problem_of(std::span<const Hello> hellos, const Expected& expected);

}  // namespace dpfa::comm::secagg
