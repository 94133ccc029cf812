#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <thread>

#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/plan/config.h"
#include "src/train/collective.h"
#include "src/train/stop_signal.h"
#include "src/train/trainer.h"

namespace dpfa::cli {
namespace {

int exit_code(train::Outcome outcome) {
  switch (outcome) {
    case train::Outcome::kFinished:
      return static_cast<int>(ExitCode::kDone);
    case train::Outcome::kStopped:
      return static_cast<int>(ExitCode::kStopRequested);
    case train::Outcome::kBudgetExhausted:
      return static_cast<int>(ExitCode::kBudgetExhausted);
  }
  return static_cast<int>(ExitCode::kInternal);
}

void print_error(const comm::Communicator& communicator, const char* what) {
  const std::string where = communicator.size() > 1 ? " (rank " + std::to_string(communicator.rank()) + ")" : "";
  std::cerr << "dpfa train: " << what << where << '\n';
}

// An error on one rank must not leave the others waiting in a collective: it is printed once and ends the job.
int run_guarded(const train::RunOptions& options, comm::Communicator& communicator) {
  ExitCode code = ExitCode::kInternal;
  try {
    const int result = exit_code(train::run_training(options, communicator));
    if (train::terminate_requested()) {  // mpirun kills in about two seconds, and MPI_Finalize may wait longer
      std::fflush(nullptr);
      _exit(result);
    }
    return result;
  } catch (const train::AgreedError& error) {
    if (communicator.rank() == 0) print_error(communicator, error.what());
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    code = error.code();
    print_error(communicator, error.what());
  } catch (const std::exception& error) {
    print_error(communicator, error.what());
  }
  if (communicator.size() > 1) communicator.abort(static_cast<int>(code));
  return static_cast<int>(code);
}

}  // namespace

int run_train(const Arguments& arguments) {
  train::RunOptions run;
  std::string config_file, resume;
  std::vector<plan::Override> overrides;
  std::optional<int64_t> insecure_seed;
  bool print_config = false;
  Options options("dpfa train --config F.ini [--section.key value ...] [--resume RUN]",
                  "Trains a model; alone, under mpirun or under srun.");
  options.add("config", &config_file, "INI file; docs/configuration.md lists every key")
      .add("resume", &resume, "run directory to continue, with its own config.ini unless --config is given")
      .flag("dry_run", &run.dry_run, "print the privacy statement and stop")
      .flag("print_config", &print_config, "print the resolved configuration and stop")
      .add("insecure_seed", &insecure_seed, "reproducible keys, for tests: the run is stamped NOT PRIVATE")
      .flag("debug_nonprivate", &run.debug_nonprivate,
            "write private values to metrics.jsonl: the run is stamped NOT PRIVATE")
      .overrides(&overrides);
  if (!options.parse(arguments)) return 0;
  if (config_file.empty() && !resume.empty()) config_file = resume + "/config.ini";
  run.config = plan::load_config(config_file, overrides);
  if (!resume.empty()) {
    run.resume = true;
    run.config.output.dir = resume;
  }
  if (insecure_seed) run.insecure_seed = static_cast<uint64_t>(*insecure_seed);
  if (print_config) {
    std::cout << plan::to_ini(run.config);
    return 0;
  }
  // Activations come and go with the same sizes at every step: keep their pages instead of returning them.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, -1);
  std::optional<int> expected;
  if (run.config.runtime.expected_world_size) expected = static_cast<int>(*run.config.runtime.expected_world_size);
  const auto communicator = comm::make_mpi_communicator(expected);
  return run_guarded(run, *communicator);
}

}  // namespace dpfa::cli
