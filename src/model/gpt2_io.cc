#include "src/model/gpt2_io.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/base/check.h"
#include "src/base/file.h"
#include "src/model/gpt2.h"
#include "src/model/safetensors.h"

namespace dpfa::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kConfigFile = "config.json";
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr const char* kPrefix = "transformer.";
constexpr const char* kHead = "lm_head.weight";
constexpr double kLayerNormEpsilon = 1e-5;  // what gpt2.cc computes with
// The number of parameters stays within 64 bits.
constexpr int64_t kMostLayers = 10000;
constexpr int64_t kLargestWidth = int64_t{1} << 20;
constexpr int64_t kLongestTable = int64_t{1} << 30;

json read_json(const fs::path& path) {
  const MappedFile file(path);
  json result = json::parse(file.text(), nullptr, /*allow_exceptions=*/false);
  if (!result.is_object()) throw IoError("'" + path.string() + "' is not a JSON object");
  return result;
}

// The fields of config.json with their types checked.
class ConfigReader {
 public:
  explicit ConfigReader(const fs::path& dir) : path_(dir / kConfigFile), json_(read_json(path_)) {}

  // A null counts as absent, as in transformers.
  const json* find(const std::string& key) const {
    const auto field = json_.find(key);
    return field == json_.end() || field->is_null() ? nullptr : &*field;
  }
  int64_t dimension(const std::string& key, int64_t largest) const {
    const json* field = find(key);
    if (field == nullptr) malformed(key + " is missing");
    const bool whole =
        field->is_number_integer() && (!field->is_number_unsigned() || field->get<uint64_t>() <= 1ull << 62);
    if (!whole || field->get<int64_t>() < 1 || field->get<int64_t>() > largest)
      malformed(key + " = " + field->dump() + ", expected a whole number from 1 to " +
                std::to_string(largest));
    return field->get<int64_t>();
  }
  bool boolean(const std::string& key, bool absent) const {
    const json* field = find(key);
    if (field != nullptr && !field->is_boolean())
      malformed(key + " = " + field->dump() + ", expected true or false");
    return field == nullptr ? absent : field->get<bool>();
  }
  // The engine computes one of `known` only; absent: what transformers takes, which is among them.
  void require(const std::string& key, const std::vector<json>& known) const {
    const json* field = find(key);
    if (field != nullptr && std::find(known.begin(), known.end(), *field) == known.end())
      throw Unsupported("'" + path_.string() + "': " + key + " = " + field->dump() +
                        " is not in this build; expected " + known.front().dump());
  }
  [[noreturn]] void malformed(const std::string& what) const {
    throw IoError("'" + path_.string() + "': " + what);
  }

 private:
  fs::path path_;
  json json_;
};

std::string text_of(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

// All tensors of a folder under the names of gpt2_parameters().
class WeightFiles {
 public:
  explicit WeightFiles(const fs::path& dir) : dir_(dir) {
    if (fs::exists(dir / kWeightsFile)) {
      open(kWeightsFile);
    } else if (fs::exists(dir / kIndexFile)) {
      open_shards();
    } else {
      throw IoError("'" + dir.string() + "' holds neither " + kWeightsFile + " nor " + kIndexFile +
                    "; save the model with safe_serialization = true");
    }
  }

  bool contains(const std::string& name) const { return places_.contains(name); }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, place] : places_) result.push_back(name);
    return result;
  }
  void read(const std::string& name, const std::vector<int64_t>& shape, std::span<float> out) const {
    const auto place = places_.find(name);
    if (place == places_.end()) fail("tensor '" + name + "' is missing");
    const auto& [file, stored_name] = place->second;
    const std::vector<int64_t>& stored = files_[file].at(stored_name).shape;
    if (stored != shape)
      fail("tensor '" + name + "' has shape " + text_of(stored) + ", config.json makes it " + text_of(shape));
    files_[file].read_floats(stored_name, out);
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw IoError("'" + dir_.string() + "' does not hold the GPT-2 model of its config.json: " + what);
  }

 private:
  struct Place {
    size_t file;
    std::string stored_name;
  };

  static bool is_buffer(const std::string& name) {
    return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
  }
  void open(const std::string& file_name) {
    files_.push_back(SafetensorsFile::open(dir_ / file_name));
    for (const auto& [stored, view] : files_.back().tensors()) {
      if (is_buffer(stored)) continue;
      const bool full = stored.starts_with(kPrefix) || stored == kHead;
      const std::string name = full ? stored : kPrefix + stored;
      if (!places_.emplace(name, Place{files_.size() - 1, stored}).second)
        fail("tensor '" + name + "' is present twice");
    }
  }
  void open_shards() {
    const json index = read_json(dir_ / kIndexFile);
    const auto map = index.find("weight_map");
    if (map == index.end() || !map->is_object()) fail(std::string(kIndexFile) + " has no weight_map");
    std::set<std::string> shards;
    for (const auto& [name, shard] : map->items()) {
      // A shard is a file of this folder: the index must not lead anywhere else.
      if (!shard.is_string() || fs::path(shard.get<std::string>()).filename() != shard.get<std::string>())
        fail(std::string(kIndexFile) + " names no file of the folder for '" + name + "'");
      shards.insert(shard.get<std::string>());
    }
    std::map<std::string, size_t> numbers;
    for (const std::string& shard : shards) {
      numbers[shard] = files_.size();
      open(shard);
    }
    for (const auto& [name, shard] : map->items())
      if (!files_[numbers.at(shard.get<std::string>())].contains(name))
        fail("tensor '" + name + "' is not in " + shard.get<std::string>() + ", where " + kIndexFile +
             " places it");
  }

  fs::path dir_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place> places_;
};

