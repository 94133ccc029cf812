// The world of a test under mpirun as a communicator of which the test sees and alters what this rank sends
// and receives.
#pragma once

#include <functional>
#include <vector>

#include "src/base/error.h"
#include "tests/support/mpi_world.h"

namespace dpfa::testing {

class Wiretap : public comm::Communicator {
 public:
  // Called with the bytes of an operation, which it may change; `number` counts the operations of this object
  // from 0. What a rank receives of a gather is what all sent, rank by rank. The taps of all ranks are called
  // at the same point, so they may call collectives of world().
  using Tap = std::function<void(int number, std::span<std::byte> bytes)>;

  explicit Wiretap(Tap sends = {}, Tap receives = {}, comm::Communicator& ranks = world())
      : sends_(std::move(sends)), receives_(std::move(receives)), ranks_(ranks) {}

  int operations() const { return operations_; }

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  int local_rank() const override { return ranks_.local_rank(); }
  int local_size() const override { return ranks_.local_size(); }
  std::string_view backend() const override { return ranks_.backend(); }
  void all_reduce_sum(std::span<int32_t> values) override { sum(values); }
  void all_reduce_sum(std::span<int64_t> values) override { sum(values); }
  void all_reduce_sum(std::span<uint32_t> values) override { sum(values); }
  void all_reduce_sum(std::span<uint64_t> values) override { sum(values); }
  void all_reduce_sum(std::span<float> values) override { sum(values); }
  void all_reduce_max(std::span<int64_t> values) override {
    tapped(std::as_writable_bytes(values), [&] { ranks_.all_reduce_max(values); });
  }
  void broadcast(std::span<std::byte> bytes, int root) override {
    tapped(bytes, [&] { ranks_.broadcast(bytes, root); });
  }
  std::vector<std::byte> all_gather(std::span<const std::byte> bytes) override {
    std::vector<std::byte> mine(bytes.begin(), bytes.end());
    if (sends_) sends_(operations_, mine);
    std::vector<std::byte> all = ranks_.all_gather(mine);
    if (receives_) receives_(operations_, all);
    ++operations_;
    return all;
  }
  void barrier() override { ranks_.barrier(); }
  [[noreturn]] void abort(int) override { throw InternalError("aborted"); }

 private:
  template <typename T>
  void sum(std::span<T> values) {
    tapped(std::as_writable_bytes(values), [&] { ranks_.all_reduce_sum(values); });
  }
  template <typename Operation>
  void tapped(std::span<std::byte> bytes, const Operation& operation) {
    if (sends_) sends_(operations_, bytes);
    operation();
    if (receives_) receives_(operations_, bytes);
    ++operations_;
  }

  const Tap sends_, receives_;
  comm::Communicator& ranks_;
  int operations_ = 0;
};

}  // namespace dpfa::testing
