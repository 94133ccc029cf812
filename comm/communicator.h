// Collective operations between the ranks of one run.
//
// Every rank calls the same operations in the same order. All sums are of integers: associative, hence equal
// to the last bit for any algorithm, rank order and rank count. A failed operation throws CommError; the
// state of the other ranks is then unknown, so the caller ends the process through abort(). There is no
// per-call timeout in MPI 3: the watchdog of src/base/watchdog.h bounds the time of a whole step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dpfa::comm {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;        // in [0, size)
  virtual int size() const = 0;        // number of ranks, >= 1
  virtual int local_rank() const = 0;  // rank among those of this host
  virtual int local_size() const = 0;
  virtual std::string_view backend() const = 0;  // "self", "mpi", "nccl"

  // values[i] := sum over ranks, in place. The caller makes sure that no sum leaves the integer's range.
  // Sizes beyond the int counts of MPI are split; any size is allowed, 0 included.
  virtual void all_reduce_sum(std::span<int32_t> values) = 0;
  virtual void all_reduce_sum(std::span<int64_t> values) = 0;
  // The same modulo 2^32 and 2^64, for words that wrap on purpose (secagg/masks.h).
  virtual void all_reduce_sum(std::span<uint32_t> values) = 0;
  virtual void all_reduce_sum(std::span<uint64_t> values) = 0;
  virtual void all_reduce_max(std::span<int64_t> values) = 0;
  // Sums of floats, for runs without privacy only: rounding depends on the rank count. All ranks receive the
  // same bits (reduced on rank 0, then broadcast).
  virtual void all_reduce_sum(std::span<float> values) = 0;
  // bytes of `root` to all ranks; equal sizes on all ranks.
  virtual void broadcast(std::span<std::byte> bytes, int root) = 0;
  // The `bytes` of every rank, rank by rank; equal sizes on all ranks.
  virtual std::vector<std::byte> all_gather(std::span<const std::byte> bytes) = 0;
  virtual void barrier() = 0;

  // Ends all ranks of the run with `exit_code`, without waiting for them. Does not return.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

// How the sums of words (all_reduce_sum of uint32_t and uint64_t) are formed; the bits are the same.
// kByReduceScatter: each rank adds a slice, then all gather the slices.
enum class WordSums { kByAllReduce, kByReduceScatter };

// The communicator of a run with one rank.
std::unique_ptr<Communicator> make_self_communicator();

// What this process's environment says about the size of the world, before any communicator exists: the
// variables of Open MPI, PMIx, Slurm (outside mpirun only) and torchrun. Empty where nothing announces one.
std::optional<int> announced_world_size();

// Throws ConfigError where `communicator` has another number of ranks than `expected`.
void expect_world_size(const Communicator& communicator, int expected);

// Starts MPI (once per process) and returns the communicator of MPI_COMM_WORLD; MPI ends when it is
// destroyed. Throws ConfigError where MPI's world has one rank while the environment announces more (a job
// that silently became N singletons has the wrong noise and the wrong sampling), or differs from
// `expected_world_size`. Built without MPI: throws Unsupported where more than one rank is announced,
// otherwise returns the self communicator. `word_sums` is the same on all ranks.
std::unique_ptr<Communicator> make_mpi_communicator(std::optional<int> expected_world_size,
                                                    WordSums word_sums = WordSums::kByAllReduce);

}  // namespace dpfa::comm
