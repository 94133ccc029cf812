#include "src/train/telemetry.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "src/base/error.h"
#include "src/base/file.h"

namespace dpfa::train {
namespace {

constexpr int64_t kStepsBeforeEta = 5;  // an ETA from one or two steps would tell their size

std::string clock_text(double seconds) {
  char text[32];
  const auto total = static_cast<long long>(seconds);
  std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  return text;
}

void drop_torn_line(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return;
  size_t whole;
  {
    const MappedFile file(path);
    whole = file.text().rfind('\n') + 1;  // npos + 1 is 0
    if (whole == file.text().size()) return;
  }
  std::error_code error;
  std::filesystem::resize_file(path, whole, error);
  if (error) throw IoError("cannot shorten '" + path.string() + "': " + error.message());
}

}  // namespace

Telemetry::Telemetry(bool active, const std::filesystem::path& run_dir, int64_t steps)
    : active_(active),
      terminal_(active && isatty(STDERR_FILENO) == 1),
      path_(run_dir / "metrics.jsonl"),
      steps_(steps) {
  if (active_) drop_torn_line(path_);
}

void Telemetry::write(const nlohmann::json& fields) {
  if (!active_) return;
  std::ofstream file(path_, std::ios::app);
  file << fields.dump() << '\n';
  file.flush();
  if (!file) throw IoError("cannot write '" + path_.string() + "'");
}

void Telemetry::progress(int64_t step, const std::string& text) {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (!first_step_) {
    first_step_ = step;
    start_ = now;
    last_ = now - std::chrono::hours(1);
  }
  if (now - last_ < std::chrono::seconds(2) && step < steps_) return;
  last_ = now;
  std::string eta;
  const int64_t done = step - *first_step_;
  if (done >= kStepsBeforeEta && step < steps_)
    eta = " | ETA " + clock_text(std::chrono::duration<double>(now - start_).count() /
                                 static_cast<double>(done) * static_cast<double>(steps_ - step));
  std::fprintf(stderr, "\r\033[Kstep %lld/%lld%s%s", static_cast<long long>(step),
               static_cast<long long>(steps_), text.c_str(), eta.c_str());
  std::fflush(stderr);
  line_shown_ = true;
}

void Telemetry::say(const std::string& sentence) {
  if (!active_) return;
  clear_line();
  std::fprintf(stderr, "%s\n", sentence.c_str());
}

void Telemetry::clear_line() {
  if (line_shown_) std::fprintf(stderr, "\n");
  line_shown_ = false;
}

}  // namespace dpfa::train
