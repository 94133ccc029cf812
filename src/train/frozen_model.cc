#include "src/train/frozen_model.h"

#include <algorithm>
#include <string>

#include "src/base/error.h"
#include "src/model/gpt2_io.h"

namespace dpfa::train {

FrozenModel::FrozenModel(const std::filesystem::path& dir, at::ScalarType compute)
    : gpt2_(model::read_gpt2_shape(dir), compute), weights_(gpt2_.shape().parameter_count()) {
  model::load_gpt2_weights(dir, gpt2_.shape(), weights_.span());
  gpt2_.bind(weights_.span());
}

std::unique_ptr<data::Tokenizer> tokenizer_of(const std::filesystem::path& dir,
                                              const plan::Gpt2Shape& shape) {
  const bool hugging_face =
      std::filesystem::exists(dir / "vocab.json") && std::filesystem::exists(dir / "merges.txt");
  if (!hugging_face && !std::filesystem::exists(dir / data::kTokenizerFile)) {
    throw IoError("'" + dir.string() + "' has no tokenizer: expected " + data::kTokenizerFile +
                  ", or vocab.json and merges.txt");
  }
  auto tokenizer = std::filesystem::exists(dir / data::kTokenizerFile) ? data::load_tokenizer(dir)
                                                                       : data::load_gpt2_tokenizer(dir);
  if (tokenizer->vocab_size() > shape.vocab) {
    throw StateError("the tokenizer of '" + dir.string() + "' has " +
                     std::to_string(tokenizer->vocab_size()) + " tokens, its model " +
                     std::to_string(shape.vocab));
  }
  return tokenizer;
}

int64_t slots_for(const plan::Gpt2Shape& shape, int64_t tokens) {
  constexpr int64_t kLogits = int64_t{1} << 24;
  constexpr int64_t kMostSlots = 128;
  return std::clamp<int64_t>(kLogits / std::max<int64_t>(tokens * shape.vocab, 1), 1, kMostSlots);
}

}  // namespace dpfa::train
