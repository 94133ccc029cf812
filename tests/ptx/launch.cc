// Launches: a block's memory and registers, and the blocks of a grid on several threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

#include "tests/ptx/runtime.h"

namespace dpfa::ptx {

namespace {

struct Launch {
  const Module* module;
  const Kernel* kernel;
  dim3 grid, block;
  uint32_t dynamic_shared;
  std::vector<uint8_t> parameters;

  uint32_t threads() const { return block.x * block.y * block.z; }
};

void fill(uint8_t* registers, uint32_t place, uint8_t width, uint64_t value) {
  for (int l = 0; l < kLanes; ++l) std::memcpy(registers + place + l * width, &value, width);
}

uint32_t special(const Launch& launch, const uint32_t (&block)[3], Special which, int warp, int lane) {
  const uint32_t thread = static_cast<uint32_t>(warp * kLanes + lane), x = launch.block.x, y = launch.block.y;
  switch (which) {
    case Special::kTidX:
      return thread % x;
    case Special::kTidY:
      return thread / x % y;
    case Special::kTidZ:
      return thread / x / y;
    case Special::kNtidX:
      return launch.block.x;
    case Special::kNtidY:
      return launch.block.y;
    case Special::kNtidZ:
      return launch.block.z;
    case Special::kCtaidX:
      return block[0];
    case Special::kCtaidY:
      return block[1];
    case Special::kCtaidZ:
      return block[2];
    case Special::kNctaidX:
      return launch.grid.x;
    case Special::kNctaidY:
      return launch.grid.y;
    case Special::kNctaidZ:
      return launch.grid.z;
    case Special::kLane:
      return static_cast<uint32_t>(lane);
    case Special::kWarp:
      return static_cast<uint32_t>(warp);
    case Special::kLaneMaskLt:
      return (1u << lane) - 1;
    case Special::kDynamicShared:
      return launch.dynamic_shared;
    case Special::kClock:
      return 0;
  }
  return 0;
}

// A thread of the host with what its block needs, block after block.
struct Worker {
  Block block;
  std::vector<uint64_t> register_memory;
  std::vector<uint64_t> hits;

  void prepare(const Launch& launch);
  void clear_block();
  void start_warp(const Launch& launch, size_t number);
  void run(const Launch& launch, uint64_t number);
};

void Worker::prepare(const Launch& launch) {
  const Kernel& k = *launch.kernel;
  const uint32_t warps = (launch.threads() + kLanes - 1) / kLanes;
  register_memory.assign((size_t{k.register_bytes} * warps + 64) / 8 + 8, 0xFFFFFFFFFFFFFFFFu);
  hits.assign(k.code.size(), 0);
  block.module = launch.module, block.kernel = &k, block.hits = &hits;
  block.parameters = launch.parameters.data();
  const uint32_t end = kSharedStart + k.static_shared, a = k.dynamic_alignment;
  block.dynamic_start = (end + a - 1) / a * a;
  block.dynamic_bytes = launch.dynamic_shared;
  block.warps.resize(warps);
  auto* base =
      reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(register_memory.data()) + 63) / 64 * 64);
  for (uint32_t n = 0; n < warps; ++n) {
    uint8_t* registers = base + size_t{k.register_bytes} * n;
    block.warps[n].registers = registers;
    for (const Kernel::Preset& c : k.constants) fill(registers, c.place, c.width, c.value);
    for (const auto& [place, width] : k.dynamic_base) fill(registers, place, width, block.dynamic_start);
  }
}

void Worker::clear_block() {
  const size_t shared = block.dynamic_start - kSharedStart + block.dynamic_bytes;
  block.shared.assign(shared, 0xFF);
  block.shared_written.assign(shared, 0);
  block.shared_unfenced.assign(shared, 0);
  block.uses.assign(shared / 4 + 1, {});
  block.epoch = 1;
  for (auto& b : block.barriers) b = {};
  block.memory_barriers.clear();
  block.copies.clear();
  block.acquired_maps.clear();
}

void Worker::start_warp(const Launch& launch, size_t number) {
  const Kernel& k = *launch.kernel;
  Warp w;
  w.block = &block, w.registers = block.warps[number].registers, w.number = static_cast<int>(number);
  const uint32_t left = launch.threads() - static_cast<uint32_t>(number) * kLanes;
  w.live = left >= kLanes ? kAll : (1u << left) - 1;
  w.groups = {{0, w.live, false}};
  if (k.local_bytes > 0) w.local.assign(size_t{k.local_bytes} * kLanes, 0xFF);
  for (const auto& [place, which] : k.specials)
    for (int l = 0; l < kLanes; ++l) {
      const uint32_t value = special(launch, block.number, which, w.number, l);
      std::memcpy(w.registers + place + 4 * l, &value, 4);
    }
  block.warps[number] = std::move(w);
}

