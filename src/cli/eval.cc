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

int run_eval(const Arguments& arguments) {
  std::string checkpoint, data_dir;
  int64_t context = 0;
  bool is_public = false, json = false;
  Options options("dpfa eval --checkpoint DIR --data DIR --public",
                  "Prints the loss per token of a model on public records. Runs under mpirun too.");
  options.require("checkpoint", &checkpoint, "folder with config.json and model.safetensors, e.g. RUN/latest")
      .require("data", &data_dir, "data set written by dpfa data prepare")
      .add("context", &context, "tokens of each record that count; 0: the model's positions")
      .flag("public", &is_public, "declares that the records are public; without it nothing is computed")
      .flag("json", &json, "print one JSON object");
  if (!options.parse(arguments)) return 0;
  if (!is_public) {
    throw ConfigError("held-out records count as private, and a loss on them is not covered by any epsilon: give --public "
                      "if these records may be published");
  }
  const int ranks = comm::announced_world_size().value_or(1);
  const auto communicator = ranks > 1 ? comm::make_mpi_communicator(ranks) : comm::make_self_communicator();
  train::FrozenModel frozen(checkpoint);
  const int64_t positions = frozen.shape().positions;
  if (context < 0 || context > positions)
    throw ConfigError("--context: expected a whole number from 1 to the model's " + std::to_string(positions) +
                      " positions, or 0");
  if (context == 0) context = positions;
  const data::Dataset dataset = data::Dataset::open(data_dir);
  const train::HeldOutLoss result = train::evaluate(frozen.gpt2(), dataset, context,
                                                    train::slots_for(frozen.shape(), context), *communicator);
  if (communicator->rank() != 0) return 0;
  if (result.tokens == 0) throw StateError("'" + data_dir + "' has no token to predict");
  const double perplexity = std::exp(result.loss_per_token);
  if (json) {
    std::cout << nlohmann::ordered_json{{"loss", result.loss_per_token},
                                        {"perplexity", perplexity},
                                        {"tokens", result.tokens},
                                        {"records", result.records},
                                        {"context", context}}
              << "\n";
  } else {
    std::cout << std::setprecision(6) << result.loss_per_token << " nats per token (perplexity " << perplexity << ", "
              << result.tokens << " tokens of " << result.records << " records)\n";
  }
  return 0;
}

}  // namespace dpfa::cli
