#include "src/data/gpt2_bpe.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <array>
#include <functional>
#include <queue>
#include <tuple>

#include <nlohmann/json.hpp>

#include "src/base/check.h"
#include "src/base/file.h"

namespace dpfa::data {

namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::string_view kMergesHeader = "#version: 0.2";

enum class CharacterClass { kLetter, kNumber, kSpace, kOther };

CharacterClass class_of(UChar32 character) {
  if (character < 0) return CharacterClass::kOther;  // not valid UTF-8
  const uint32_t category = U_MASK(u_charType(character));
  if ((category & U_GC_L_MASK) != 0) return CharacterClass::kLetter;
  if ((category & U_GC_N_MASK) != 0) return CharacterClass::kNumber;
  return u_isUWhiteSpace(character) ? CharacterClass::kSpace : CharacterClass::kOther;
}

// The class of the character at `position`, which is moved behind it.
CharacterClass next_class(std::string_view text, size_t& position) {
  UChar32 character;
  U8_NEXT(text.data(), position, text.size(), character);
  return class_of(character);
}

size_t contraction_at(std::string_view text, size_t position) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.substr(position, ending.size()) == ending) return ending.size();
  }
  return 0;
}

// Where the run of characters of class `kind` that begins at `position` ends.
size_t end_of_run(std::string_view text, size_t position, CharacterClass kind) {
  size_t next = position;
  while (next < text.size() && next_class(text, next) == kind) position = next;
  return position;
}

// A run of spaces leaves its last one to the word that follows it, unless nothing follows or it is alone.
size_t end_of_spaces(std::string_view text, size_t position) {
  const size_t end = end_of_run(text, position, CharacterClass::kSpace);
  if (end == text.size()) return end;
  size_t last = position;
  for (size_t next = position; next < end; next_class(text, next)) last = next;
  return last > position ? last : end;
}

size_t end_of_word(std::string_view text, size_t position) {
  if (const size_t length = contraction_at(text, position)) return position + length;
  const size_t first = position + (text[position] == ' ' && position + 1 < text.size() ? 1 : 0);
  size_t next = first;
  const CharacterClass kind = next_class(text, next);
  return kind == CharacterClass::kSpace ? end_of_spaces(text, position) : end_of_run(text, first, kind);
}

// GPT-2 spells bytes as characters that print: these stand for themselves, the others for 256, 257, ...
struct PrintableAlphabet {
  std::array<UChar32, 256> character_of;
  std::unordered_map<UChar32, char> byte_of;

  PrintableAlphabet() {
    UChar32 next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      character_of[byte] = prints ? byte : next++;
      byte_of[character_of[byte]] = static_cast<char>(byte);
    }
  }
};

const PrintableAlphabet& alphabet() {
  static const PrintableAlphabet instance;
  return instance;
}

// False where a character stands for no byte.
bool bytes_of_printable(std::string_view printable, std::string& bytes) {
  bytes.clear();
  for (size_t i = 0; i < printable.size();) {
    UChar32 character;
    U8_NEXT(printable.data(), i, printable.size(), character);
    const auto byte = alphabet().byte_of.find(character);
    if (byte == alphabet().byte_of.end()) return false;
    bytes += byte->second;
  }
  return true;
}

std::string printable_of_bytes(std::string_view bytes) {
  std::string printable;
  for (const char byte : bytes) {
    std::array<char, U8_MAX_LENGTH> unit;
    size_t length = 0;
    U8_APPEND_UNSAFE(unit.data(), length, alphabet().character_of[static_cast<uint8_t>(byte)]);
    printable.append(unit.data(), length);
  }
  return printable;
}

uint64_t key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

std::vector<std::string_view> split_gpt2_words(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t position = 0; position < text.size();) {
    const size_t end = end_of_word(text, position);
    words.push_back(text.substr(position, end - position));
    position = end;
  }
  return words;
}

Gpt2Tokenizer::Gpt2Tokenizer(const std::filesystem::path& vocabulary, const std::filesystem::path& merges) {
  read_vocabulary(vocabulary);
  read_merges(merges);
}

void Gpt2Tokenizer::read_vocabulary(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& what) {
    throw IoError("'" + path.string() + "' is not a GPT-2 vocabulary: " + what);
  };
  const MappedFile file(path);
  const nlohmann::json json = nlohmann::json::parse(file.text(), nullptr, false);
  if (!json.is_object() || json.size() > INT32_MAX) fail("expected a JSON object from token to id");
  tokens_.resize(json.size());
  for (const auto& [printable, id] : json.items()) {
    std::string token;
    if (!bytes_of_printable(printable, token) || token.empty()) {
      fail("the token '" + printable + "' holds a character that stands for no byte");
    }
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokens_.size() ||
        !tokens_[id.get<size_t>()].empty()) {
      fail("the ids must be 0 to " + std::to_string(tokens_.size() - 1) + ", each once; '" + printable +
           "' has the id " + id.dump());
    }
    ids_.emplace(token, id.get<int32_t>());
    tokens_[id.get<size_t>()] = std::move(token);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = ids_.find(std::string(1, static_cast<char>(byte)));
    if (found == ids_.end()) fail("it has no token for the byte " + std::to_string(byte));
    byte_ids_.push_back(found->second);
  }
  const auto end = ids_.find(std::string(kEndOfText));
  if (end == ids_.end()) fail("it has no token '" + std::string(kEndOfText) + "'");
  end_of_text_ = end->second;
}

