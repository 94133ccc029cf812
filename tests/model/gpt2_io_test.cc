// Hugging Face folders of GPT-2: what is written comes back, what `transformers` may write is read, all else
// is named.
#include "src/model/gpt2_io.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/model/gpt2.h"
#include "src/model/safetensors.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::model {
namespace {

using nlohmann::json;
using testing::read_text;
using testing::TemporaryFolder;
using testing::write_text;

plan::Gpt2Shape small_shape(bool tied) { return {2, 8, 2, 12, 19, tied}; }

// Values that half precision holds exactly.
std::vector<float> made_weights(const plan::Gpt2Shape& shape) {
  std::vector<float> weights(shape.parameter_count());
  for (size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<float>((i * 37 + i / 7) % 255) / 64 - 2;
  return weights;
}

// A folder as tensors by name, to be altered and written again.
struct Folder {
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  plan::Gpt2Shape shape;
  std::vector<float> weights;
  json config;
  std::map<std::string, Tensor> tensors;
  TemporaryFolder dir;

  explicit Folder(bool tied) : shape(small_shape(tied)), weights(made_weights(shape)) {
    write_gpt2(dir.path(), shape, weights, 18);
    config = json::parse(read_text(dir / "config.json"));
    for (const ParameterInfo& p : gpt2_parameters(shape))
      tensors[p.name] = {p.shape, {weights.begin() + p.offset, weights.begin() + p.offset + p.size}};
  }

  void write_config() const { write_text(dir / "config.json", config.dump()); }
  void write_tensors(const std::string& file, const std::function<bool(const std::string&)>& wanted) const {
    std::vector<TensorToWrite> list;
    for (const auto& [name, t] : tensors)
      if (wanted(name)) list.push_back({name, DType::kF32, t.shape, std::as_bytes(std::span(t.values))});
    write_safetensors(dir / file, list);
  }
  void write_all() const {
    write_tensors("model.safetensors", [](const std::string&) { return true; });
  }
  std::vector<float> load() const {
    std::vector<float> result(shape.parameter_count(), -99);
    load_gpt2_weights(dir.path(), shape, result);
    return result;
  }
  void expect_refused(const std::string& tensor) const {
    try {
      load();
      ADD_FAILURE() << "accepted in spite of " << tensor;
    } catch (const IoError& error) {
      EXPECT_NE(std::string(error.what()).find(tensor), std::string::npos) << error.what();
    }
  }
};

TEST(Gpt2Folder, WeightsAndShapeComeBackBitForBit) {
  for (const bool tied : {true, false}) {
    const TemporaryFolder dir;
    const plan::Gpt2Shape shape = small_shape(tied);
    std::vector<float> weights = made_weights(shape), read(weights.size());
    weights[0] = -0.0f;
    weights[1] = std::numeric_limits<float>::denorm_min();
    weights[2] = std::numeric_limits<float>::max();
    weights.back() = 1.0f + std::numeric_limits<float>::epsilon();
    write_gpt2(dir.path(), shape, weights, 18);
    const plan::Gpt2Shape found = read_gpt2_shape(dir.path());
    EXPECT_EQ(found.layers, shape.layers);
    EXPECT_EQ(found.width, shape.width);
    EXPECT_EQ(found.heads, shape.heads);
    EXPECT_EQ(found.positions, shape.positions);
    EXPECT_EQ(found.vocab, shape.vocab);
    EXPECT_EQ(found.tied_head, tied);
    load_gpt2_weights(dir.path(), found, read);
    EXPECT_EQ(std::memcmp(read.data(), weights.data(), weights.size() * sizeof(float)), 0);
  }
}

TEST(Gpt2Folder, WrittenFolderHasTheNamesOfTransformers) {
  for (const bool tied : {true, false}) {
    const Folder folder(tied);
    EXPECT_EQ(folder.config.at("model_type"), "gpt2");
    EXPECT_EQ(folder.config.at("architectures"), json::array({"GPT2LMHeadModel"}));
    EXPECT_EQ(folder.config.at("activation_function"), "gelu_new");
    EXPECT_EQ(folder.config.at("n_positions"), 12);
    EXPECT_EQ(folder.config.at("tie_word_embeddings"), tied);
    EXPECT_EQ(folder.config.at("eos_token_id"), 18);
    EXPECT_EQ(folder.config.at("bos_token_id"), 18);
    const auto file = SafetensorsFile::open(folder.dir / "model.safetensors");
    EXPECT_EQ(file.metadata().at("format"), "pt");
    EXPECT_EQ(file.contains("lm_head.weight"), !tied);
    EXPECT_EQ(file.at("transformer.h.1.attn.c_attn.weight").shape, (std::vector<int64_t>{8, 24}));
    EXPECT_EQ(file.at("transformer.wte.weight").shape, (std::vector<int64_t>{19, 8}));
  }
}

TEST(Gpt2Folder, WithoutEndOfTextTheIdsAreNull) {
  const TemporaryFolder dir;
  write_gpt2(dir.path(), small_shape(true), made_weights(small_shape(true)));
  EXPECT_TRUE(json::parse(read_text(dir / "config.json")).at("eos_token_id").is_null());
}

TEST(Gpt2Folder, NamesMayLackTheTransformerPrefix) {
  for (const bool tied : {true, false}) {
    Folder folder(tied);
    std::map<std::string, Folder::Tensor> bare;
    for (const auto& [name, t] : folder.tensors)
      bare[name.starts_with("transformer.") ? name.substr(12) : name] = t;
    folder.tensors = bare;
    folder.write_all();
    EXPECT_EQ(folder.load(), folder.weights);
  }
}

TEST(Gpt2Folder, MaskBuffersArePassedOver) {
  Folder folder(true);
  folder.tensors["transformer.h.0.attn.bias"] = {{1, 1, 12, 12}, std::vector<float>(144, 1)};
  folder.tensors["h.1.attn.masked_bias"] = {{}, {-1e4f}};
  folder.write_all();
  EXPECT_EQ(folder.load(), folder.weights);
}

TEST(Gpt2Folder, ShardsMakeOneModel) {
  Folder folder(false);
  std::filesystem::remove(folder.dir / "model.safetensors");
  const auto first = [](const std::string& name) { return name.find("h.0.") != std::string::npos; };
  folder.write_tensors("model-00001-of-00002.safetensors", first);
  folder.write_tensors("model-00002-of-00002.safetensors",
                       [&](const std::string& name) { return !first(name); });
  json map;
  for (const auto& [name, t] : folder.tensors)
    map[name] = first(name) ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
  const auto write_index = [&] {
    write_text(folder.dir / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  };
  write_index();
  EXPECT_EQ(folder.load(), folder.weights);

  map["transformer.wte.weight"] = "model-00001-of-00002.safetensors";
  write_index();
  folder.expect_refused("transformer.wte.weight");

  for (const char* place : {"../model.safetensors", "/tmp/x.safetensors", ".."}) {
    map["transformer.wte.weight"] = place;
    write_index();
    folder.expect_refused("");
  }
  write_text(folder.dir / "model.safetensors.index.json", "[]");
  folder.expect_refused("index.json");
}

TEST(Gpt2Folder, ATensorInTwoShardsIsRefused) {
  Folder folder(true);
  std::filesystem::remove(folder.dir / "model.safetensors");
  folder.write_tensors("a.safetensors", [](const std::string&) { return true; });
  folder.write_tensors("b.safetensors",
                       [](const std::string& name) { return name == "transformer.wpe.weight"; });
  json map = {{"transformer.wpe.weight", "b.safetensors"}, {"transformer.wte.weight", "a.safetensors"}};
  write_text(folder.dir / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  folder.expect_refused("transformer.wpe.weight");
}

TEST(Gpt2Folder, OtherFloatTypesAreConverted) {
  const Folder folder(true);
  const auto write_as = [&](DType dtype, const std::function<void(float, std::vector<std::byte>&)>& append) {
    std::vector<std::vector<std::byte>> memory;
    std::vector<TensorToWrite> list;
    memory.reserve(folder.tensors.size());
    for (const auto& [name, t] : folder.tensors) {
      memory.emplace_back();
      for (const float value : t.values) append(value, memory.back());
      list.push_back({name, dtype, t.shape, memory.back()});
    }
    write_safetensors(folder.dir / "model.safetensors", list);
  };
  const auto put = [](auto value, std::vector<std::byte>& out) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), bytes, bytes + sizeof(value));
  };
  write_as(DType::kF64, [&](float x, auto& out) { put(static_cast<double>(x), out); });
  EXPECT_EQ(folder.load(), folder.weights);
  write_as(DType::kBF16,
           [&](float x, auto& out) { put(static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16), out); });
  EXPECT_EQ(folder.load(), folder.weights);
  write_as(DType::kF16, [&](float x, auto& out) {
    // Exact for the values of made_weights(): normal in half precision, or zero.
    const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 31 << 15;
    put(static_cast<uint16_t>(x == 0 ? sign
                                     : sign | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023)),
        out);
  });
  EXPECT_EQ(folder.load(), folder.weights);
  write_as(DType::kI32, [&](float x, auto& out) { put(static_cast<int32_t>(x), out); });
  folder.expect_refused("transformer.");
}

