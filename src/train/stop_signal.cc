#include "src/train/stop_signal.h"

#include <csignal>

namespace dpfa::train {
namespace {

volatile std::sig_atomic_t g_stop = 0;
volatile std::sig_atomic_t g_terminate = 0;

extern "C" void note_stop(int signal) {
  g_stop = 1;
  if (signal == SIGTERM) g_terminate = 1;
}

}  // namespace

void watch_stop_signals() {
  g_stop = 0;
  g_terminate = 0;
  struct sigaction action {};
  action.sa_handler = note_stop;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGXFSZ, SIG_IGN);
}

bool stop_requested() { return g_stop != 0; }
bool terminate_requested() { return g_terminate != 0; }

}  // namespace dpfa::train
