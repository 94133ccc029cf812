#include "src/data/dataset.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

#include <nlohmann/json.hpp>

#include "src/base/check.h"
#include "src/base/file.h"
#include "src/base/stream_key.h"
#include "src/data/staging_folder.h"

namespace dpfa::data {

static_assert(std::endian::native == std::endian::little, "shards are little endian");

namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "dpfa record-indexed tokens";
constexpr const char* kIndexFile = "dataset.json";
constexpr int64_t kMaxVocabulary = int64_t{1} << 31;

// Bytes of one stored token.
int64_t width_of(int64_t vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

std::string random_id() {
  constexpr char kDigits[] = "0123456789abcdef";
  const std::array<uint8_t, 32> bytes = RootKey::from_system().bytes();
  std::string id;
  for (size_t i = 0; i < 16; ++i) {
    id += kDigits[bytes[i] >> 4];
    id += kDigits[bytes[i] & 15];
  }
  return id;
}

class IndexReader {
 public:
  explicit IndexReader(std::filesystem::path path) : path_(std::move(path)) {
    const MappedFile file(path_);
    json_ = Json::parse(file.text(), nullptr, false);
    if (!json_.is_object()) fail("it is not a JSON object");
    if (text(json_, "format") != kFormat) fail("its format is not '" + std::string(kFormat) + "'");
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw IoError("'" + path_.string() + "' does not describe a dataset: " + what +
                  " (write it again with dpfa data prepare)");
  }
  const Json& root() const { return json_; }
  std::string text(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key) || !object[key].is_string()) {
      fail("the text '" + std::string(key) + "' is missing");
    }
    return object[key].get<std::string>();
  }
  int64_t number(const Json& object, const char* key, int64_t low, int64_t high) const {
    if (!object.is_object() || !object.contains(key) || !object[key].is_number_integer()) {
      fail("the integer '" + std::string(key) + "' is missing");
    }
    const Json& value = object[key];
    const bool fits = value.is_number_unsigned()
                          ? value.get<uint64_t>() <= static_cast<uint64_t>(high)
                          : value.get<int64_t>() >= low && value.get<int64_t>() <= high;
    if (!fits || value.get<int64_t>() < low) fail("'" + std::string(key) + "' is out of range");
    return value.get<int64_t>();
  }

 private:
  std::filesystem::path path_;
  Json json_;
};

struct Shard {
  std::filesystem::path tokens_path;
  MappedFile tokens;
  MappedFile offsets;
  int64_t first;  // index of its first record in the dataset
  int64_t records;

  int64_t offset(int64_t record) const {
    uint64_t value;
    std::memcpy(&value, offsets.bytes().data() + record * sizeof(value), sizeof(value));
    return static_cast<int64_t>(value);
  }
};

void check_size(const std::filesystem::path& path, const MappedFile& file, int64_t expected) {
  const auto size = static_cast<int64_t>(file.bytes().size());
  if (size != expected) {
    throw IoError("'" + path.string() + "' has " + std::to_string(size) +
                  " bytes, but dataset.json promises " + std::to_string(expected) +
                  (size < expected ? " (truncated: copy the dataset again)" : ""));
  }
}

Shard open_shard(const std::filesystem::path& dir, const std::string& name, int64_t first, int64_t records,
                 int64_t tokens, int64_t width) {
  const std::filesystem::path offsets_path = dir / (name + ".offsets");
  Shard shard{dir / (name + ".tokens"), MappedFile(dir / (name + ".tokens")), MappedFile(offsets_path), first,
              records};
  check_size(shard.tokens_path, shard.tokens, tokens * width);
  check_size(offsets_path, shard.offsets, (records + 1) * static_cast<int64_t>(sizeof(uint64_t)));
  bool rising = shard.offset(0) == 0 && shard.offset(records) == tokens;
  for (int64_t i = 0; i < records; ++i) rising = rising && shard.offset(i) <= shard.offset(i + 1);
  if (!rising) throw IoError("'" + offsets_path.string() + "' does not rise from 0 to the number of tokens");
  return shard;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
  });
}

}  // namespace

struct Dataset::State {
  std::filesystem::path dir;
  std::string id;
  int64_t vocab_size = 0;
  int64_t records = 0;
  std::vector<Shard> shards;

  template <typename Token>
  void read(const Shard& shard, int64_t begin, int64_t count, std::vector<int32_t>& out) const {
    const std::byte* source = shard.tokens.bytes().data() + begin * static_cast<int64_t>(sizeof(Token));
    for (int64_t i = 0; i < count; ++i) {
      Token token;
      std::memcpy(&token, source + i * static_cast<int64_t>(sizeof(Token)), sizeof(Token));
      if (static_cast<int64_t>(token) >= vocab_size) {
        throw IoError("'" + shard.tokens_path.string() + "' holds a token outside the vocabulary of " +
                      std::to_string(vocab_size) + ": the file is damaged, prepare the dataset again");
      }
      out.push_back(static_cast<int32_t>(token));
    }
  }
};

Dataset::Dataset(std::unique_ptr<State> state) : state_(std::move(state)) {}
Dataset::Dataset(Dataset&&) noexcept = default;
Dataset& Dataset::operator=(Dataset&&) noexcept = default;
Dataset::~Dataset() = default;