nlohmann::ordered_json config_of(const plan::Gpt2Shape& shape, std::optional<int64_t> end_of_text) {
  const json mark = end_of_text ? json(*end_of_text) : json(nullptr);
  return {{"activation_function", "gelu_new"},
          {"architectures", {"GPT2LMHeadModel"}},
          {"attn_pdrop", 0.0},
          {"bos_token_id", mark},
          {"embd_pdrop", 0.0},
          {"eos_token_id", mark},
          {"initializer_range", 0.02},
          {"layer_norm_epsilon", kLayerNormEpsilon},
          {"model_type", "gpt2"},
          {"n_ctx", shape.positions},
          {"n_embd", shape.width},
          {"n_head", shape.heads},
          {"n_inner", nullptr},
          {"n_layer", shape.layers},
          {"n_positions", shape.positions},
          {"reorder_and_upcast_attn", false},
          {"resid_pdrop", 0.0},
          {"scale_attn_by_inverse_layer_idx", false},
          {"scale_attn_weights", true},
          {"tie_word_embeddings", shape.tied_head},
          {"torch_dtype", "float32"},
          {"use_cache", true},
          {"vocab_size", shape.vocab}};
}

}  // namespace

plan::Gpt2Shape read_gpt2_shape(const fs::path& dir) {
  const ConfigReader config(dir);
  if (config.find("model_type") == nullptr) config.malformed("model_type is missing");
  config.require("model_type", {"gpt2"});
  plan::Gpt2Shape shape;
  shape.layers = config.dimension("n_layer", kMostLayers);
  shape.width = config.dimension("n_embd", kLargestWidth);
  shape.heads = config.dimension("n_head", kLargestWidth);
  shape.positions = config.dimension("n_positions", kLongestTable);
  shape.vocab = config.dimension("vocab_size", kLongestTable);
  shape.tied_head = config.boolean("tie_word_embeddings", true);
  if (shape.width % shape.heads != 0)
    config.malformed("n_embd = " + std::to_string(shape.width) +
                     " is not a multiple of n_head = " + std::to_string(shape.heads));
  config.require("activation_function", {"gelu_new", "gelu_pytorch_tanh"});  // two names of one formula
  config.require("n_inner", {4 * shape.width});
  config.require("layer_norm_epsilon", {kLayerNormEpsilon});
  config.require("scale_attn_weights", {true});
  for (const char* key :
       {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"})
    config.require(key, {false});
  return shape;
}

void load_gpt2_weights(const fs::path& dir, const plan::Gpt2Shape& shape, std::span<float> parameters) {
  DPFA_CHECK(static_cast<int64_t>(parameters.size()) == shape.parameter_count(), parameters.size(),
             " values for ", shape.parameter_count(), " parameters");
  const WeightFiles files(dir);
  std::set<std::string> known;
  for (const ParameterInfo& p : gpt2_parameters(shape)) {
    known.insert(p.name);
    files.read(p.name, p.shape, parameters.subspan(p.offset, p.size));
  }
  if (shape.tied_head) {
    known.insert(kHead);
    const std::span<const float> table = parameters.first(shape.vocab * shape.width);
    std::vector<float> head(files.contains(kHead) ? table.size() : 0);
    if (!head.empty()) files.read(kHead, {shape.vocab, shape.width}, head);
    if (!std::equal(head.begin(), head.end(), table.begin()))
      files.fail("lm_head.weight differs from the token table, although tie_word_embeddings is true");
  }
  for (const std::string& name : files.names())
    if (!known.contains(name)) files.fail("tensor '" + name + "' is no part of it");
}

void write_gpt2(const fs::path& dir, const plan::Gpt2Shape& shape, std::span<const float> parameters,
                std::optional<int64_t> end_of_text) {
  DPFA_CHECK(static_cast<int64_t>(parameters.size()) == shape.parameter_count(), parameters.size(),
             " values for ", shape.parameter_count(), " parameters");
  std::vector<TensorToWrite> tensors;
  for (const ParameterInfo& p : gpt2_parameters(shape))
    tensors.push_back({p.name, DType::kF32, p.shape, std::as_bytes(parameters.subspan(p.offset, p.size))});
  write_safetensors(dir / kWeightsFile, tensors, {{"format", "pt"}});
  write_file_atomically(dir / kConfigFile, config_of(shape, end_of_text).dump(2) + "\n");
}

}  // namespace dpfa::model
