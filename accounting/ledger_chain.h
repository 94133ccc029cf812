// The hash chain of a ledger's text (format: ledger.h), shared by its writer and its verifier.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace dpfa::accounting {

inline constexpr const char* kLedgerFormat = "dpfa-ledger";
inline constexpr const char* kNoDigest = "0000000000000000000000000000000000000000000000000000000000000000";

// BLAKE2b-256 in hex.
std::string blake2b_hex(std::string_view text);
// The text of entry number `seq` without line feed: `fields` with seq, prev, kind and digest added. `fields`
// must not hold those names (InternalError).
std::string chained_line(int64_t seq, const std::string& prev, const std::string& kind,
                         const nlohmann::json& fields, std::string* digest);
// The line that closes a torn one: it counts as one charge.
std::string torn_line(int64_t seq, const std::string& prev, int64_t draw, std::string_view fragment,
                      std::string* digest);

struct Chain {
  bool valid = false;
  std::string reason;   // why not, naming the line
  int64_t entries = 0;  // chained lines
  std::string digest;   // of the last one
  nlohmann::json open;  // the first one
  int64_t starts = 0;
  int64_t charges = 0;  // charge lines, closed torn lines and an open torn tail
  int64_t last_draw = -1;
  bool torn_tail = false;  // the text ends in a line that was never completed
  std::string to_close;    // what closes it; where closing was itself interrupted, the missing rest
};

// Reads `text` from its first line on and calls `visit` with every chained entry in order. Checked: every
// line's own digest and canonical text, seq, prev, kinds and their fields, incarnations counted from 0, draws
// strictly increasing, torn lines closed with the digest of their fragment. A wrong text is a value (valid =
// false).
Chain read_chain(std::string_view text, const std::function<void(const nlohmann::json& entry)>& visit);

}  // namespace dpfa::accounting
