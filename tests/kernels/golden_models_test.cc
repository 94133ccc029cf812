// The tiny models against gradients that other software computed: Hugging Face's own models in double, one
// example at a time, where that test material is present.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "src/model/safetensors.h"
#include "tests/kernels/model_pass.h"

namespace dpfa::kernels::test {
namespace {

namespace fs = std::filesystem;
using model::SafetensorsFile;
using nlohmann::json;

json read_json(const fs::path& path) { return json::parse(std::ifstream(path)); }

at::Tensor read_tensor(const SafetensorsFile& file, const std::string& name) {
  const model::TensorView& view = file.at(name);
  std::vector<float> values(view.elements());
  file.read_floats(name, values);
  return at::tensor(values, at::kDouble).view(view.shape);
}

LlamaConfig llama_config(const json& c) {
  return {.vocab = c.at("vocab_size"),
          .width = c.at("hidden_size"),
          .inner = c.at("intermediate_size"),
          .layers = c.at("num_hidden_layers"),
          .heads = c.at("num_attention_heads"),
          .key_heads = c.at("num_key_value_heads"),
          .head_width = c.at("head_dim"),
          .epsilon = c.at("rms_norm_eps"),
          .theta = c.at("rope_theta"),
          .is_tied = c.at("tie_word_embeddings"),
          .attention_bias = c.at("attention_bias"),
          .mlp_bias = c.at("mlp_bias")};
}

BertConfig bert_config(const json& c) {
  return {.vocab = c.at("vocab_size"),
          .width = c.at("hidden_size"),
          .inner = c.at("intermediate_size"),
          .layers = c.at("num_hidden_layers"),
          .heads = c.at("num_attention_heads"),
          .positions = c.at("max_position_embeddings"),
          .kinds = c.at("type_vocab_size"),
          .labels = static_cast<int64_t>(c.at("id2label").size()),
          .padding = c.at("pad_token_id"),
          .epsilon = c.at("layer_norm_eps")};
}

// Examples without their padding. Labels of tokens stand at the token itself and are predicted by the one
// before it; a label of an example, by its first token.
Batch golden_batch(const SafetensorsFile& file) {
  const int64_t columns = file.at("input_ids").shape[1], rows = file.at("input_ids").shape[0];
  const auto ids = file.read_integers("input_ids"), mask = file.read_integers("attention_mask"),
             labels = file.read_integers("labels");
  const bool of_tokens = file.at("labels").shape.size() == 2;
  std::vector<int64_t> kinds(ids.size(), 0);
  if (file.contains("token_type_ids")) kinds = file.read_integers("token_type_ids");
  Batch batch;
  for (int64_t b = 0; b < rows; ++b) {
    const int64_t begin = b * columns, start = batch.offsets.back();
    int64_t tokens = 0, count = 0;
    while (tokens < columns && mask[begin + tokens] != 0) ++tokens;
    for (int64_t t = 0; t < tokens; ++t) {
      batch.ids.push_back(ids[begin + t]);
      batch.kinds.push_back(kinds[begin + t]);
      const bool has_next = t + 1 < tokens;
      batch.targets.push_back(of_tokens ? (has_next ? labels[begin + t + 1] : -100)
                              : t == 0  ? labels[b]
                                        : -100);
      count += batch.targets.back() >= 0;
    }
    batch.offsets.push_back(start + tokens);
    batch.weights.resize(start + tokens, 1 / static_cast<double>(count));
  }
  return batch;
}

TinyModel golden_model(const fs::path& folder) {
  const json config = read_json(folder / "model/config.json");
  const auto file = SafetensorsFile::open(folder / "model/model.safetensors");
  const Fill fill = [&](const std::string& name, at::IntArrayRef shape) {
    at::Tensor values = read_tensor(file, name);
    EXPECT_EQ(values.sizes(), shape) << name;
    return values;
  };
  TinyModel model;
  if (config.at("model_type") == "llama") {
    const LlamaConfig c = llama_config(config);
    model.parameters = llama_parameters(c, fill);
    model.logits = [c](Tape& tape, const Batch& batch) { return llama_logits(c, tape, batch); };
  } else {
    const BertConfig c = bert_config(config);
    model.parameters = bert_parameters(c, fill);
    model.logits = [c](Tape& tape, const Batch& batch) { return bert_logits(c, tape, batch); };
  }
  EXPECT_EQ(model.parameters.all().size(), file.tensors().size());
  model.batch = golden_batch(SafetensorsFile::open(folder / "batch.safetensors"));
  return model;
}

// Tolerances: 1e-4 of a tensor and 1e-5 of all, so that one that is zero but for rounding (the bias of BERT's
// keys) passes.
void expect_golden(const fs::path& folder, at::ScalarType type) {
  const TinyModel model = golden_model(folder);
  const auto expected = SafetensorsFile::open(folder / "expected.safetensors");
  const double clip = read_json(folder / "case.json").at("max_grad_norm");
  const at::Tensor losses = read_tensor(expected, "per_example_loss"),
                   norms = read_tensor(expected, "per_example_grad_norm"),
                   factors = read_tensor(expected, "clip_factor");
  const ModelPass pass(model, all_examples(model), type, AttentionPath::kFlash);
  ASSERT_EQ(losses.numel(), model.batch.examples());
  for (const std::string route : kRoutes) {
    SCOPED_TRACE(route);
    const ClippedSum sum = pass.clipped_sum(route, clip);
    for (int64_t b = 0; b < losses.numel(); ++b) {
      EXPECT_NEAR(pass.losses()[b] / losses[b].item<double>(), 1, 1e-4) << "example " << b;
      EXPECT_NEAR(sum.outcomes[b].norm / norms[b].item<double>(), 1, 1e-4) << "example " << b;
      EXPECT_NEAR(sum.outcomes[b].factor / factors[b].item<double>(), 1, 1e-4) << "example " << b;
    }
    std::vector<at::Tensor> wanted;
    for (const Parameter& p : model.parameters.all())
      wanted.push_back(read_tensor(expected, "clipped_sum/" + p.name).view(-1));
    const double whole = at::cat(wanted).norm().item<double>();
    for (size_t i = 0; i < wanted.size(); ++i) {
      const Parameter& p = model.parameters.all()[i];
      const at::Tensor found = sum.values.narrow(0, *p.offset, wanted[i].numel());
      EXPECT_LE((found - wanted[i]).norm().item<double>(),
                1e-4 * wanted[i].norm().item<double>() + 1e-5 * whole)
          << p.name;
    }
  }
}

class GoldenModel : public testing::TestWithParam<std::string> {};

TEST_P(GoldenModel, NormsAndClippedSumsAreThoseOfOtherSoftware) {
  const char* shared = std::getenv("DPFA_SHARED");
  const fs::path folder = fs::path(shared == nullptr ? "" : shared) / "golden/gradients" / GetParam();
  if (shared == nullptr || !fs::exists(folder))
    GTEST_SKIP() << "not run: no golden gradients of " << GetParam()
                 << " (DPFA_SHARED names no folder that has them)";
  for (const auto type : {at::kDouble, at::kFloat}) {
    SCOPED_TRACE(c10::toString(type));
    expect_golden(folder, type);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenModel,
                         testing::Values("llama-gqa", "llama-tied-bias", "bert-classify"),
                         [](const auto& tested) {
                           std::string name = tested.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace dpfa::kernels::test
