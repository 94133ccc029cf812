#include "src/train/run_keys.h"

#include "src/base/plant.h"

namespace dpfa::train {

RunKeys make_run_keys(comm::Communicator& communicator, std::optional<uint64_t> insecure_seed) {
  if (insecure_seed) {
    const RootKey root = RootKey::from_insecure_seed(*insecure_seed);
    return {root.stream(Purpose::kNoise), root.stream(Purpose::kInit), root.stream(Purpose::kSampling),
            root.stream(Purpose::kDropout)};
  }
  auto bytes = RootKey::from_system().bytes();
  communicator.broadcast(std::as_writable_bytes(std::span(bytes)), /*root=*/0);
  const RootKey shared = RootKey::from_bytes(bytes);
  const RootKey own = RootKey::from_system();
  const RootKey& sampling = DPFA_PLANT("same_sampling_key_all_ranks") ? shared : own;
  return {shared.stream(Purpose::kNoise), shared.stream(Purpose::kInit), sampling.stream(Purpose::kSampling),
          own.stream(Purpose::kDropout)};
}

}  // namespace dpfa::train
