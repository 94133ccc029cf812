// GPT-2's byte-pair encoding (Radford et al. 2019): the text is cut into words, and within each word the pair
// of adjacent tokens that comes first in the list of merges is joined until no listed pair is left.
//
// Words are the matches of  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// over Unicode; bytes that are not valid UTF-8 count as characters that are neither letter, digit nor space.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/data/tokenizer.h"

namespace dpfa::data {

// The words of `text`, which they cover without gap or overlap, in order.
std::vector<std::string_view> split_gpt2_words(std::string_view text);

class Gpt2Tokenizer : public Tokenizer {
 public:
  // Reads the vocabulary (a JSON object from token to id) and the list of merges, which spell bytes in
  // GPT-2's printable alphabet. Throws IoError where a file is missing or malformed, an id is missing or used
  // twice, a byte or "<|endoftext|>" has no token, or a merge names no token.
  Gpt2Tokenizer(const std::filesystem::path& vocabulary, const std::filesystem::path& merges);

  std::string_view kind() const override { return "gpt2"; }
  int64_t vocab_size() const override { return static_cast<int64_t>(tokens_.size()); }
  int32_t end_of_text() const override { return end_of_text_; }
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(const std::vector<int32_t>& tokens) const override;
  // Writes vocab.json and merges.txt, as Hugging Face folders have them.
  void save(const std::filesystem::path& dir) const override;

 private:
  struct Merge {
    int32_t left, right;
    int32_t rank;  // position in the list: the lowest is applied first
    int32_t merged;
  };
  void read_vocabulary(const std::filesystem::path& path);
  void read_merges(const std::filesystem::path& path);
  const Merge* find_merge(int32_t left, int32_t right) const;
  void encode_word(std::string_view word, std::vector<int32_t>& out) const;

  std::vector<std::string> tokens_;  // bytes of each id
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_map<uint64_t, Merge> merges_;  // by (left, right)
  std::vector<int32_t> byte_ids_;               // id of each single byte
  int32_t end_of_text_ = -1;
};

}  // namespace dpfa::data
