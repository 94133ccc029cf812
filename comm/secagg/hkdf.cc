#include "comm/secagg/hkdf.h"

#include <sodium.h>

#include <cstring>

#include "src/base/check.h"

namespace dpfa::comm::secagg {
namespace {

Secret wiped(Bytes32& bytes) {
  const Secret secret(bytes);
  sodium_memzero(bytes.data(), bytes.size());
  return secret;
}

}  // namespace

Secret::~Secret() { explicit_bzero(bytes_.data(), bytes_.size()); }

Secret Secret::from_system() {
  Bytes32 bytes = RootKey::from_system().bytes();
  return wiped(bytes);
}

StreamKey Secret::stream_key() const {
  std::array<uint32_t, 8> words;
  for (size_t i = 0; i < words.size(); ++i)
    words[i] = uint32_t{bytes_[4 * i]} | uint32_t{bytes_[4 * i + 1]} << 8 |
               uint32_t{bytes_[4 * i + 2]} << 16 | uint32_t{bytes_[4 * i + 3]} << 24;
  StreamKey key(words);
  explicit_bzero(words.data(), sizeof(words));
  return key;
}

Context::Context(std::string_view label) : bytes_(label.begin(), label.end()) { bytes_.push_back(0); }

Context& Context::add(uint64_t number) {
  for (int shift = 0; shift < 64; shift += 8) bytes_.push_back(static_cast<uint8_t>(number >> shift));
  return *this;
}

Context& Context::add(std::span<const uint8_t> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  return *this;
}

void start_sodium() { DPFA_CHECK(sodium_init() >= 0, "libsodium does not start on this machine"); }

namespace {

Bytes32 hmac(std::span<const uint8_t> key, std::span<const uint8_t> first, std::span<const uint8_t> second) {
  crypto_auth_hmacsha256_state state;
  Bytes32 out;
  static_assert(crypto_auth_hmacsha256_BYTES == sizeof(Bytes32));
  crypto_auth_hmacsha256_init(&state, key.data(), key.size());
  crypto_auth_hmacsha256_update(&state, first.data(), first.size());
  crypto_auth_hmacsha256_update(&state, second.data(), second.size());
  crypto_auth_hmacsha256_final(&state, out.data());
  sodium_memzero(&state, sizeof(state));
  return out;
}

}  // namespace

Secret hkdf_extract(std::span<const uint8_t> salt, std::span<const uint8_t> key_material) {
  Bytes32 out = hmac(salt, key_material, {});
  return wiped(out);
}

Secret hkdf_expand(const Secret& key, std::span<const uint8_t> info) {
  constexpr uint8_t kFirstBlock[1] = {1};
  Bytes32 out = hmac(key.bytes(), info, kFirstBlock);
  return wiped(out);
}

Bytes32 mac(const Secret& key, std::span<const uint8_t> message) { return hmac(key.bytes(), message, {}); }

Bytes32 digest(std::span<const uint8_t> message) {
  Bytes32 out;
  crypto_generichash(out.data(), out.size(), message.data(), message.size(), nullptr, 0);
  return out;
}

}  // namespace dpfa::comm::secagg
