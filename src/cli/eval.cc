#include <cmath>
#include <iomanip>
#include <iostream>

#include <nlohmann/json.hpp>

#include "comm/communicator.h"
#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/train/evaluation.h"
#include "src/train/frozen_model.h"

namespace dpfa::cli {
namespace {

struct Request {
  std::string checkpoint, data;
  int64_t context = 0;
  bool is_public = false, json = false;
};

void print(const train::HeldOutLoss& result, int64_t context, bool json) {
  const double perplexity = std::exp(result.loss_per_token);
  if (json) {
    std::cout << nlohmann::ordered_json{{"loss", result.loss_per_token},
                                        {"perplexity", perplexity},
                                        {"tokens", result.tokens},
                                        {"records", result.records},
                                        {"context", context}}
              << "\n";
  } else {
    std::cout << std::setprecision(6) << result.loss_per_token << " nats per token (perplexity " << perplexity
              << ", " << result.tokens << " tokens of " << result.records << " records)\n";
  }
}

void evaluate_and_print(const Request& request, comm::Communicator& communicator) {
  train::FrozenModel frozen(request.checkpoint);
  const int64_t positions = frozen.shape().positions;
  if (request.context < 0 || request.context > positions) {
    throw ConfigError("--context: expected a whole number from 1 to the model's " +
                      std::to_string(positions) + " positions, or 0 for all of them");
  }
  const int64_t context = request.context == 0 ? positions : request.context;
  const data::Dataset dataset = data::Dataset::open(request.data);
  const int64_t slots = train::slots_for(frozen.shape(), context);
  const train::HeldOutLoss result = train::evaluate(frozen.gpt2(), dataset, context, slots, communicator);
  if (result.tokens == 0) throw StateError("'" + request.data + "' has no token to predict");
  if (communicator.rank() == 0) print(result, context, request.json);
}

}  // namespace

int run_eval(const Arguments& arguments) {
  Request request;
  Options options("dpfa eval --checkpoint DIR --data DIR --public",
                  "Prints the loss per token of a model on public records. Runs under mpirun too.");
  options
      .require("checkpoint", &request.checkpoint,
               "folder with config.json and model.safetensors, e.g. RUN/latest")
      .require("data", &request.data, "data set written by dpfa data prepare")
      .add("context", &request.context, "tokens of each record that count; 0: the model's positions")
      .flag("public", &request.is_public,
            "declares that the records are public; without it nothing is computed")
      .flag("json", &request.json, "print one JSON object");
  if (!options.parse(arguments)) return 0;
  if (!request.is_public) {
    throw ConfigError(
        "held-out records count as private, and a loss on them is covered by no epsilon: give --public if "
        "these records may be published");
  }
  const bool alone = comm::announced_world_size().value_or(1) == 1;
  const auto communicator =
      alone ? comm::make_self_communicator() : comm::make_mpi_communicator(std::nullopt);
  try {
    evaluate_and_print(request, *communicator);
  } catch (const Error& error) {
    if (alone) throw;
    std::cerr << "dpfa: rank " << communicator->rank() << ": " << error.what() << std::endl;
    communicator->abort(static_cast<int>(error.code()));  // the others may wait for this rank
  }
  return 0;
}

}  // namespace dpfa::cli
