#include "src/data/tokenizer.h"

#include <nlohmann/json.hpp>

#include "src/base/check.h"
#include "src/base/file.h"
#include "src/data/gpt2_bpe.h"

namespace dpfa::data {

namespace {

class ByteTokenizer : public Tokenizer {
 public:
  std::string_view kind() const override { return "bytes"; }
  int64_t vocab_size() const override { return 257; }
  int32_t end_of_text() const override { return 256; }
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> tokens;
    tokens.reserve(text.size());
    for (const char byte : text) tokens.push_back(static_cast<uint8_t>(byte));
    return tokens;
  }
  std::string decode(const std::vector<int32_t>& tokens) const override {
    std::string text;
    for (const int32_t token : tokens) {
      DPFA_CHECK(token >= 0 && token < vocab_size(), "token ", token, " is outside the vocabulary");
      if (token != end_of_text()) text += static_cast<char>(token);
    }
    return text;
  }
  void save(const std::filesystem::path& dir) const override { save_tokenizer_kind(dir, kind()); }
};

}  // namespace

void save_tokenizer_kind(const std::filesystem::path& dir, std::string_view kind) {
  write_file_atomically(dir / kTokenizerFile, nlohmann::json{{"kind", kind}}.dump() + "\n");
}

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::filesystem::path& dir) {
  const auto both_exist = [&](const char* a, const char* b) {
    return std::filesystem::exists(dir / a) && std::filesystem::exists(dir / b);
  };
  if (both_exist("encoder.json", "vocab.bpe")) {
    return std::make_unique<Gpt2Tokenizer>(dir / "encoder.json", dir / "vocab.bpe");
  }
  if (both_exist("vocab.json", "merges.txt")) {
    return std::make_unique<Gpt2Tokenizer>(dir / "vocab.json", dir / "merges.txt");
  }
  throw IoError(
      "'" + dir.string() +
      "' holds no GPT-2 vocabulary: expected vocab.json with merges.txt, or encoder.json with vocab.bpe");
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / kTokenizerFile;
  const MappedFile file(path);
  const nlohmann::json json = nlohmann::json::parse(file.text(), nullptr, false);
  const std::string kind = json.is_object() && json.contains("kind") && json["kind"].is_string()
                               ? json["kind"].get<std::string>()
                               : "";
  if (kind == "bytes") return make_byte_tokenizer();
  if (kind == "gpt2") return load_gpt2_tokenizer(dir);
  throw IoError("'" + path.string() + R"(' must hold {"kind": "bytes"} or {"kind": "gpt2"})");
}

}  // namespace dpfa::data
