#include "src/cli/bench_cipher.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sodium.h>

#include <algorithm>
#include <array>
#include <memory>

#include "src/base/check.h"
#include "src/base/random/chacha20.h"

namespace dpfa::cli {
namespace {

constexpr size_t kPart = size_t{1} << 16;  // bytes at a time, which stay in a core's cache
constexpr int64_t kBytes = int64_t{1} << 28;

std::array<uint32_t, kPart / 4>& buffer() {
  static thread_local std::array<uint32_t, kPart / 4> words;
  return words;
}

class OpensslKeystream {
 public:
  OpensslKeystream() : context_(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free), zeros_(kPart) {
    const unsigned char key[32] = {1, 2, 3}, counter_and_nonce[16] = {};
    DPFA_CHECK(context_ != nullptr &&
                   EVP_EncryptInit_ex(context_.get(), EVP_chacha20(), nullptr, key, counter_and_nonce) == 1,
               "OpenSSL does not start ChaCha20");
  }
  void fill(unsigned char* out) {
    int written = 0;
    DPFA_CHECK(EVP_EncryptUpdate(context_.get(), out, &written, zeros_.data(), kPart) == 1 &&
               written == static_cast<int>(kPart));
  }

 private:
  std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context_;
  std::vector<unsigned char> zeros_;
};

template <typename Theirs>
BenchResult compare(const std::string& name, const std::string& baseline, const Theirs& part_of_theirs,
                    int64_t repeats) {
  const StreamKey key = RootKey::from_system().stream(Purpose::kMask);
  BenchResult result = time_in_turn(
      name, [&] { make_keystream(key, kBytes); }, baseline,
      [&] {
        for (int64_t begin = 0; begin < kBytes; begin += static_cast<int64_t>(kPart)) part_of_theirs();
      },
      repeats);
  result.details.update({{"gigabytes_per_second", kBytes / result.seconds / 1e9},
                         {"baseline_gigabytes_per_second", kBytes / result.baseline_seconds / 1e9}});
  return result;
}

}  // namespace

void make_keystream(const StreamKey& key, int64_t bytes) {
  const std::span<uint32_t> part = buffer();
  const auto words = static_cast<size_t>(bytes) / 4;
  for (size_t word = 0; word < words; word += part.size())
    fill_words(key, 1, word, part.first(std::min(part.size(), words - word)));
}

std::vector<BenchResult> compare_keystreams(int64_t repeats) {
  auto* out = reinterpret_cast<unsigned char*>(buffer().data());
  OpensslKeystream openssl;
  const unsigned char key[32] = {1, 2, 3}, nonce[12] = {};
  return {compare(
              "keystream/chacha20", std::string("OpenSSL ") + OpenSSL_version(OPENSSL_VERSION_STRING),
              [&] { openssl.fill(out); }, repeats),
          compare(
              "keystream/chacha20/libsodium", std::string("libsodium ") + sodium_version_string(),
              [&] { crypto_stream_chacha20_ietf(out, kPart, nonce, key); }, repeats)};
}

}  // namespace dpfa::cli