void Worker::run(const Launch& launch, uint64_t number) {
  block.number[0] = static_cast<uint32_t>(number % launch.grid.x);
  block.number[1] = static_cast<uint32_t>(number / launch.grid.x % launch.grid.y);
  block.number[2] = static_cast<uint32_t>(number / launch.grid.x / launch.grid.y);
  block.random = options().seed * 2654435761u + static_cast<uint32_t>(number) + 1;
  clear_block();
  for (size_t n = 0; n < block.warps.size(); ++n) start_warp(launch, n);
  block.run();
}

void run_blocks(const Launch& launch, Statistics& statistics) {
  const uint64_t blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  const auto count =
      static_cast<size_t>(std::min<uint64_t>(blocks, static_cast<uint64_t>(options().threads)));
  static std::vector<Worker> workers(static_cast<size_t>(options().threads));
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  std::string failure;
  const auto work = [&](Worker& worker) {
    try {
      worker.prepare(launch);
      for (uint64_t n; (n = next++) < blocks;) worker.run(launch, n);
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex);
      if (failure.empty()) failure = error.what();
      next = blocks;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < count; ++i) threads.emplace_back([&, i] { work(workers[i]); });
  work(workers[0]);
  for (std::thread& t : threads) t.join();
  ++statistics.launches;
  statistics.blocks += static_cast<int64_t>(blocks);
  statistics.hits.resize(launch.kernel->code.size());
  for (size_t i = 0; i < count; ++i)
    for (size_t k = 0; k < statistics.hits.size(); ++k) statistics.hits[k] += workers[i].hits[k];
  if (!failure.empty()) throw Fault(failure);
}

// CUDA C++ Programming Guide, technical specifications per compute capability.
bool is_allowed(const Kernel& kernel, dim3 grid, dim3 block, size_t shared, size_t limit) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return threads > 0 && threads <= kernel.most_threads && grid.x > 0 && grid.y > 0 && grid.z > 0 &&
         grid.x <= 0x7FFFFFFFu && grid.y <= 65535 && grid.z <= 65535 &&
         shared + kernel.static_shared <= limit;
}

}  // namespace

size_t shared_limit() { return (options().capability == 80 ? 163 : 227) * 1024; }

cudaError_t launch_kernel(const void* key, dim3 grid, dim3 block, void** arguments, size_t shared) {
  Runtime& r = runtime();
  const std::lock_guard lock(r.mutex);
  const auto found = r.functions.find(key);
  if (found == r.functions.end()) return answer(cudaErrorInvalidDeviceFunction);
  const Module* module = module_for_device(r.binaries[static_cast<size_t>(found->second.binary)]);
  if (module == nullptr) return answer(cudaErrorNoKernelImageForDevice);
  const auto kernel = module->kernels.find(found->second.name);
  if (kernel == module->kernels.end()) return answer(cudaErrorInvalidDeviceFunction);
  const size_t limit = shared <= found->second.most_dynamic ? shared_limit() : 48 * 1024;
  if (!is_allowed(*kernel->second, grid, block, shared, limit)) return answer(cudaErrorInvalidValue);
  Launch launch = {module, kernel->second.get(), grid, block, static_cast<uint32_t>(shared), {}};
  launch.parameters.resize(launch.kernel->parameter_bytes + 8);
  for (size_t i = 0; i < launch.kernel->parameters.size(); ++i)
    std::memcpy(launch.parameters.data() + launch.kernel->parameters[i].first, arguments[i],
                launch.kernel->parameters[i].second);
  Statistics& statistics = r.statistics[launch.kernel->name];
  const auto begin = std::chrono::steady_clock::now();
  try {
    run_blocks(launch, statistics);
  } catch (const Fault& error) {
    std::fprintf(stderr, "ptx: FAULT: %s\n", error.what());
    ++r.faults;
    r.sticky = cudaErrorIllegalAddress;
  }
  statistics.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return cudaSuccess;  // as a launch that was accepted; what went wrong comes with the next call
}

}  // namespace dpfa::ptx
