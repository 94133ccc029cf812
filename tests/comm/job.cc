// A job for job_end_test.cc: all ranks sum in a loop until something ends it.
//
//   comm.job MODE    steps | killed | abort | stopped | exception | expect
// One rank kills, aborts, stops itself or throws in its fifth step; `steps` ends well after ten.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "comm/communicator.h"
#include "src/base/error.h"
#include "src/base/watchdog.h"

namespace {

int run(const std::string& mode, dpfa::comm::Communicator& world) {
  dpfa::Watchdog watchdog(world.rank(), std::chrono::seconds(2));
  const bool chosen = world.rank() == world.size() - 1;
  for (int step = 0; mode != "steps" || step < 10; ++step) {
    watchdog.progress("step");
    if (step == 5 && chosen) {
      if (mode == "killed") kill(getpid(), SIGKILL);
      if (mode == "stopped") kill(getpid(), SIGSTOP);
      if (mode == "abort") world.abort(5);
      if (mode == "exception") throw dpfa::IoError("the disk is full");
    }
    int64_t one = 1;
    world.all_reduce_sum(std::span(&one, 1));
    if (one != world.size()) return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "steps";
  std::unique_ptr<dpfa::comm::Communicator> world;
  try {
    world = dpfa::comm::make_mpi_communicator(mode == "expect" ? std::optional<int>(3) : std::nullopt);
    const int result = run(mode, *world);
    if (world->rank() == 0) std::printf("%d ranks ended with %d\n", world->size(), result);
    return result;
  } catch (const dpfa::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    if (world) world->abort(static_cast<int>(error.code()));
    return static_cast<int>(error.code());
  }
}