void Gpt2Tokenizer::read_merges(const std::filesystem::path& path) {
  const MappedFile file(path);
  std::string_view rest = file.text();
  for (int64_t line_number = 1; !rest.empty(); ++line_number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    const size_t gap = line.find(' ');
    std::string left, right;
    if (gap == std::string_view::npos || !bytes_of_printable(line.substr(0, gap), left) ||
        !bytes_of_printable(line.substr(gap + 1), right)) {
      throw IoError("'" + path.string() + "', line " + std::to_string(line_number) +
                    ": expected two tokens separated by one space");
    }
    const auto left_id = ids_.find(left), right_id = ids_.find(right), merged_id = ids_.find(left + right);
    if (left_id == ids_.end() || right_id == ids_.end() || merged_id == ids_.end() ||
        merged_id->second == end_of_text_) {
      throw IoError("'" + path.string() + "', line " + std::to_string(line_number) +
                    ": the two tokens and what they join to must all be in the vocabulary");
    }
    const int32_t rank = static_cast<int32_t>(merges_.size());
    if (!merges_
             .try_emplace(key_of(left_id->second, right_id->second),
                          Merge{left_id->second, right_id->second, rank, merged_id->second})
             .second) {
      throw IoError("'" + path.string() + "', line " + std::to_string(line_number) +
                    " repeats an earlier line");
    }
  }
}

const Gpt2Tokenizer::Merge* Gpt2Tokenizer::find_merge(int32_t left, int32_t right) const {
  const auto found = merges_.find(key_of(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// A queue of the possible merges, lowest rank first and leftmost among equals, over a doubly linked list of
// tokens: n log n, so that a record without any space costs no more than others.
void Gpt2Tokenizer::encode_word(std::string_view word, std::vector<int32_t>& out) const {
  struct Node {
    int32_t id;  // -1: merged into its left neighbour
    int32_t previous, next;
  };
  struct Candidate {
    int32_t position;
    const Merge* merge;
    bool operator>(const Candidate& other) const {
      return std::tie(merge->rank, position) > std::tie(other.merge->rank, other.position);
    }
  };
  DPFA_CHECK(word.size() < INT32_MAX, "a word of ", word.size(), " bytes");
  const int32_t size = static_cast<int32_t>(word.size());
  std::vector<Node> nodes(word.size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](int32_t position) {
    if (position < 0 || nodes[position].next >= size) return;
    const Merge* merge = find_merge(nodes[position].id, nodes[nodes[position].next].id);
    if (merge != nullptr) queue.push({position, merge});
  };
  for (int32_t i = 0; i < size; ++i) nodes[i] = {byte_ids_[static_cast<uint8_t>(word[i])], i - 1, i + 1};
  for (int32_t i = 0; i < size; ++i) consider(i);
  while (!queue.empty()) {
    const auto [position, merge] = queue.top();
    queue.pop();
    Node& left = nodes[position];
    // An entry is out of date where one of its tokens has been merged with another meanwhile.
    if (left.id != merge->left || left.next >= size || nodes[left.next].id != merge->right) continue;
    Node& right = nodes[left.next];
    left.id = merge->merged;
    left.next = right.next;
    right.id = -1;
    if (left.next < size) nodes[left.next].previous = position;
    consider(left.previous);
    consider(position);
  }
  for (int32_t i = 0; i < size; i = nodes[i].next) out.push_back(nodes[i].id);
}

std::vector<int32_t> Gpt2Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> out;
  for (const std::string_view word : split_gpt2_words(text)) encode_word(word, out);
  return out;
}

std::string Gpt2Tokenizer::decode(const std::vector<int32_t>& tokens) const {
  std::string text;
  for (const int32_t token : tokens) {
    DPFA_CHECK(token >= 0 && token < vocab_size(), "token ", token, " is outside the vocabulary");
    if (token != end_of_text_) text += tokens_[token];
  }
  return text;
}

void Gpt2Tokenizer::save(const std::filesystem::path& dir) const {
  nlohmann::ordered_json vocabulary = nlohmann::ordered_json::object();
  nlohmann::ordered_json::object_t& entries = vocabulary.get_ref<nlohmann::ordered_json::object_t&>();
  for (size_t id = 0; id < tokens_.size(); ++id) {
    // Appended directly: operator[] of an ordered object searches all earlier entries.
    entries.push_back({printable_of_bytes(tokens_[id]), id});
  }
  std::vector<const Merge*> order(merges_.size());
  for (const auto& [key, merge] : merges_) order[merge.rank] = &merge;
  std::string lines = std::string(kMergesHeader) + "\n";
  for (const Merge* merge : order) {
    lines +=
        printable_of_bytes(tokens_[merge->left]) + " " + printable_of_bytes(tokens_[merge->right]) + "\n";
  }
  write_file_atomically(dir / "vocab.json", vocabulary.dump());
  write_file_atomically(dir / "merges.txt", lines);
  save_tokenizer_kind(dir, kind());
}

}  // namespace dpfa::data
