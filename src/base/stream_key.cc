#include "src/base/stream_key.h"

#include <string.h>
#include <sys/random.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "src/base/error.h"
#include "src/base/plant.h"
#include "src/base/random/chacha20.h"

namespace dpfa {

StreamKey::~StreamKey() { explicit_bzero(words_.data(), sizeof(words_)); }

RootKey RootKey::from_system() {
  std::array<uint8_t, 32> bytes;
  for (size_t got = 0; got < bytes.size();) {
    const ssize_t n = getrandom(bytes.data() + got, bytes.size() - got, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw InternalError(std::string("the operating system gave no random bytes (getrandom: ") +
                          std::strerror(errno) +
                          "); without them there is no privacy, so nothing was started");
    got += static_cast<size_t>(n);
  }
  if (DPFA_PLANT("seed_32bit")) std::memset(bytes.data() + 4, 0, bytes.size() - 4);
  if (DPFA_PLANT("clock_seed")) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return from_insecure_seed(std::chrono::duration_cast<std::chrono::microseconds>(now).count());
  }
  RootKey key(bytes);
  explicit_bzero(bytes.data(), bytes.size());
  return key;
}

RootKey RootKey::from_insecure_seed(uint64_t seed) {
  // Not a secret: the seed in little-endian order and a label, so that no seed gives a key of another kind.
  std::array<uint8_t, 32> bytes = {};
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(seed >> (8 * i));
  constexpr std::string_view kLabel = "dpfa --insecure-seed";
  static_assert(8 + kLabel.size() <= 32);
  std::memcpy(bytes.data() + 8, kLabel.data(), kLabel.size());
  return RootKey(bytes);
}

RootKey RootKey::from_bytes(std::span<const uint8_t, 32> bytes) {
  std::array<uint8_t, 32> copy;
  std::memcpy(copy.data(), bytes.data(), copy.size());
  RootKey key(copy);
  explicit_bzero(copy.data(), copy.size());
  return key;
}

RootKey::RootKey(RootKey&& other) noexcept : bytes_(other.bytes_) {
  explicit_bzero(other.bytes_.data(), other.bytes_.size());
}

RootKey& RootKey::operator=(RootKey&& other) noexcept {
  if (this != &other) {
    bytes_ = other.bytes_;
    explicit_bzero(other.bytes_.data(), other.bytes_.size());
  }
  return *this;
}

RootKey::~RootKey() { explicit_bzero(bytes_.data(), bytes_.size()); }

StreamKey RootKey::stream(Purpose purpose, uint64_t index) const {
  std::array<uint32_t, 8> root;
  for (int i = 0; i < 8; ++i)
    root[i] = uint32_t{bytes_[4 * i]} | uint32_t{bytes_[4 * i + 1]} << 8 | uint32_t{bytes_[4 * i + 2]} << 16 |
              uint32_t{bytes_[4 * i + 3]} << 24;
  std::array<uint32_t, 16> block = chacha20_block(
      root, 0,
      {static_cast<uint32_t>(purpose), static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32)});
  std::array<uint32_t, 8> words;
  std::memcpy(words.data(), block.data(), sizeof(words));
  StreamKey key(words);
  explicit_bzero(root.data(), sizeof(root));
  explicit_bzero(block.data(), sizeof(block));
  explicit_bzero(words.data(), sizeof(words));
  return key;
}

}  // namespace dpfa
