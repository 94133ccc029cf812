// What this program draws and derives in secret, seen where it is made: in front of getrandom(2) and of
// libsodium's X25519, HMAC-SHA-256 (every output of HKDF, and MACs) and opening of sealed messages. A test
// that links secret_recorder.cc can so search for secrets that no interface shows.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace dpfa::testing {

struct RecordedSecret {
  enum class Source { kSystem, kSharedPoint, kHmac, kOpened } source;
  std::array<uint8_t, 32> bytes;
};

// In the order in which they were made, by all threads.
std::vector<RecordedSecret> recorded_secrets();
void forget_recorded_secrets();

// The recorded secrets of which `text` shows half or more, as bytes or as hexadecimal digits, of themselves
// or of what is derived from them without libsodium: streams of a root for all purposes, and the points of
// the integrity hash (lane_hash.h) of steps [0, steps) from what HMAC made.
std::vector<RecordedSecret> secrets_in(const std::string& text, int64_t steps);

// Those of `secrets` that are not among the `ids` of runs, starts and data sets: these are public, the first
// 16 bytes of randomness that serves for nothing else.
std::vector<RecordedSecret> without_ids(const std::vector<RecordedSecret>& secrets,
                                        const std::set<std::string>& ids);

}  // namespace dpfa::testing
