#include "src/base/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "src/base/error.h"

namespace dpfa {

using Clock = std::chrono::steady_clock;

struct Watchdog::State {
  State(int rank_of_process, Clock::duration shortest) : rank(rank_of_process), minimum(shortest) {}

  const int rank;
  const Clock::duration minimum;
  std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  const char* phase = "start";
  Clock::time_point last = Clock::now();
  Clock::duration longest_gap{};
  bool first_gap_seen = false;
  std::thread thread;

  Clock::duration deadline() const { return std::max(minimum, 10 * longest_gap); }

  // Writes and leaves without destructors, atexit handlers or MPI: any of them may be what hangs.
  [[noreturn]] void end_process(Clock::duration silent) const {
    char line[256];
    const int length = std::snprintf(
        line, sizeof(line),
        "dpfa: rank %d: no progress for %.0f s since phase '%s'; a peer or the network is probably "
        "lost. The process ends with code %d; start again with --resume.\n",
        rank, std::chrono::duration<double>(silent).count(), phase, static_cast<int>(ExitCode::kHang));
    if (write(STDERR_FILENO, line, std::min<size_t>(length, sizeof(line) - 1)) < 0) {
      // Nobody can be told; the exit code still says it.
    }
    _exit(static_cast<int>(ExitCode::kHang));
  }

  void watch() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      const Clock::duration silent = Clock::now() - last;
      if (silent >= deadline()) end_process(silent);
      wake.wait_until(lock, last + deadline());
    }
  }
};

Watchdog::Watchdog(int rank, std::chrono::seconds minimum) {
  if (minimum <= std::chrono::seconds::zero()) return;
  state_ = std::make_unique<State>(rank, minimum);
  state_->thread = std::thread([state = state_.get()] { state->watch(); });
}

Watchdog::~Watchdog() {
  if (!state_) return;
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_one();
  state_->thread.join();
}

void Watchdog::progress(const char* phase) {
  if (!state_) return;
  // No wake-up: the thread sleeps to a deadline that this call only moves away.
  std::lock_guard lock(state_->mutex);
  const Clock::time_point now = Clock::now();
  if (state_->first_gap_seen) state_->longest_gap = std::max(state_->longest_gap, now - state_->last);
  state_->first_gap_seen = true;
  state_->last = now;
  state_->phase = phase;
}

}  // namespace dpfa
