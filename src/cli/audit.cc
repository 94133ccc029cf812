#include <iomanip>
#include <iostream>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/train/exposure.h"
#include "src/train/frozen_model.h"

namespace dpfa::cli {
namespace {

constexpr const char* kUsage =
    "dpfa audit exposure --checkpoint DIR --canaries FILE   how much a model has memorised of planted "
    "secrets\n";

int run_exposure(const Arguments& arguments) {
  std::string checkpoint, canaries;
  int64_t candidates = 1024;
  bool json = false;
  Options options(
      "dpfa audit exposure --checkpoint DIR --canaries FILE",
      "Prints the exposure of each canary: log2(candidates) - log2(rank of the true secret by loss among "
      "random ones of its format), and the median. About 1 bit: nothing memorised.");
  options
      .require("checkpoint", &checkpoint,
               "folder with config.json, model.safetensors and a tokenizer, e.g. RUN/latest")
      .require("canaries", &canaries, "canaries.json, written by dpfa data synth")
      .add("candidates", &candidates, "secrets compared for each canary; exposure is at most log2 of it")
      .flag("json", &json, "print one JSON object");
  if (!options.parse(arguments)) return 0;
  const train::CanarySet set = train::read_canaries(canaries);
  const train::FrozenModel frozen(checkpoint);
  const auto tokenizer = train::tokenizer_of(checkpoint, frozen.shape());
  const auto exposures =
      train::measure_exposure(frozen.shape(), frozen.weights(), *tokenizer, set, candidates);
  const double median = train::median_bits(exposures);
  if (json) {
    nlohmann::ordered_json result = {{"candidates", candidates},
                                     {"canaries", nlohmann::ordered_json::array()}};
    for (size_t i = 0; i < exposures.size(); ++i)
      result["canaries"].push_back({{"prefix", set.canaries[i].prefix},
                                    {"record", set.canaries[i].record},
                                    {"rank", exposures[i].rank},
                                    {"exposure_bits", exposures[i].bits}});
    result["median_exposure_bits"] = median;
    std::cout << result << "\n";
    return 0;
  }
  std::cout << std::fixed << std::setprecision(2);
  for (size_t i = 0; i < exposures.size(); ++i) {
    std::cout << std::setw(6) << exposures[i].bits << " bits, rank " << std::setw(5) << exposures[i].rank
              << " of " << candidates << "  record " << set.canaries[i].record << "  "
              << set.canaries[i].prefix << "\n";
  }
  std::cout << std::setw(6) << median << " bits: median of " << exposures.size() << " canaries\n"
            << "Exposures describe private records: they are for the data's owner, not for publication.\n";
  return 0;
}

}  // namespace

int run_audit(const Arguments& arguments) {
  const std::string verb = arguments.empty() ? "--help" : arguments.front();
  if (verb == "exposure") return run_exposure({arguments.begin() + 1, arguments.end()});
  if (verb != "--help") throw ConfigError("'dpfa audit " + verb + "' does not exist; use exposure");
  std::cout << kUsage;
  return 0;
}

}  // namespace dpfa::cli
