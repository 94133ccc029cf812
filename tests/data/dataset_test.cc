#include "src/data/dataset.h"

#include <algorithm>
#include <cstring>
#include <random>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/data/microbatch.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::data {
namespace {

using dpfa::testing::read_text;
using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;

// Bytes as tokens of a vocabulary that needs 32 bits: id = 100000 + byte.
class WideTokenizer : public Tokenizer {
 public:
  std::string_view kind() const override { return "wide"; }
  int64_t vocab_size() const override { return 200000; }
  int32_t end_of_text() const override { return 199999; }
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    for (const char byte : text) ids.push_back(100000 + static_cast<uint8_t>(byte));
    return ids;
  }
  std::string decode(const std::vector<int32_t>&) const override { return ""; }
  void save(const std::filesystem::path&) const override {}
};

void write_dataset(const std::filesystem::path& dir, const Tokenizer& tokenizer,
                   const std::vector<std::string>& records, int64_t shard_tokens = kShardTokens) {
  DatasetWriter writer(dir, tokenizer, shard_tokens);
  for (const std::string& record : records) {
    EXPECT_EQ(writer.add(record), static_cast<int64_t>(record.size()) + 2);
  }
  writer.finish();
}

const std::vector<std::string> kRecords{"first", "second record", "", "\xff\x80 bytes", "last"};

TEST(Dataset, RecordsComeBackBetweenEndOfTextMarksFromOneShardAndFromMany) {
  for (const int64_t shard_tokens : {kShardTokens, int64_t{1}, int64_t{20}}) {
    for (const bool wide : {false, true}) {
      TemporaryFolder folder;
      const WideTokenizer wide_tokenizer;
      const std::unique_ptr<Tokenizer> bytes = make_byte_tokenizer();
      const Tokenizer& tokenizer = wide ? static_cast<const Tokenizer&>(wide_tokenizer) : *bytes;
      write_dataset(folder / "set", tokenizer, kRecords, shard_tokens);
      const Dataset dataset = Dataset::open(folder / "set");
      ASSERT_EQ(dataset.size(), 5);
      EXPECT_EQ(dataset.vocab_size(), tokenizer.vocab_size());
      EXPECT_EQ(dataset.dir(), folder / "set");
      std::vector<int32_t> tokens{1, 2, 3};
      for (int64_t i = 0; i < dataset.size(); ++i) {
        std::vector<int32_t> expected = tokenizer.encode(kRecords[static_cast<size_t>(i)]);
        expected.insert(expected.begin(), tokenizer.end_of_text());
        expected.push_back(tokenizer.end_of_text());
        dataset.record(i, 0, tokens);
        EXPECT_EQ(tokens, expected);
        dataset.record(i, 3, tokens);
        expected.resize(std::min<size_t>(expected.size(), 3));
        EXPECT_EQ(tokens, expected);
      }
      EXPECT_THROW(dataset.record(5, 0, tokens), InternalError);
      EXPECT_THROW(dataset.record(-1, 0, tokens), InternalError);
    }
  }
}

TEST(Dataset, CarriesItsTokenizer) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), kRecords);
  EXPECT_EQ(load_tokenizer(folder / "set")->kind(), "bytes");
}

TEST(Dataset, ItsIdIsRandomAndSaysNothingOfItsContent) {
  TemporaryFolder folder;
  write_dataset(folder / "a", *make_byte_tokenizer(), kRecords);
  write_dataset(folder / "b", *make_byte_tokenizer(), kRecords);
  const std::string a = Dataset::open(folder / "a").id(), b = Dataset::open(folder / "b").id();
  EXPECT_EQ(a.size(), 32u);
  EXPECT_EQ(a.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_NE(a, b);
  EXPECT_EQ(Dataset::open(folder / "a").id(), a);
}

TEST(Dataset, WithoutRecordsIsValid) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), {});
  EXPECT_EQ(Dataset::open(folder / "set").size(), 0);
}

