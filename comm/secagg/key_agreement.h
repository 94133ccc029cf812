// Keys that pairs of ranks share and nobody else knows, made afresh at each process start.
//
// Rounds, all before a byte of any contribution is sent:
//   1  everyone sends a fresh nonce; the session is a digest of all of them
//   2  everyone sends a signed hello with an ephemeral X25519 key (hello.h) and verifies all others
//   3  neighbours of the mask graph derive K = HKDF-SHA-256(X25519, salt = digest of all hellos), and from K
//   a
//      mask key and a confirmation key, the pair of ranks in the label
//   4  everyone confirms each of its keys by a MAC; rank 0 sends every rank the secret of the group, sealed
//   by
//      a key of that pair, from which the points of the integrity hash and the key of the verdicts come
// What does not verify stops all ranks.
//
// The secret of the group is known to all ranks and hides nothing from them: it protects the sum from the
// network. A malicious rank that helps the network to alter sums is not found (docs/secure_aggregation.md).
#pragma once

#include "comm/communicator.h"
#include "comm/secagg/hello.h"
#include "comm/secagg/masks.h"
#include "src/base/error.h"

namespace dpfa::comm::secagg {

// What was received is not what was sent, or is not from whom it should be. Exit code 4: a start with
// --resume makes new keys and draws anew.
class IntegrityError : public CommError {
 public:
  using CommError::CommError;
};

struct SessionKeys {
  Masks lanes;   // of this rank, over the words of a contribution
  Masks hashes;  // the same, over its hashes
  Secret group;  // of all ranks
};

// Collective. Throws on every rank, in the same words: ConfigError where identities, allow-lists or terms do
// not fit, IntegrityError where keys cannot be made or confirmed.
SessionKeys agree_on_keys(Communicator& communicator, const Identity& identity, const AllowList& allow_list,
                          int colluding_ranks, const Terms& terms);

}  // namespace dpfa::comm::secagg
