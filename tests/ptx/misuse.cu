// ptx_misuse KIND: runs one kernel of one block on 64 numbers that reverses them through shared memory,
// correctly (KIND `none`) or with one mistake that the interpreter must report. Exit code 0: the numbers are
// reversed; 1: they are not; 2: no such kind. Where the interpreter has something to report it ends the
// program with its own code.
#include <cstdio>
#include <cstring>

namespace {

constexpr int kThreads = 64;

enum class Kind { kNone, kMissingBarrier, kStoreOutside, kUnwrittenShared };

template <Kind kKind>
__global__ void reverse(const int* from, int* to) {
  __shared__ int turned[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  if (kKind != Kind::kUnwrittenShared || thread != 5) turned[kThreads - 1 - thread] = from[thread];
  if (kKind != Kind::kMissingBarrier) __syncthreads();
  to[kKind == Kind::kStoreOutside ? thread + 1 : thread] = turned[thread];
}

template <Kind kKind>
int run() {
  int numbers[kThreads], *from = nullptr, *to = nullptr;
  for (int i = 0; i < kThreads; ++i) numbers[i] = i;
  cudaMalloc(&from, sizeof(numbers));
  cudaMalloc(&to, sizeof(numbers));
  cudaMemcpy(from, numbers, sizeof(numbers), cudaMemcpyHostToDevice);
  reverse<kKind><<<1, kThreads>>>(from, to);
  if (cudaMemcpy(numbers, to, sizeof(numbers), cudaMemcpyDeviceToHost) != cudaSuccess) return 1;
  for (int i = 0; i < kThreads; ++i)
    if (numbers[i] != kThreads - 1 - i) return 1;
  std::puts("reversed");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* kind = argc == 2 ? argv[1] : "";
  if (std::strcmp(kind, "none") == 0) return run<Kind::kNone>();
  if (std::strcmp(kind, "missing_barrier") == 0) return run<Kind::kMissingBarrier>();
  if (std::strcmp(kind, "store_outside") == 0) return run<Kind::kStoreOutside>();
  if (std::strcmp(kind, "unwritten_shared") == 0) return run<Kind::kUnwrittenShared>();
  std::puts("ptx_misuse none|missing_barrier|store_outside|unwritten_shared");
  return 2;
}
