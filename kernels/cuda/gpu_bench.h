// What the verbs of gpu_bench share: shapes, results, timing by events on the default stream.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"

namespace dpfa::kernels::cuda {

struct BenchShape {
  int64_t layers = 12, width = 768, vocab = 50257, batch = 8, sequence = 1024, repeats = 20;
  int64_t slots = 0;  // examples of a microbatch; 0: all
  std::string compute = "bf16";
  std::string norms = "auto";  // or gram, direct, materialise: how all matrices are measured
  bool recompute = false;      // layers are run again before their backward pass
};

struct Timing {
  std::string name;
  double seconds, baseline_seconds;  // medians
  std::string baseline;
  std::string kernels = {};  // what computed it: the tensor path, or the name of the kernels of a step
  std::vector<std::pair<std::string, double>> more = {};  // further figures of this case, by their JSON names
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "making of an event"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  void record() { check(cudaEventRecord(event_, nullptr), "recording of an event"); }
  double seconds_since(const Event& start) const {
    check(cudaEventSynchronize(event_), "wait for the device");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "time between two events");
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.size() % 2 == 1 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}

inline std::string shape_text(const BenchShape& s, int64_t parameters) {
  return "gpt2-" + std::to_string((parameters + 500000) / 1000000) + "m/B" + std::to_string(s.batch) + "/T" +
         std::to_string(s.sequence) + "/" + s.compute;
}

// `gpu_bench step`: whole private steps beside the same engine's without privacy. In src/device where
// LibTorch is built in; otherwise it throws Unsupported.
std::vector<Timing> bench_step(const BenchShape& shape);
// `gpu_bench step --check`: private steps on the GPU beside steps on the CPU (tests/device/step_check.h), on
// shapes of its own. Prints what was compared and what differs; whether nothing does. As above without
// LibTorch.
bool check_step();

}  // namespace dpfa::kernels::cuda
