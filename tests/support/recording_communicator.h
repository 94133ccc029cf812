// A world of one that writes down which collectives were called, and can look around at each of them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace dpfa::test {

class RecordingCommunicator : public comm::Communicator {
 public:
  std::vector<std::string> calls;
  std::function<void(const std::string&)> at_call = [](const std::string&) {};

  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  std::string_view backend() const override { return "recording"; }
  void all_reduce_sum(std::span<int32_t>) override { note("sum"); }
  void all_reduce_sum(std::span<int64_t>) override { note("sum"); }
  void all_reduce_sum(std::span<uint32_t>) override { note("sum"); }
  void all_reduce_sum(std::span<uint64_t>) override { note("sum"); }
  void all_reduce_sum(std::span<float>) override { note("sum"); }
  void all_reduce_max(std::span<int64_t>) override { note("max"); }
  void broadcast(std::span<std::byte>, int) override { note("broadcast"); }
  std::vector<std::byte> all_gather(std::span<const std::byte> bytes) override {
    note("gather");
    return {bytes.begin(), bytes.end()};
  }
  void barrier() override { note("barrier"); }
  [[noreturn]] void abort(int exit_code) override { std::exit(exit_code); }

 private:
  void note(const std::string& call) {
    calls.push_back(call);
    at_call(call);
  }
};

}  // namespace dpfa::test
