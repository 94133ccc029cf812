#include "comm/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <array>
#include <string>
#include <thread>

#include "src/base/check.h"
#include "src/base/error.h"

namespace dpfa::comm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kPollInterval{50};

void check_cuda(cudaError_t code, const char* operation) {
  if (code != cudaSuccess)
    throw CommError(std::string("CUDA ") + operation + " failed: " + cudaGetErrorString(code) +
                    "; start all ranks again with --resume");
}

// Devices of this process; 0 where there is no GPU, no driver, or one older than the toolkit.
int usable_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // the error is answered here and must not surface in a later call
    return 0;
  }
  return count;
}

}  // namespace

struct NcclCommunicator::State {
  int rank;
  int size;
  int device;
  Clock::duration deadline;
  WordSums word_sums;
  ncclComm_t comm;

  ~State() {
    if (comm == nullptr) return;
    const ncclResult_t finalized = ncclCommFinalize(comm);
    const bool ended = finalized == ncclSuccess || (finalized == ncclInProgress && settled() == ncclSuccess);
    if (ended) {
      ncclCommDestroy(comm);
    } else {
      ncclCommAbort(comm);
    }
  }

  // The state that the communicator settles in: it does not block, so each call may still be in progress.
  // ncclInProgress means that the deadline has passed.
  ncclResult_t settled() const {
    const Clock::time_point limit = Clock::now() + deadline;
    ncclResult_t state = ncclInProgress;
    while (ncclCommGetAsyncError(comm, &state) == ncclSuccess && state == ncclInProgress &&
           Clock::now() < limit)
      std::this_thread::sleep_for(kPollInterval);
    return state;
  }

  [[noreturn]] void fail(const std::string& reason) {
    // Without the abort, kernels of this rank would wait for the lost peer for ever.
    if (comm != nullptr) ncclCommAbort(comm);
    comm = nullptr;
    throw CommError("NCCL on rank " + std::to_string(rank) + ": " + reason +
                    ". A peer or the network was lost; start all ranks again with --resume");
  }

  void must(ncclResult_t result, const char* operation) {
    if (result == ncclInProgress) result = settled();
    if (result == ncclInProgress) fail(std::string(operation) + " did not end before its deadline");
    if (result != ncclSuccess) fail(std::string(operation) + " failed: " + ncclGetErrorString(result));
  }

  void must_be_usable() const {
    DPFA_CHECK(comm != nullptr, "an NCCL communicator was used after it had failed");
  }

  void all_reduce(void* values, size_t count, ncclDataType_t type, ncclRedOp_t operation,
                  cudaStream_t stream) {
    must_be_usable();
    must(ncclAllReduce(values, values, count, type, operation, comm, stream), "all-reduce");
  }

  // NCCL's slices are all of one length: the words that are left over, fewer than there are ranks, are added
  // by an all-reduce.
  template <typename Word>
  void sum_words(Word* words, size_t count, ncclDataType_t type, cudaStream_t stream) {
    if (word_sums == WordSums::kByAllReduce) return all_reduce(words, count, type, ncclSum, stream);
    must_be_usable();
    const size_t slice = count / static_cast<size_t>(size), whole = slice * static_cast<size_t>(size);
    Word* own = words + static_cast<size_t>(rank) * slice;  // where NCCL wants it for sums in place
    if (slice > 0) {
      must(ncclReduceScatter(words, own, slice, type, ncclSum, comm, stream), "reduce-scatter");
      must(ncclAllGather(own, words, slice, type, comm, stream), "all-gather");
    }
    if (whole < count) all_reduce(words + whole, count - whole, type, ncclSum, stream);
  }
};

NcclCommunicator::NcclCommunicator(Communicator& host, std::chrono::milliseconds deadline,
                                   WordSums word_sums) {
  const int devices = usable_devices();
  std::array<int64_t, 1> ranks_without = {devices > 0 ? 0 : 1};
  host.all_reduce_sum(std::span<int64_t>(ranks_without));
  if (ranks_without[0] > 0)
    throw Unsupported("NCCL needs a GPU and a driver as new as this build's CUDA on every rank; " +
                      std::to_string(ranks_without[0]) + " of " + std::to_string(host.size()) +
                      " ranks have none: run on CPUs, or start on machines with GPUs");
  const int device = host.local_rank() % devices;
  check_cuda(cudaSetDevice(device), "device selection");

  struct {
    ncclUniqueId id;
    ncclResult_t result;
  } start = {{}, ncclSuccess};
  if (host.rank() == 0) start.result = ncclGetUniqueId(&start.id);
  host.broadcast(std::as_writable_bytes(std::span(&start, 1)), 0);

  state_.reset(new State{host.rank(), host.size(), device, deadline, word_sums, nullptr});
  if (start.result != ncclSuccess)
    state_->fail(std::string("no unique id from rank 0: ") + ncclGetErrorString(start.result));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  state_->must(ncclCommInitRankConfig(&state_->comm, host.size(), start.id, host.rank(), &config), "start");
}

NcclCommunicator::~NcclCommunicator() = default;

int NcclCommunicator::rank() const { return state_->rank; }
int NcclCommunicator::size() const { return state_->size; }
int NcclCommunicator::device() const { return state_->device; }

void NcclCommunicator::all_reduce_sum(int32_t* device_values, size_t count, cudaStream_t stream) {
  state_->all_reduce(device_values, count, ncclInt32, ncclSum, stream);
}

void NcclCommunicator::all_reduce_sum(uint32_t* device_words, size_t count, cudaStream_t stream) {
  state_->sum_words(device_words, count, ncclUint32, stream);
}

void NcclCommunicator::all_reduce_sum(uint64_t* device_words, size_t count, cudaStream_t stream) {
  state_->sum_words(device_words, count, ncclUint64, stream);
}

void NcclCommunicator::all_reduce_max(int32_t* device_values, size_t count, cudaStream_t stream) {
  state_->all_reduce(device_values, count, ncclInt32, ncclMax, stream);
}

void NcclCommunicator::broadcast(std::byte* device_bytes, size_t count, int root, cudaStream_t stream) {
  state_->must_be_usable();
  DPFA_CHECK(root >= 0 && root < state_->size, "broadcast from rank ", root, " of ", state_->size);
  state_->must(ncclBroadcast(device_bytes, device_bytes, count, ncclUint8, root, state_->comm, stream),
               "broadcast");
}

void NcclCommunicator::finish(cudaStream_t stream) {
  state_->must_be_usable();
  const Clock::time_point limit = Clock::now() + state_->deadline;
  for (;;) {
    const cudaError_t work = cudaStreamQuery(stream);
    if (work != cudaSuccess && work != cudaErrorNotReady)
      state_->fail(std::string("the stream failed: ") + cudaGetErrorString(work));
    ncclResult_t result = ncclSuccess;
    if (ncclCommGetAsyncError(state_->comm, &result) != ncclSuccess || result != ncclSuccess)
      state_->fail(std::string("asynchronous error: ") + ncclGetErrorString(result));
    if (work == cudaSuccess) return;
    if (Clock::now() >= limit) state_->fail("the stream did not end before its deadline");
    std::this_thread::sleep_for(kPollInterval);
  }
}

}  // namespace dpfa::comm
