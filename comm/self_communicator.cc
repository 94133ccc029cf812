#include <unistd.h>

#include "comm/communicator.h"
#include "src/base/check.h"

namespace dpfa::comm {
namespace {

class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  std::string_view backend() const override { return "self"; }

  void all_reduce_sum(std::span<int32_t>) override {}
  void all_reduce_sum(std::span<int64_t>) override {}
  void all_reduce_sum(std::span<uint32_t>) override {}
  void all_reduce_sum(std::span<uint64_t>) override {}
  void all_reduce_max(std::span<int64_t>) override {}
  void all_reduce_sum(std::span<float>) override {}
  void broadcast(std::span<std::byte>, int root) override {
    DPFA_CHECK(root == 0, "broadcast from rank ", root, " of a world of one");
  }
  std::vector<std::byte> all_gather(std::span<const std::byte> bytes) override {
    return {bytes.begin(), bytes.end()};
  }
  void barrier() override {}
  void abort(int exit_code) override { _exit(exit_code); }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() { return std::make_unique<SelfCommunicator>(); }

}  // namespace dpfa::comm