TEST(Gpt2Folder, ATiedHeadThatIsPresentMustBeTheTokenTable) {
  Folder folder(true);
  folder.tensors["lm_head.weight"] = folder.tensors.at("transformer.wte.weight");
  folder.write_all();
  EXPECT_EQ(folder.load(), folder.weights);
  folder.tensors["lm_head.weight"].values.back() += 1;
  folder.write_all();
  folder.expect_refused("lm_head.weight");
}

TEST(Gpt2Folder, WrongTensorsAreNamed) {
  for (const std::string name :
       {"transformer.h.1.mlp.c_fc.bias", "transformer.ln_f.weight", "lm_head.weight"}) {
    Folder missing(false);
    missing.tensors.erase(name);
    missing.write_all();
    missing.expect_refused("'" + name + "' is missing");

    Folder reshaped(false);
    reshaped.tensors.at(name).shape.insert(reshaped.tensors.at(name).shape.begin(), 1);
    reshaped.write_all();
    reshaped.expect_refused("'" + name + "' has shape (1, ");
  }
  Folder unknown(true);
  unknown.tensors["score.weight"] = {{2, 8}, std::vector<float>(16)};
  unknown.write_all();
  unknown.expect_refused("score.weight");

  Folder deeper(true);
  deeper.tensors["transformer.h.2.ln_1.weight"] = {{8}, std::vector<float>(8)};
  deeper.write_all();
  deeper.expect_refused("transformer.h.2.ln_1.weight");

  Folder twice(true);
  twice.tensors["wpe.weight"] = twice.tensors.at("transformer.wpe.weight");
  twice.write_all();
  twice.expect_refused("transformer.wpe.weight");
}

