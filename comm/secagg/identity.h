// Who may take part: an Ed25519 key pair per rank, and the list of public keys that all ranks were given.
//
// The list is exchanged by people, before and outside of a run. The secret half stays in a file of its owner
// that nobody else can read.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/secagg/hkdf.h"

namespace dpfa::comm::secagg {

using Signature = std::array<uint8_t, 64>;

std::string to_hex(std::span<const uint8_t> bytes);

class Identity {
 public:
  // A new pair, from the operating system's randomness.
  static Identity generate();
  // Throws IoError where the file cannot be read or is no identity, ConfigError where others than its owner
  // may read it.
  static Identity load(const std::filesystem::path& file);
  // Creates the file with mode 0600. Throws IoError where it exists: an identity is never overwritten.
  void save(const std::filesystem::path& file) const;

  const Bytes32& public_key() const { return public_key_; }
  Signature sign(std::span<const uint8_t> message) const;

 private:
  explicit Identity(const Secret& seed);
  Secret seed_;
  Bytes32 public_key_;
};

bool signature_is_valid(const Signature& signature, std::span<const uint8_t> message,
                        const Bytes32& public_key);

// Lines `RANK PUBLIC_KEY OWNER`, ranks from 0 without gaps, 64 hex digits, a label of one word; empty lines
// and lines that begin with # count for nothing.
class AllowList {
 public:
  struct Entry {
    Bytes32 public_key;
    std::string owner;
  };

  // Throws ConfigError, naming `origin` and the line, for a line of another form, a rank that is missing or
  // named twice, and a key that is named twice.
  static AllowList parse(std::string_view text, const std::string& origin);
  // IoError where the file cannot be read.
  static AllowList load(const std::filesystem::path& file);

  int size() const { return static_cast<int>(entries_.size()); }
  const Entry& entry(int rank) const { return entries_.at(static_cast<size_t>(rank)); }
  // Of ranks, keys and owners.
  Bytes32 digest() const;
  // The ranks of the owner that has most of them.
  int most_ranks_of_an_owner() const;

 private:
  std::vector<Entry> entries_;
};

// The line of an allow-list, without its end.
std::string allow_list_line(int rank, const Bytes32& public_key, std::string_view owner);

}  // namespace dpfa::comm::secagg
