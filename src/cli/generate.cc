#include <iostream>
#include <optional>

#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/train/frozen_model.h"
#include "src/train/generation.h"

namespace dpfa::cli {

int run_generate(const Arguments& arguments) {
  std::string checkpoint, prompt;
  int64_t count = 1;
  std::optional<int64_t> seed;
  train::SamplingOptions sampling;
  Options options("dpfa generate --checkpoint DIR [--prompt TEXT]",
                  "Prints texts that a model writes, one after the other.");
  options
      .require("checkpoint", &checkpoint,
               "folder with config.json, model.safetensors and a tokenizer, e.g. RUN/latest")
      .add("prompt", &prompt, "how the text begins")
      .add("count", &count, "number of texts")
      .add("max_tokens", &sampling.max_tokens, "tokens after the prompt, at most")
      .add("temperature", &sampling.temperature, "divides the logits; 0: always the most probable token")
      .add("top_k", &sampling.top_k, "only the k most probable tokens; 0: all")
      .add("seed", &seed, "repeats the texts of an earlier call (default: others each time)");
  if (!options.parse(arguments)) return 0;
  if (count < 0) throw ConfigError("--count: expected a whole number >= 0");
  train::check_sampling(sampling);
  const train::FrozenModel frozen(checkpoint);
  const auto tokenizer = train::tokenizer_of(checkpoint, frozen.shape());
  const RootKey root =
      seed ? RootKey::from_insecure_seed(static_cast<uint64_t>(*seed)) : RootKey::from_system();
  const StreamKey key = root.stream(Purpose::kSynthesis);
  model::Gpt2Decoder decoder(frozen.shape(), frozen.weights(), frozen.shape().positions);
  for (int64_t i = 0; i < count; ++i) {
    std::cout << train::generate_text(decoder, frozen.shape(), *tokenizer, prompt, sampling, key,
                                      static_cast<uint64_t>(i))
              << std::endl;
  }
  return 0;
}

}  // namespace dpfa::cli
