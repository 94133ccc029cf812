#include "comm/mpi_communicator.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "src/base/check.h"
#include "src/base/error.h"

namespace dpfa::comm {
namespace {

std::string text_of(int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) return "MPI error " + std::to_string(code);
  return std::string(text, static_cast<size_t>(length));
}

void check(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  throw CommError(std::string("MPI ") + operation + " failed: " + text_of(code) +
                  ". A peer or the network was lost; start all ranks again with --resume");
}

// MPI between its start and its end; shared by the communicators, because MPI starts once per process.
class Session {
 public:
  static std::shared_ptr<Session> get() {
    static std::weak_ptr<Session> current;
    std::shared_ptr<Session> session = current.lock();
    if (!session) current = session = std::shared_ptr<Session>(new Session);
    return session;
  }

  ~Session() {
    // After a lost peer MPI_Finalize would wait for it for ever: the process ends through abort().
    if (!failed_) MPI_Finalize();
  }

  void mark_failed() { failed_ = true; }

 private:
  Session() {
    int initialized = 0;
    MPI_Initialized(&initialized);
    DPFA_CHECK(!initialized, "MPI was started before, and MPI starts once per process");
    int provided = MPI_THREAD_SINGLE;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "initialisation");
    if (provided < MPI_THREAD_FUNNELED) {
      MPI_Finalize();
      throw ConfigError(
          "this MPI does not allow threads beside the one that communicates "
          "(MPI_THREAD_FUNNELED): use an MPI built with thread support");
    }
  }