TEST(DatasetWriter, ShowsNothingBeforeFinishAndLeavesNothingWithoutIt) {
  TemporaryFolder folder;
  const auto tokenizer = make_byte_tokenizer();
  {
    DatasetWriter writer(folder / "deep/er/set", *tokenizer);
    writer.add("text");
    EXPECT_FALSE(std::filesystem::exists(folder / "deep/er/set"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder / "deep/er"));
}

TEST(DatasetWriter, RefusesAFolderThatExists) {
  TemporaryFolder folder;
  const auto tokenizer = make_byte_tokenizer();
  std::filesystem::create_directory(folder / "empty");
  EXPECT_THROW(DatasetWriter(folder / "empty", *tokenizer), IoError);
  EXPECT_THROW(DatasetWriter(folder / "empty/", *tokenizer), IoError);
  write_text(folder / "file", "x");
  EXPECT_THROW(DatasetWriter(folder / "file", *tokenizer), IoError);
  EXPECT_THROW(DatasetWriter(folder / "file/set", *tokenizer), IoError);
  DatasetWriter late(folder / "late", *tokenizer);
  late.add("text");
  std::filesystem::create_directory(folder / "late");
  EXPECT_THROW(late.finish(), IoError);
}

// The message of the IoError with which a dataset is refused, after `damage` has worked on it.
template <typename Damage>
std::string refusal(Damage damage) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), kRecords);
  damage(folder / "set");
  try {
    Dataset::open(folder / "set");
  } catch (const IoError& error) {
    return error.what();
  }
  return "accepted";
}

template <typename Edit>
std::string refusal_of_index(Edit edit) {
  return refusal([&](const std::filesystem::path& dir) {
    nlohmann::json json = nlohmann::json::parse(read_text(dir / "dataset.json"));
    edit(json);
    write_text(dir / "dataset.json", json.dump());
  });
}

::testing::AssertionResult contains(const std::string& message, const std::string& part) {
  if (message.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected '" << part << "' in: " << message;
}

TEST(Dataset, TruncatedLongerOrMissingShardsAreRefusedAtOpen) {
  using Path = std::filesystem::path;
  for (const char* name : {"shard-00000.tokens", "shard-00000.offsets"}) {
    for (const int change : {-1, -2, -8, 1, 8}) {
      const std::string message = refusal([&](const Path& dir) {
        std::filesystem::resize_file(dir / name,
                                     std::filesystem::file_size(dir / name) + static_cast<uintmax_t>(change));
      });
      EXPECT_TRUE(contains(message, name)) << change;
      EXPECT_TRUE(contains(message, "dataset.json promises"));
      EXPECT_EQ(contains(message, "truncated"), change < 0);
    }
    EXPECT_TRUE(contains(refusal([&](const Path& dir) { std::filesystem::remove(dir / name); }), name));
  }
  EXPECT_TRUE(contains(refusal([](const Path& dir) { std::filesystem::remove(dir / "dataset.json"); }),
                       "dataset.json"));
}

TEST(Dataset, OffsetsThatDoNotRiseToTheNumberOfTokensAreRefused) {
  for (size_t entry = 0; entry <= kRecords.size(); ++entry) {
    for (const uint64_t value : {uint64_t{4}, uint64_t{1} << 63, UINT64_MAX}) {
      const std::string message = refusal([&](const std::filesystem::path& dir) {
        std::string bytes = read_text(dir / "shard-00000.offsets");
        std::memcpy(bytes.data() + entry * 8, &value, 8);
        write_text(dir / "shard-00000.offsets", bytes);
      });
      if (entry == 1 && value == 4) {
        EXPECT_EQ(message, "accepted");  // still rises: other records, but within the file
      } else {
        EXPECT_TRUE(contains(message, "does not rise")) << entry;
      }
    }
  }
}

TEST(Dataset, AMalformedIndexIsRefused) {
  using Json = nlohmann::json;
  EXPECT_TRUE(
      contains(refusal([](const std::filesystem::path& dir) { write_text(dir / "dataset.json", "{"); }),
               "not a JSON object"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["format"] = "other"; }), "format"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json.erase("id"); }), "'id' is missing"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["id"] = "../../etc"; }), "hexadecimal"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["vocab_size"] = 0; }), "out of range"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["vocab_size"] = 1.5; }), "is missing"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["vocab_size"] = 100000; }), "bytes"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json.erase("shards"); }), "'shards' is missing"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["shards"] = {3}; }), "is missing"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["shards"][0]["name"] = "../x"; }), "letters"));
  EXPECT_TRUE(
      contains(refusal_of_index([](Json& json) { json["shards"][0]["records"] = -1; }), "out of range"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["shards"][0]["records"] = UINT64_MAX; }),
                       "out of range"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["shards"][0]["tokens"] = INT64_MAX; }),
                       "out of range"));
  EXPECT_TRUE(contains(refusal_of_index([](Json& json) { json["shards"][0]["records"] = 4; }), "promises"));
}

