// Root keys and the streams derived from them: the only door to randomness in dpfa.
//
// A RootKey is 256 bits from the operating system, drawn afresh at each process start. It never comes from a
// configuration, never enters a checkpoint, log or ledger, and is wiped when destroyed. An incarnation number
// is a label of a restart, never a key. Streams are separated by purpose; within a stream every value is a
// function of (key, step, element index) alone, so neither shards, threads nor launch shape change it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace dpfa {

// What a stream is for. The numbers enter the key derivation and never change their meaning.
enum class Purpose : uint32_t {
  kNoise = 1,      // Gaussian noise of a release
  kSampling = 2,   // Poisson draws; one root per rank, secret
  kDropout = 3,    // dropout masks, keyed by (record, step)
  kInit = 4,       // weight initialisation: public, not a privacy matter
  kSynthesis = 5,  // synthetic records, text generation
  kDither = 6,
  kMask = 7,
  kFingerprint = 9,  // published at the start, to show that no two ranks hold one root
};

// A 256-bit ChaCha20 key for one purpose. Cheap to copy; wiped on destruction.
class StreamKey {
 public:
  explicit StreamKey(const std::array<uint32_t, 8>& words) : words_(words) {}
  StreamKey(const StreamKey&) = default;
  StreamKey& operator=(const StreamKey&) = default;
  ~StreamKey();
  const std::array<uint32_t, 8>& words() const { return words_; }

 private:
  std::array<uint32_t, 8> words_;
};

class RootKey {
 public:
  // 256 bits from getrandom(2). Throws InternalError where the system gives none.
  static RootKey from_system();
  // Reproducible keys of --insecure-seed runs; every such run is stamped NOT PRIVATE.
  static RootKey from_insecure_seed(uint64_t seed);
  // A root that another rank generated (noise = after_sum: rank 0 draws, ranks are trusted).
  static RootKey from_bytes(std::span<const uint8_t, 32> bytes);

  RootKey(RootKey&&) noexcept;
  RootKey& operator=(RootKey&&) noexcept;
  RootKey(const RootKey&) = delete;
  RootKey& operator=(const RootKey&) = delete;
  ~RootKey();

  // The stream for `purpose`. `index` separates streams of one purpose (a rank, a step, a record).
  // Derivation: the first 32 bytes of the ChaCha20 block (RFC 8439) under the root as key, with the nonce
  // (purpose, low index, high index) and counter 0.
  StreamKey stream(Purpose purpose, uint64_t index = 0) const;

  // For the one exchange that shares a root between ranks.
  std::array<uint8_t, 32> bytes() const { return bytes_; }

 private:
  explicit RootKey(const std::array<uint8_t, 32>& bytes) : bytes_(bytes) {}
  std::array<uint8_t, 32> bytes_;
};

}  // namespace dpfa
