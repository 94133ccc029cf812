#include "tests/support/secret_recorder.h"

#include <dlfcn.h>
#include <sodium.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "comm/secagg/identity.h"
#include "comm/secagg/lane_hash.h"
#include "comm/secagg/masks.h"
#include "src/base/stream_key.h"

namespace dpfa::testing {
namespace {

std::mutex mutex;
std::vector<RecordedSecret> recorded;

void record(RecordedSecret::Source source, const void* bytes) {
  RecordedSecret secret{source, {}};
  std::memcpy(secret.bytes.data(), bytes, secret.bytes.size());
  const std::lock_guard lock(mutex);
  recorded.push_back(secret);
}

// The function of the library behind this program.
template <typename Function>
Function* behind(Function*, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string hex_of(const void* bytes, size_t size) {
  return comm::secagg::to_hex({static_cast<const uint8_t*>(bytes), size});
}

template <typename Bytes>
void add_halves(const Bytes& bytes, std::vector<std::string>& traces) {
  const std::string raw(reinterpret_cast<const char*>(bytes.data()), sizeof(bytes));
  for (const std::string& text : {raw, hex_of(raw.data(), raw.size())}) {
    traces.push_back(text.substr(0, text.size() / 2));
    traces.push_back(text.substr(text.size() / 2));
  }
}

// How halves of the secret, and of what is derived from it, would show.
std::vector<std::string> traces_of(const RecordedSecret& secret, int64_t steps) {
  std::vector<std::string> traces;
  add_halves(secret.bytes, traces);
  const RootKey root = RootKey::from_bytes(secret.bytes);
  if (secret.source == RecordedSecret::Source::kSystem)
    for (uint32_t purpose = 1; purpose <= 16; ++purpose)
      add_halves(root.stream(static_cast<Purpose>(purpose)).words(), traces);
  if (secret.source != RecordedSecret::Source::kHmac) return traces;
  const StreamKey key = comm::secagg::Secret(secret.bytes).stream_key();
  for (int64_t step = 0; step < steps; ++step)
    add_halves(comm::secagg::hash_points(key, comm::secagg::nonce_of(step, 0), 0), traces);
  return traces;
}

}  // namespace

std::vector<RecordedSecret> recorded_secrets() {
  const std::lock_guard lock(mutex);
  return recorded;
}

void forget_recorded_secrets() {
  const std::lock_guard lock(mutex);
  recorded.clear();
}

std::vector<RecordedSecret> secrets_in(const std::string& text, int64_t steps) {
  std::vector<RecordedSecret> found;
  for (const RecordedSecret& secret : recorded_secrets()) {
    const std::vector<std::string> traces = traces_of(secret, steps);
    if (std::any_of(traces.begin(), traces.end(),
                    [&](const std::string& trace) { return text.find(trace) != std::string::npos; }))
      found.push_back(secret);
  }
  return found;
}

std::vector<RecordedSecret> without_ids(const std::vector<RecordedSecret>& secrets,
                                        const std::set<std::string>& ids) {
  std::vector<RecordedSecret> others;
  for (const RecordedSecret& secret : secrets)
    if (!ids.contains(hex_of(secret.bytes.data(), 16))) others.push_back(secret);
  return others;
}

}  // namespace dpfa::testing

using dpfa::testing::RecordedSecret;

extern "C" {

ssize_t getrandom(void* bytes, size_t size, unsigned flags) {
  const ssize_t got = syscall(SYS_getrandom, bytes, size, flags);
  if (got == 32) dpfa::testing::record(RecordedSecret::Source::kSystem, bytes);
  return got;
}

int crypto_scalarmult(unsigned char* point, const unsigned char* secret, const unsigned char* other) {
  const int result = dpfa::testing::behind(&crypto_scalarmult, "crypto_scalarmult")(point, secret, other);
  dpfa::testing::record(RecordedSecret::Source::kSharedPoint, point);
  return result;
}

int crypto_auth_hmacsha256_final(crypto_auth_hmacsha256_state* state, unsigned char* out) {
  const int result =
      dpfa::testing::behind(&crypto_auth_hmacsha256_final, "crypto_auth_hmacsha256_final")(state, out);
  dpfa::testing::record(RecordedSecret::Source::kHmac, out);
  return result;
}

int crypto_aead_chacha20poly1305_ietf_decrypt(unsigned char* message, unsigned long long* size,
                                              unsigned char* secret_nonce, const unsigned char* sealed,
                                              unsigned long long sealed_size, const unsigned char* data,
                                              unsigned long long data_size, const unsigned char* nonce,
                                              const unsigned char* key) {
  const int result = dpfa::testing::behind(&crypto_aead_chacha20poly1305_ietf_decrypt,
                                           "crypto_aead_chacha20poly1305_ietf_decrypt")(
      message, size, secret_nonce, sealed, sealed_size, data, data_size, nonce, key);
  if (result == 0 && sealed_size == 32 + crypto_aead_chacha20poly1305_ietf_ABYTES)
    dpfa::testing::record(RecordedSecret::Source::kOpened, message);
  return result;
}

}  // extern "C"
