#include "src/train/run_keys.h"

#include <string.h>

#include <array>
#include <cstring>
#include <set>
#include <vector>

#include "src/base/error.h"
#include "src/base/plant.h"

namespace dpfa::train {
namespace {

// The fingerprint of a root is a stream of its own, so that it tells nothing about the others.
void refuse_equal_roots(comm::Communicator& communicator, const RootKey& own) {
  const StreamKey fingerprint = own.stream(Purpose::kFingerprint);
  std::array<uint32_t, 8> words = fingerprint.words();
  const std::vector<std::byte> gathered = communicator.all_gather(std::as_bytes(std::span(words)));
  std::set<std::array<uint32_t, 8>> roots;
  for (size_t at = 0; at < gathered.size(); at += sizeof(words)) {
    std::memcpy(words.data(), gathered.data() + at, sizeof(words));
    roots.insert(words);
  }
  if (roots.size() * sizeof(words) != gathered.size())
    throw StateError(
        "two ranks drew the same secret key: their noise and draws would not be independent. Are they copies "
        "of one virtual machine whose random generator was not reseeded? Nothing was started");
}

RunKeys insecure_keys(int rank, uint64_t seed, bool noise_shares) {
  const RootKey root = RootKey::from_insecure_seed(seed);
  const auto own = static_cast<uint64_t>(rank);
  return {root.stream(Purpose::kNoise, noise_shares ? own : 0), root.stream(Purpose::kInit),
          root.stream(Purpose::kSampling), root.stream(Purpose::kDropout),
          root.stream(Purpose::kDither, own)};
}

}  // namespace

RunKeys make_run_keys(comm::Communicator& communicator, std::optional<uint64_t> insecure_seed,
                      bool noise_shares) {
  if (insecure_seed) return insecure_keys(communicator.rank(), *insecure_seed, noise_shares);
  auto bytes = RootKey::from_system().bytes();
  communicator.broadcast(std::as_writable_bytes(std::span(bytes)), /*root=*/0);
  const RootKey shared = RootKey::from_bytes(bytes);
  explicit_bzero(bytes.data(), bytes.size());
  const RootKey own = RootKey::from_system();
  refuse_equal_roots(communicator, own);
  const RootKey& sampling = DPFA_PLANT("same_sampling_key_all_ranks") ? shared : own;
  const RootKey& noise = noise_shares && !DPFA_PLANT("shared_noise_root") ? own : shared;
  return {noise.stream(Purpose::kNoise), shared.stream(Purpose::kInit), sampling.stream(Purpose::kSampling),
          own.stream(Purpose::kDropout), own.stream(Purpose::kDither)};
}

}  // namespace dpfa::train