Dataset Dataset::open(const std::filesystem::path& dir) {
  const IndexReader index(dir / kIndexFile);
  auto state = std::make_unique<State>();
  state->dir = dir;
  state->id = index.text(index.root(), "id");
  if (state->id.size() != 32 || state->id.find_first_not_of("0123456789abcdef") != std::string::npos) {
    index.fail("'id' must be 32 hexadecimal digits");
  }
  state->vocab_size = index.number(index.root(), "vocab_size", 1, kMaxVocabulary);
  const int64_t width = width_of(state->vocab_size);
  if (!index.root().contains("shards") || !index.root()["shards"].is_array())
    index.fail("'shards' is missing");
  for (const Json& entry : index.root()["shards"]) {
    const std::string name = index.text(entry, "name");
    if (!is_plain_name(name)) index.fail("a shard's name may hold only letters, digits, '-' and '_'");
    // The bounds keep every product with the bytes of a token or offset within 64 bits.
    const int64_t records = index.number(entry, "records", 0, int64_t{1} << 56);
    const int64_t tokens = index.number(entry, "tokens", 0, int64_t{1} << 56);
    state->shards.push_back(open_shard(dir, name, state->records, records, tokens, width));
    state->records += records;
  }
  return Dataset(std::move(state));
}

const std::string& Dataset::id() const { return state_->id; }
int64_t Dataset::vocab_size() const { return state_->vocab_size; }
const std::filesystem::path& Dataset::dir() const { return state_->dir; }
int64_t Dataset::size() const { return state_->records; }

void Dataset::record(int64_t index, int64_t max_tokens, std::vector<int32_t>& out) const {
  DPFA_CHECK(index >= 0 && index < state_->records, "record index out of range");
  DPFA_CHECK(max_tokens >= 0, "max_tokens ", max_tokens);
  const auto after = std::upper_bound(state_->shards.begin(), state_->shards.end(), index,
                                      [](int64_t value, const Shard& shard) { return value < shard.first; });
  // Of shards that begin with the same record all but the last are empty.
  const Shard& shard = *(after - 1);
  const int64_t begin = shard.offset(index - shard.first);
  int64_t count = shard.offset(index - shard.first + 1) - begin;
  if (max_tokens > 0) count = std::min(count, max_tokens);
  out.clear();
  out.reserve(static_cast<size_t>(count));
  if (width_of(state_->vocab_size) == 2) {
    state_->read<uint16_t>(shard, begin, count, out);
  } else {
    state_->read<uint32_t>(shard, begin, count, out);
  }
}

struct DatasetWriter::State {
  State(const std::filesystem::path& dir, const Tokenizer& tokenizer_of_records, int64_t tokens_of_shard)
      : folder(dir), tokenizer(tokenizer_of_records), shard_tokens(tokens_of_shard) {}

  StagingFolder folder;
  const Tokenizer& tokenizer;
  int64_t shard_tokens;
  Json shards = Json::array();
  std::string name;  // of the open shard
  std::ofstream tokens_file;
  std::vector<uint64_t> offsets;  // of the open shard; empty: no shard is open

  std::filesystem::path tokens_path() const { return folder.path() / (name + ".tokens"); }

  void open_shard() {
    const std::string number = std::to_string(shards.size());
    name = "shard-" + std::string(5 - std::min<size_t>(number.size(), 5), '0') + number;
    tokens_file.open(tokens_path(), std::ios::binary | std::ios::trunc);
    if (!tokens_file) throw IoError("cannot create '" + tokens_path().string() + "'");
    offsets.assign(1, 0);
  }

  template <typename Token>
  void append(const std::vector<int32_t>& ids) {
    std::vector<Token> stored(ids.begin(), ids.end());
    tokens_file.write(reinterpret_cast<const char*>(stored.data()),
                      static_cast<std::streamsize>(stored.size() * sizeof(Token)));
    if (!tokens_file) throw IoError("cannot write '" + tokens_path().string() + "' (disk full?)");
    offsets.push_back(offsets.back() + stored.size());
  }

  void close_shard() {
    tokens_file.close();
    if (!tokens_file) throw IoError("cannot write '" + tokens_path().string() + "' (disk full?)");
    sync_to_disk(tokens_path());
    const std::span<const std::byte> part = std::as_bytes(std::span(offsets));
    write_file_atomically(folder.path() / (name + ".offsets"), std::span(&part, 1));
    shards.push_back({{"name", name}, {"records", offsets.size() - 1}, {"tokens", offsets.back()}});
    offsets.clear();
  }
};

DatasetWriter::DatasetWriter(const std::filesystem::path& dir, const Tokenizer& tokenizer,
                             int64_t shard_tokens)
    : state_(std::make_unique<State>(dir, tokenizer, shard_tokens)) {}

DatasetWriter::~DatasetWriter() = default;

int64_t DatasetWriter::add(std::string_view text) {
  std::vector<int32_t> ids = state_->tokenizer.encode(text);
  ids.insert(ids.begin(), state_->tokenizer.end_of_text());
  ids.push_back(state_->tokenizer.end_of_text());
  if (state_->offsets.empty()) state_->open_shard();
  if (width_of(state_->tokenizer.vocab_size()) == 2) {
    state_->append<uint16_t>(ids);
  } else {
    state_->append<uint32_t>(ids);
  }
  if (static_cast<int64_t>(state_->offsets.back()) >= state_->shard_tokens) state_->close_shard();
  return static_cast<int64_t>(ids.size());
}

void DatasetWriter::finish() {
  if (!state_->offsets.empty()) state_->close_shard();
  state_->tokenizer.save(state_->folder.path());
  const Json index{{"format", kFormat},
                   {"id", random_id()},
                   {"tokenizer", state_->tokenizer.kind()},
                   {"vocab_size", state_->tokenizer.vocab_size()},
                   {"shards", state_->shards}};
  write_file_atomically(state_->folder.path() / kIndexFile, index.dump(2) + "\n");
  state_->folder.commit();
}

}  // namespace dpfa::data
