// Text to token ids and back. A tokenizer is a public input: a trained vocabulary is never learnt from
// private records here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace dpfa::data {

inline constexpr const char* kTokenizerFile =
    "tokenizer.dpfa.json";  // names the kind; beside the kind's own files

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string_view kind() const = 0;  // "bytes", "gpt2"
  virtual int64_t vocab_size() const = 0;
  virtual int32_t end_of_text() const = 0;  // stands before and after every record
  // Any bytes are allowed, invalid UTF-8 included: decode(encode(text)) == text. Never yields end_of_text(),
  // not even where the text spells it: a record cannot end itself.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // End of text stands for no bytes. An id outside the vocabulary is InternalError.
  virtual std::string decode(const std::vector<int32_t>& tokens) const = 0;
  // Writes the files that load_tokenizer() needs into `dir` (dataset and checkpoint folders carry their own).
  virtual void save(const std::filesystem::path& dir) const = 0;
};

// Ids 0..255 are bytes, 256 is the end of text.
std::unique_ptr<Tokenizer> make_byte_tokenizer();
// GPT-2 byte-pair encoding from a folder with `vocab.bpe` and `encoder.json`, or `merges.txt` and
// `vocab.json`. Throws IoError where a file is missing or malformed.
std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::filesystem::path& dir);
// The tokenizer that save() wrote into `dir` (kTokenizerFile names the kind); throws IoError.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& dir);

// What every save() ends with.
void save_tokenizer_kind(const std::filesystem::path& dir, std::string_view kind);

}  // namespace dpfa::data