TEST(Gpt2Folder, MissingAndMalformedFilesAreInputErrors) {
  const Folder folder(true);
  std::filesystem::remove(folder.dir / "model.safetensors");
  folder.expect_refused("model.safetensors");
  write_text(folder.dir / "model.safetensors", "short");
  folder.expect_refused("model.safetensors");
  for (const char* text : {"", "[]", "{", "{\"model_type\": \"gpt2\"}", "{}"}) {
    write_text(folder.dir / "config.json", text);
    EXPECT_THROW(read_gpt2_shape(folder.dir.path()), IoError) << text;
  }
  EXPECT_THROW(read_gpt2_shape(folder.dir / "absent"), IoError);
}

TEST(Gpt2Folder, ModelsThatTheEngineDoesNotComputeAreUnsupported) {
  const std::vector<std::pair<std::string, json>> variants = {{"model_type", "llama"},
                                                              {"model_type", "bert"},
                                                              {"activation_function", "gelu"},
                                                              {"activation_function", "relu"},
                                                              {"n_inner", 16},
                                                              {"layer_norm_epsilon", 1e-6},
                                                              {"scale_attn_weights", false},
                                                              {"scale_attn_by_inverse_layer_idx", true},
                                                              {"reorder_and_upcast_attn", true},
                                                              {"add_cross_attention", true}};
  for (const auto& [key, value] : variants) {
    Folder folder(true);
    folder.config[key] = value;
    folder.write_config();
    try {
      read_gpt2_shape(folder.dir.path());
      ADD_FAILURE() << key << " = " << value;
    } catch (const Unsupported& error) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
}

TEST(Gpt2Folder, SynonymsAndAbsentKeysAreAccepted) {
  Folder folder(true);
  folder.config["activation_function"] = "gelu_pytorch_tanh";
  folder.config["n_inner"] = 32;
  folder.config["n_ctx"] = 7;
  for (const char* key : {"tie_word_embeddings", "layer_norm_epsilon", "scale_attn_weights", "use_cache"})
    folder.config.erase(key);
  folder.write_config();
  const plan::Gpt2Shape shape = read_gpt2_shape(folder.dir.path());
  EXPECT_TRUE(shape.tied_head);
  EXPECT_EQ(shape.positions, 12);
}

TEST(Gpt2Folder, DimensionsThatCannotBeAreInputErrors) {
  const std::vector<std::pair<std::string, json>> variants = {{"n_layer", 0},
                                                              {"n_embd", -8},
                                                              {"n_embd", "8"},
                                                              {"n_embd", 8.5},
                                                              {"n_head", 3},
                                                              {"vocab_size", 1e300},
                                                              {"n_layer", true},
                                                              {"n_positions", 18446744073709551615ull},
                                                              {"tie_word_embeddings", "yes"}};
  for (const auto& [key, value] : variants) {
    Folder folder(true);
    folder.config[key] = value;
    folder.write_config();
    EXPECT_THROW(read_gpt2_shape(folder.dir.path()), IoError) << key << " = " << value;
  }
  Folder absent(true);
  absent.config.erase("n_layer");
  absent.write_config();
  EXPECT_THROW(read_gpt2_shape(absent.dir.path()), IoError);
}

}  // namespace
}  // namespace dpfa::model
