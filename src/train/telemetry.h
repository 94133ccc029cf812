// What leaves the process while it runs: metrics.jsonl and one progress line, both on rank 0.
//
// Public or released values only. Public: step, learning rate, charges, epsilon, loss on held-out records
// that the configuration declares public. Never: training loss, gradient norms, clip fractions, drawn counts,
// or the time of a single step. The ETA comes from the mean over all steps since the start. Values under
// "nonprivate" exist under
// --debug-nonprivate only, which stamps the run.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace dpfa::train {

class Telemetry {
 public:
  // Inactive on ranks other than 0. Appends to `run_dir`/metrics.jsonl, after dropping a last line that a
  // crash cut off.
  Telemetry(bool active, const std::filesystem::path& run_dir, int64_t steps);

  // One line of metrics; `fields` are public or released. Throws IoError.
  void write(const nlohmann::json& fields);
  // The progress line, only where stderr is a terminal and at most every two seconds. `text` is public.
  void progress(int64_t step, const std::string& text);
  // A sentence on its own line, on stderr.
  void say(const std::string& sentence);

 private:
  void clear_line();

  bool active_;
  bool terminal_;
  bool line_shown_ = false;
  std::filesystem::path path_;
  int64_t steps_;
  std::optional<int64_t> first_step_;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace dpfa::train
