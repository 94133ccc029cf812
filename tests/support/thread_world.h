// Ranks that are threads of one process: a world of any size without a launcher, whose wires a test can see
// and alter.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.h"
#include "src/base/error.h"

namespace dpfa::testing {

class ThreadWorld {
 public:
  using Parts = std::vector<std::vector<std::byte>>;  // what each rank sent, by rank
  // Called for every receiver of every operation ("sum32", "sum64", "max", "gather", "broadcast"), one at a
  // time, with what it is about to receive; `number` counts the operations of the world from 0.
  using Wire = std::function<void(int receiver, const std::string& operation, int number, Parts& parts)>;

  explicit ThreadWorld(int ranks, Wire wire = {}) : ranks_(ranks), wire_(std::move(wire)), sent_(ranks) {}

  // Runs `work` on all ranks; what each of them threw, null where nothing.
  std::vector<std::exception_ptr> outcomes(const std::function<void(comm::Communicator&)>& work) {
    std::vector<std::exception_ptr> thrown(static_cast<size_t>(ranks_));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks_; ++rank)
      threads.emplace_back([&, rank] {
        Member member(this, rank);
        try {
          work(member);
        } catch (...) {
          thrown[static_cast<size_t>(rank)] = std::current_exception();
        }
        const std::lock_guard lock(mutex_);
        ++ended_;
        changed_.notify_all();
      });
    for (std::thread& thread : threads) thread.join();
    return thrown;
  }

  // The same, for work that must succeed.
  void run(const std::function<void(comm::Communicator&)>& work) {
    for (const std::exception_ptr& error : outcomes(work))
      if (error) std::rethrow_exception(error);
  }

 private:
  class Member : public comm::Communicator {
   public:
    Member(ThreadWorld* world, int rank) : world_(world), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return world_->ranks_; }
    int local_rank() const override { return rank_; }
    int local_size() const override { return world_->ranks_; }
    std::string_view backend() const override { return "threads"; }
    void all_reduce_sum(std::span<int32_t> values) override { reduce<uint32_t>("sum32", values); }
    void all_reduce_sum(std::span<int64_t> values) override { reduce<uint64_t>("sum64", values); }
    void all_reduce_sum(std::span<uint32_t> values) override { reduce<uint32_t>("sum32", values); }
    void all_reduce_sum(std::span<uint64_t> values) override { reduce<uint64_t>("sum64", values); }
    void all_reduce_sum(std::span<float>) override { throw InternalError("no sums of floats here"); }
    void all_reduce_max(std::span<int64_t> values) override {
      for (const auto& part : world_->exchange(rank_, "max", std::as_bytes(values)))
        for (size_t i = 0; i < values.size(); ++i) {
          int64_t other;
          std::memcpy(&other, part.data() + i * sizeof(other), sizeof(other));
          values[i] = std::max(values[i], other);
        }
    }
    void broadcast(std::span<std::byte> bytes, int root) override {
      const Parts parts = world_->exchange(rank_, "broadcast", bytes);
      std::copy_n(parts[static_cast<size_t>(root)].begin(), bytes.size(), bytes.begin());
    }
    std::vector<std::byte> all_gather(std::span<const std::byte> bytes) override {
      std::vector<std::byte> all;
      for (const auto& part : world_->exchange(rank_, "gather", bytes))
        all.insert(all.end(), part.begin(), part.end());
      return all;
    }
    void barrier() override { world_->exchange(rank_, "barrier", {}); }
    [[noreturn]] void abort(int) override { throw InternalError("aborted"); }

   private:
    template <typename Word, typename T>
    void reduce(const char* operation, std::span<T> values) {
      const Parts parts = world_->exchange(rank_, operation, std::as_bytes(values));
      for (size_t i = 0; i < values.size(); ++i) {
        Word sum = 0;
        for (const auto& part : parts) {
          Word word;
          std::memcpy(&word, part.data() + i * sizeof(Word), sizeof(Word));
          sum += word;
        }
        values[i] = static_cast<T>(sum);
      }
    }
    ThreadWorld* world_;
    int rank_;
  };

  // Every rank sends its bytes and receives those of all, in step.
  Parts exchange(int rank, const std::string& operation, std::span<const std::byte> bytes) {
    std::unique_lock lock(mutex_);
    sent_[static_cast<size_t>(rank)].assign(bytes.begin(), bytes.end());
    meet(lock);
    Parts received = sent_;
    if (wire_) wire_(rank, operation, number_, received);
    if (++received_ == ranks_) {
      received_ = 0;
      ++number_;
    }
    meet(lock);
    return received;
  }

  void meet(std::unique_lock<std::mutex>& lock) {
    const uint64_t meeting = meetings_;
    if (++waiting_ == ranks_) {
      waiting_ = 0;
      ++meetings_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return meetings_ != meeting || ended_ > 0; });
    if (meetings_ == meeting) throw CommError("a rank has left");
  }

  const int ranks_;
  const Wire wire_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Parts sent_;
  int waiting_ = 0, received_ = 0, number_ = 0, ended_ = 0;
  uint64_t meetings_ = 0;
};

}  // namespace dpfa::testing
