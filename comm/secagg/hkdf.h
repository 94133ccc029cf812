// HKDF with HMAC-SHA-256 (RFC 5869), and the 32-byte secrets that it makes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/stream_key.h"

namespace dpfa::comm::secagg {

using Bytes32 = std::array<uint8_t, 32>;

// 256 secret bits; wiped on destruction, never printed.
class Secret {
 public:
  explicit Secret(const Bytes32& bytes) : bytes_(bytes) {}
  static Secret from_system();  // fresh from the operating system
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  ~Secret();
  const Bytes32& bytes() const { return bytes_; }
  StreamKey stream_key() const;  // the bytes as a ChaCha20 key

 private:
  Bytes32 bytes_;
};

// What enters a key derivation, a MAC or a hash beside the key: a label and public numbers in little-endian
// order. The label ends with a zero byte, so no two contexts have the same bytes.
class Context {
 public:
  explicit Context(std::string_view label);
  Context& add(uint64_t number);
  Context& add(std::span<const uint8_t> bytes);  // of a length that the label fixes, or that was added before
  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

// libsodium, started once. Throws InternalError where it cannot start.
void start_sodium();

// RFC 5869 section 2.2.
Secret hkdf_extract(std::span<const uint8_t> salt, std::span<const uint8_t> key_material);
// The first 32 bytes of RFC 5869 section 2.3.
Secret hkdf_expand(const Secret& key, std::span<const uint8_t> info);
// HMAC-SHA-256.
Bytes32 mac(const Secret& key, std::span<const uint8_t> message);
// BLAKE2b-256.
Bytes32 digest(std::span<const uint8_t> message);

}  // namespace dpfa::comm::secagg
