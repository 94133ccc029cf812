#include "src/cli/bench_cipher.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "src/base/check.h"

namespace dpfa::cli {

struct OpensslKeystream::State {
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  std::vector<unsigned char> zeros = std::vector<unsigned char>(1 << 16);
  ~State() { EVP_CIPHER_CTX_free(context); }
};

OpensslKeystream::OpensslKeystream() : state_(new State) {
  const unsigned char key[32] = {1, 2, 3}, counter_and_nonce[16] = {};
  DPFA_CHECK(state_->context != nullptr &&
                 EVP_EncryptInit_ex(state_->context, EVP_chacha20(), nullptr, key, counter_and_nonce) == 1,
             "OpenSSL does not start ChaCha20");
}

OpensslKeystream::~OpensslKeystream() { delete state_; }

void OpensslKeystream::fill(std::span<unsigned char> out) {
  while (!out.empty()) {
    const size_t part = std::min(out.size(), state_->zeros.size());
    int written = 0;
    DPFA_CHECK(EVP_EncryptUpdate(state_->context, out.data(), &written, state_->zeros.data(),
                                 static_cast<int>(part)) == 1 &&
               written == static_cast<int>(part));
    out = out.subspan(part);
  }
}

std::string OpensslKeystream::version() { return OpenSSL_version(OPENSSL_VERSION_STRING); }

}  // namespace dpfa::cli
