#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>

#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/plan/config.h"
#include "src/train/collective.h"
#include "src/train/run_setup.h"
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

void print_error(const comm::Communicator& communicator, const std::string& what) {
  const std::string where =
      communicator.size() > 1 ? "rank " + std::to_string(communicator.rank()) + ": " : "";
  std::cerr << "dpfa: " << where << what << std::endl;
}

struct Request {
  train::RunOptions run;
  bool help = false;  // answered already
  bool print_config = false;
};

Request read_request(const Arguments& arguments) {
  Request request;
  train::RunOptions& run = request.run;
  std::string config_file, resume;
  std::vector<plan::Override> overrides;
  std::optional<int64_t> insecure_seed;
  Options options("dpfa train --config F.ini [--section.key value ...] [--resume RUN]",
                  "Trains a model; alone, under mpirun or under srun.");
  options.add("config", &config_file, "INI file; docs/configuration.md lists every key")
      .add("resume", &resume, "run directory to continue, with its own config.ini unless --config is given")
      .flag("dry_run", &run.dry_run, "print the privacy statement and stop")
      .flag("print_config", &request.print_config, "print the resolved configuration and stop")
      .add("insecure_seed", &insecure_seed, "reproducible keys, for tests: the run is stamped NOT PRIVATE")
      .flag("debug_nonprivate", &run.debug_nonprivate,
            "write private values to metrics.jsonl: the run is stamped NOT PRIVATE")
      .overrides(&overrides);
  request.help = !options.parse(arguments);
  if (request.help) return request;
  run.resume = !resume.empty();
  run.config =
      plan::load_config(config_file.empty() && run.resume ? resume + "/config.ini" : config_file, overrides);
  if (run.resume) run.config.output.dir = resume;
  if (insecure_seed) run.insecure_seed = static_cast<uint64_t>(*insecure_seed);
  return request;
}

// An error on one rank must not leave the others waiting in a collective: it is printed once and ends the
// job.
int run_guarded(comm::Communicator& communicator, const std::function<train::Outcome()>& work) {
  ExitCode code = ExitCode::kInternal;
  try {
    const int result = exit_code(work());
    if (train::terminate_requested()) {  // mpirun kills in about two seconds, and MPI_Finalize may wait
                                         // longer
      std::fflush(nullptr);
      _exit(result);
    }
    return result;
  } catch (const train::AgreedError& error) {
    if (communicator.rank() == 0) std::cerr << "dpfa: " << error.what() << std::endl;
    return static_cast<int>(error.code());
  } catch (const Error& error) {
    code = error.code();
    print_error(communicator, error.what());
  } catch (const std::exception& error) {
    print_error(communicator, "internal error: " + std::string(error.what()));
  }
  if (communicator.size() > 1) communicator.abort(static_cast<int>(code));
  return static_cast<int>(code);
}

}  // namespace

int run_train(const Arguments& arguments) {
  Request request;
  std::exception_ptr problem;
  try {
    request = read_request(arguments);
    if (request.print_config && !request.help) std::cout << plan::to_ini(request.run.config);
    if (request.help || request.print_config) return 0;
  } catch (const Error&) {
    if (comm::announced_world_size().value_or(1) == 1) throw;
    problem = std::current_exception();  // to be told once, not by every rank
  }
  train::keep_freed_memory();
  // Ranks that were given another one are found before the first sum: their configurations are compared.
  const auto communicator =
      comm::make_mpi_communicator(std::nullopt, request.run.config.aggregation.collective == "reduce_scatter"
                                                    ? comm::WordSums::kByReduceScatter
                                                    : comm::WordSums::kByAllReduce);
  return run_guarded(*communicator, [&] {
    train::on_every_rank(*communicator, [&] {
      if (problem) std::rethrow_exception(problem);
      const auto& expected = request.run.config.runtime.expected_world_size;
      if (expected) comm::expect_world_size(*communicator, static_cast<int>(*expected));
    });
    return train::run_training(request.run, *communicator);
  });
}

}  // namespace dpfa::cli