  bool failed_ = false;
};

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<Session> session, size_t limit, WordSums word_sums)
      : session_(std::move(session)), limit_(limit), word_sums_(word_sums) {
    DPFA_CHECK(limit >= 1 && limit <= INT_MAX, "MPI counts are positive ints");
    // Our own communicator: the error handler and the order of operations of others do not mix with ours.
    must(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "communicator duplication");
    must(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "error handler");
    must(MPI_Comm_rank(comm_, &rank_), "rank");
    must(MPI_Comm_size(comm_, &size_), "size");
    MPI_Comm host = MPI_COMM_NULL;
    must(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host), "split by host");
    must(MPI_Comm_rank(host, &local_rank_), "local rank");
    must(MPI_Comm_size(host, &local_size_), "local size");
    must(MPI_Comm_free(&host), "free");
  }

  ~MpiCommunicator() override {
    if (!failed_) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }
  std::string_view backend() const override { return "mpi"; }

  void all_reduce_sum(std::span<int32_t> values) override { all_reduce(values, MPI_INT32_T, MPI_SUM); }
  void all_reduce_sum(std::span<int64_t> values) override { all_reduce(values, MPI_INT64_T, MPI_SUM); }
  void all_reduce_sum(std::span<uint32_t> words) override { sum_words(words, MPI_UINT32_T); }
  void all_reduce_sum(std::span<uint64_t> words) override { sum_words(words, MPI_UINT64_T); }
  void all_reduce_max(std::span<int64_t> values) override { all_reduce(values, MPI_INT64_T, MPI_MAX); }

  // Not MPI_Allreduce: some of its algorithms add in another order on each rank.
  void all_reduce_sum(std::span<float> values) override {
    for_each_part(values, [&](std::span<float> part) {
      const int count = static_cast<int>(part.size());
      const void* send = rank_ == 0 ? MPI_IN_PLACE : part.data();
      void* receive = rank_ == 0 ? part.data() : nullptr;
      must(MPI_Reduce(send, receive, count, MPI_FLOAT, MPI_SUM, 0, comm_), "reduce");
      must(MPI_Bcast(part.data(), count, MPI_FLOAT, 0, comm_), "broadcast");
    });
  }

  void broadcast(std::span<std::byte> bytes, int root) override {
    DPFA_CHECK(root >= 0 && root < size_, "broadcast from rank ", root, " of ", size_);
    for_each_part(bytes, [&](std::span<std::byte> part) {
      must(MPI_Bcast(part.data(), static_cast<int>(part.size()), MPI_BYTE, root, comm_), "broadcast");
    });
  }

  std::vector<std::byte> all_gather(std::span<const std::byte> bytes) override {
    std::vector<std::byte> all(bytes.size() * static_cast<size_t>(size_)), gathered;
    size_t begin = 0;
    for_each_part(bytes, [&](std::span<const std::byte> part) {
      const int count = static_cast<int>(part.size());
      gathered.resize(part.size() * static_cast<size_t>(size_));
      must(MPI_Allgather(part.data(), count, MPI_BYTE, gathered.data(), count, MPI_BYTE, comm_),
           "all-gather");
      for (size_t r = 0; r < static_cast<size_t>(size_); ++r)
        std::memcpy(all.data() + r * bytes.size() + begin, gathered.data() + r * part.size(), part.size());
      begin += part.size();
    });
    return all;
  }

  void barrier() override { must(MPI_Barrier(comm_), "barrier"); }

  void abort(int exit_code) override {
    MPI_Abort(comm_, exit_code);
    _exit(exit_code);  // MPI_Abort may return where the launcher is gone
  }

 private:
  void must(int code, const char* operation) {
    if (code == MPI_SUCCESS) return;
    failed_ = true;
    session_->mark_failed();
    check(code, operation);
  }

  template <typename T, typename Call>
  void for_each_part(std::span<T> values, const Call& call) {
    for (size_t begin = 0; begin < values.size(); begin += limit_)
      call(values.subspan(begin, std::min(limit_, values.size() - begin)));
  }

  template <typename T>
  void all_reduce(std::span<T> values, MPI_Datatype type, MPI_Op operation) {
    for_each_part(values, [&](std::span<T> part) {
      must(MPI_Allreduce(MPI_IN_PLACE, part.data(), static_cast<int>(part.size()), type, operation, comm_),
           "all-reduce");
    });
  }

  template <typename Word>
  void sum_words(std::span<Word> words, MPI_Datatype type) {
    if (word_sums_ == WordSums::kByAllReduce) return all_reduce(words, type, MPI_SUM);
    std::vector<int> counts(static_cast<size_t>(size_)), begins(counts.size());
    std::vector<Word> slice;
    for_each_part(words, [&](std::span<Word> part) {
      const auto count = static_cast<int>(part.size());
      for (int r = 0, begin = 0; r < size_; begin += counts[static_cast<size_t>(r++)]) {
        counts[static_cast<size_t>(r)] = count / size_ + (r < count % size_ ? 1 : 0);
        begins[static_cast<size_t>(r)] = begin;
      }
      const int own = counts[static_cast<size_t>(rank_)];
      slice.resize(static_cast<size_t>(own));
      must(MPI_Reduce_scatter(part.data(), slice.data(), counts.data(), type, MPI_SUM, comm_),
           "reduce-scatter");
      must(MPI_Allgatherv(slice.data(), own, type, part.data(), counts.data(), begins.data(), type, comm_),
           "all-gather");
    });
  }

  std::shared_ptr<Session> session_;
  const size_t limit_;
  const WordSums word_sums_;
  bool failed_ = false;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator_with_limit(std::optional<int> expected_world_size,
                                                               size_t elements_per_call, WordSums word_sums) {
  // Read before MPI starts, which may change the environment.
  const std::optional<int> announced = announced_world_size();
  auto communicator = std::make_unique<MpiCommunicator>(Session::get(), elements_per_call, word_sums);
  const int size = communicator->size();
  if (size == 1 && announced.value_or(1) > 1)
    throw ConfigError(
        "MPI sees one rank, but the environment announces " + std::to_string(*announced) +
        ": each process would train alone with wrong noise and sampling. Start with mpirun of the "
        "same MPI, or with srun --mpi=pmix");
  if (expected_world_size) expect_world_size(*communicator, *expected_world_size);
  return communicator;
}

std::unique_ptr<Communicator> make_mpi_communicator(std::optional<int> expected_world_size,
                                                    WordSums word_sums) {
  return make_mpi_communicator_with_limit(expected_world_size, INT_MAX, word_sums);
}

}  // namespace dpfa::comm
