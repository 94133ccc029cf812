// Collectives on device buffers by NCCL, on the caller's stream.
//
// The host communicator carries the unique id at start and remains the one for host data. Sums are of
// integers, as in communicator.h, and those of words are formed as its WordSums says. Every rank calls the
// same operations in the same order. An operation returns when it is queued; finish() waits for the stream,
// watches NCCL's asynchronous errors and the deadline, and aborts the NCCL communicator on either, so that no
// rank waits for ever for a lost one. After a CommError the object can only be destroyed.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "comm/communicator.h"

struct CUstream_st;  // cudaStream_t is CUstream_st*

namespace dpfa::comm {

class NcclCommunicator {
 public:
  // Chooses device `host.local_rank() mod device count` and joins all ranks of `host`. Throws Unsupported
  // without a usable GPU on any rank (on all ranks alike), CommError where the ranks do not meet within the
  // deadline. `word_sums` is the same on all ranks.
  NcclCommunicator(Communicator& host, std::chrono::milliseconds deadline,
                   WordSums word_sums = WordSums::kByAllReduce);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const;
  int size() const;
  int device() const;

  // In place on `count` elements of device memory; the caller keeps sums within the integer's range.
  void all_reduce_sum(int32_t* device_values, size_t count, CUstream_st* stream);
  // The same modulo 2^32 and 2^64, for words that wrap on purpose (secagg/masks.h).
  void all_reduce_sum(uint32_t* device_words, size_t count, CUstream_st* stream);
  void all_reduce_sum(uint64_t* device_words, size_t count, CUstream_st* stream);
  void all_reduce_max(int32_t* device_values, size_t count, CUstream_st* stream);
  void broadcast(std::byte* device_bytes, size_t count, int root, CUstream_st* stream);

  // Waits until all work queued on `stream` is done.
  void finish(CUstream_st* stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::comm
