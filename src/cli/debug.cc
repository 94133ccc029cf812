#include <iostream>

#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/train/gradient_report.h"

namespace dpfa::cli {
namespace {

constexpr const char* kUsage =
    "dpfa debug gradients --model DIR --batch FILE --max_grad_norm C --out FILE   per-example gradients, NOT "
    "PRIVATE\n";

int run_gradients(const Arguments& arguments) {
  std::string model, batch, out;
  train::GradientOptions gradients;
  Options options(
      "dpfa debug gradients --model DIR --batch IN.safetensors --max_grad_norm C --out OUT.safetensors",
      "Writes per-example losses, gradient norms, clip factors and the clipped sum of a batch, to compare "
      "with "
      "other libraries. NOT PRIVATE.");
  options.require("model", &model, "Hugging Face folder of a GPT-2 model")
      .require("batch", &batch,
               "safetensors file: input_ids (B, T), optionally attention_mask and labels (-100 = ignored)")
      .require("max_grad_norm", &gradients.max_grad_norm, "clipping norm C")
      .require("out", &out, "safetensors file to write")
      .add("clipping", &gradients.clipping, "flat: min(1, C / norm); automatic: C / (norm + 0.01)")
      .add("numerics", &gradients.numerics, "exact or fp32")
      .add("compute", &gradients.compute, "fp32 or bf16")
      .add("microbatch_size", &gradients.microbatch_size, "examples per pass; 0: all at once");
  if (!options.parse(arguments)) return 0;
  train::report_gradients(model, batch, gradients, out);
  std::cerr << "dpfa: NOT PRIVATE: '" << out << "' holds losses, norms and an un-noised sum of gradients\n";
  return 0;
}

}  // namespace

int run_debug(const Arguments& arguments) {
  const std::string verb = arguments.empty() ? "--help" : arguments.front();
  if (verb == "gradients") return run_gradients({arguments.begin() + 1, arguments.end()});
  if (verb != "--help") throw ConfigError("'dpfa debug " + verb + "' does not exist; use gradients");
  std::cout << kUsage;
  return 0;
}

}  // namespace dpfa::cli