TEST(Dataset, MutatedIndexesAreRefusedOrReadWithinTheFiles) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), kRecords);
  const std::string valid = read_text(folder / "set/dataset.json");
  std::mt19937_64 random(20260102);
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string text = valid;
    for (uint64_t change = random() % 3 + 1; change > 0; --change)
      text[random() % text.size()] = static_cast<char>(random());
    write_text(folder / "set/dataset.json", text);
    try {
      const Dataset dataset = Dataset::open(folder / "set");
      std::vector<int32_t> tokens;
      for (int64_t i = 0; i < dataset.size(); ++i) dataset.record(i, 0, tokens);
    } catch (const IoError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(Dataset, ATokenOutsideTheVocabularyIsRefusedWhereItIsRead) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), kRecords);
  std::string bytes = read_text(folder / "set/shard-00000.tokens");
  bytes[2] = bytes[3] = '\xff';  // token 1 of record 0
  write_text(folder / "set/shard-00000.tokens", bytes);
  const Dataset dataset = Dataset::open(folder / "set");
  std::vector<int32_t> tokens;
  EXPECT_THROW(dataset.record(0, 0, tokens), IoError);
  EXPECT_NO_THROW(dataset.record(1, 0, tokens));
}

TEST(Microbatch, SlotsHoldTruncatedRecordsAndTheTokensThatFollow) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), {"abcdef", "x", "abc"});
  const Dataset dataset = Dataset::open(folder / "set");
  Microbatch batch;
  fill_microbatch(dataset, std::vector<int64_t>{1, 0, 2}, 4, 5, batch);
  constexpr int64_t E = 256, I = kIgnored;
  EXPECT_EQ(batch.slots, 4);
  EXPECT_EQ(batch.tokens, 5);
  EXPECT_EQ(batch.input_ids, (std::vector<int64_t>{E, 'x', E,   0,   0,    //
                                                   E, 'a', 'b', 'c', 'd',  // truncated to 5 tokens
                                                   E, 'a', 'b', 'c', E,    //
                                                   0, 0,   0,   0,   0}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{'x', E,   I,   I,   I,  //
                                                 'a', 'b', 'c', 'd', I,  //
                                                 'a', 'b', 'c', E,   I,  //
                                                 I,   I,   I,   I,   I}));
  EXPECT_EQ(batch.records, (std::vector<int64_t>{1, 0, 2, -1}));
  EXPECT_EQ(batch.target_counts, (std::vector<int64_t>{2, 4, 4, 0}));
}

TEST(Microbatch, ARecordsSlotDoesNotDependOnItsNeighbours) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), kRecords);
  const Dataset dataset = Dataset::open(folder / "set");
  Microbatch alone, among;
  fill_microbatch(dataset, std::vector<int64_t>{1}, 1, 8, alone);
  fill_microbatch(dataset, std::vector<int64_t>{4, 3, 1, 0}, 5, 8, among);
  EXPECT_TRUE(std::equal(alone.input_ids.begin(), alone.input_ids.end(), among.input_ids.begin() + 16));
  EXPECT_TRUE(std::equal(alone.targets.begin(), alone.targets.end(), among.targets.begin() + 16));
  EXPECT_EQ(alone.target_counts[0], among.target_counts[2]);
}

TEST(Microbatch, NothingOfAnEarlierFillRemains) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), kRecords);
  const Dataset dataset = Dataset::open(folder / "set");
  Microbatch fresh, reused;
  fill_microbatch(dataset, std::vector<int64_t>{1, 3}, 2, 16, reused);
  fill_microbatch(dataset, std::vector<int64_t>{0}, 2, 8, reused);
  fill_microbatch(dataset, std::vector<int64_t>{0}, 2, 8, fresh);
  EXPECT_EQ(reused.input_ids, fresh.input_ids);
  EXPECT_EQ(reused.targets, fresh.targets);
  EXPECT_EQ(reused.records, fresh.records);
  EXPECT_EQ(reused.target_counts, fresh.target_counts);
}

TEST(Microbatch, AnEmptyDrawGivesEmptySlots) {
  TemporaryFolder folder;
  write_dataset(folder / "set", *make_byte_tokenizer(), {});
  Microbatch batch;
  fill_microbatch(Dataset::open(folder / "set"), {}, 2, 3, batch);
  EXPECT_EQ(batch.input_ids, std::vector<int64_t>(6, 0));
  EXPECT_EQ(batch.targets, std::vector<int64_t>(6, kIgnored));
  EXPECT_EQ(batch.records, std::vector<int64_t>(2, -1));
  EXPECT_EQ(batch.target_counts, std::vector<int64_t>(2, 0));
  EXPECT_THROW(fill_microbatch(Dataset::open(folder / "set"), std::vector<int64_t>(3), 2, 3, batch),
               InternalError);
}

}  // namespace
}  // namespace dpfa::data
