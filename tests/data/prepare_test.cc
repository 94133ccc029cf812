#include "src/data/prepare.h"

#include <cmath>
#include <cstdlib>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/data/dataset.h"
#include "src/data/synthesis.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::data {
namespace {

using dpfa::testing::read_text;
using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;

std::vector<std::string> texts_of(const std::filesystem::path& dir) {
  const Dataset dataset = Dataset::open(dir);
  const auto tokenizer = load_tokenizer(dir);
  std::vector<std::string> texts;
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    dataset.record(i, 0, tokens);
    EXPECT_EQ(tokens.front(), tokenizer->end_of_text());
    EXPECT_EQ(tokens.back(), tokenizer->end_of_text());
    texts.push_back(tokenizer->decode(tokens));
  }
  return texts;
}

std::string numbered_lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "record number " + std::to_string(i) + "\n";
  return text;
}

TEST(Prepare, WritesEveryRecordAndCountsThoseThatTrainingTruncates) {
  TemporaryFolder folder;
  write_text(folder / "a.txt", "abc\n\nabcdefgh\n");
  write_text(folder / "b.txt", "abcd");
  PrepareOptions options;
  options.inputs = {folder / "a.txt", folder / "b.txt"};
  options.out = folder / "set";
  options.context = 6;
  const PrepareCounts counts = prepare_dataset(options);
  EXPECT_EQ(texts_of(folder / "set"), (std::vector<std::string>{"abc", "abcdefgh", "abcd"}));
  EXPECT_EQ(counts.records, 3);
  EXPECT_EQ(counts.dropped, 1);
  EXPECT_EQ(counts.tokens, 5 + 10 + 6);
  EXPECT_EQ(counts.longest, 10);
  EXPECT_EQ(counts.truncated, 1);  // six tokens still fit into a context of six
}

TEST(Prepare, HoldsOutTheGivenShareAndLosesNoRecord) {
  TemporaryFolder folder;
  constexpr int kRecords = 4000;
  write_text(folder / "a.txt", numbered_lines(kRecords));
  PrepareOptions options;
  options.inputs = {folder / "a.txt"};
  options.out = folder / "train";
  options.holdout = 0.2;
  options.holdout_out = folder / "held";
  const PrepareCounts counts = prepare_dataset(options);
  EXPECT_EQ(counts.records + counts.holdout_records, kRecords);
  // Bin(4000, 0.2) within 5 standard deviations: false alarm below 1e-6, were the seed not fixed.
  EXPECT_LT(std::abs(static_cast<double>(counts.holdout_records) - 800), 5 * std::sqrt(4000 * 0.2 * 0.8));
  std::multiset<std::string> all;
  for (const char* part : {"train", "held"}) {
    for (const std::string& text : texts_of(folder / part)) all.insert(text);
  }
  EXPECT_EQ(all.size(), static_cast<size_t>(kRecords));
  EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), static_cast<size_t>(kRecords));
  EXPECT_NE(Dataset::open(folder / "train").id(), Dataset::open(folder / "held").id());
}

TEST(Prepare, ARecordLessMovesNoOtherRecordAcrossTheHoldOutSplit) {
  TemporaryFolder folder;
  const std::string lines = numbered_lines(300);
  write_text(folder / "all.txt", lines);
  write_text(folder / "less.txt", lines.substr(lines.find('\n') + 1));  // without the first record
  std::vector<std::set<std::string>> held;
  for (const char* name : {"all", "less"}) {
    PrepareOptions options;
    options.inputs = {folder / (std::string(name) + ".txt")};
    options.out = folder / (std::string(name) + "-train");
    options.holdout = 0.5;
    options.holdout_out = folder / (std::string(name) + "-held");
    prepare_dataset(options);
    const std::vector<std::string> texts = texts_of(options.holdout_out);
    held.emplace_back(texts.begin(), texts.end());
    held.back().erase("record number 0");
  }
  EXPECT_GT(held[0].size(), 100u);
  EXPECT_EQ(held[0], held[1]);
}

TEST(Prepare, AnotherSeedGivesAnotherSplitOfAsManyRecords) {
  TemporaryFolder folder;
  write_text(folder / "a.txt", numbered_lines(300));
  std::vector<std::vector<std::string>> held;
  for (const int64_t seed : {1, 1, 2}) {
    const std::string name = std::to_string(held.size());
    PrepareOptions options;
    options.inputs = {folder / "a.txt"};
    options.out = folder / (name + "-train");
    options.holdout = 0.5;
    options.holdout_out = folder / (name + "-held");
    options.seed = seed;
    prepare_dataset(options);
    held.push_back(texts_of(options.holdout_out));
  }
  EXPECT_EQ(held[0], held[1]);
  EXPECT_NE(held[0], held[2]);
}

TEST(Prepare, AFailureLeavesNoFolderBehind) {
  TemporaryFolder folder;
  write_text(folder / "bad.jsonl", "{\"text\":\"fine\"}\n{\"text\":\n");
  write_text(folder / "empty.txt", " \n\n");
  PrepareOptions options;
  options.inputs = {folder / "bad.jsonl"};
  options.out = folder / "out/set";
  options.holdout = 0.5;
  options.holdout_out = folder / "out/held";
  EXPECT_THROW(prepare_dataset(options), IoError);
  options.inputs = {folder / "empty.txt"};
  EXPECT_THROW(prepare_dataset(options), IoError);
  EXPECT_TRUE(std::filesystem::is_empty(folder / "out"));
}

TEST(Prepare, OptionsThatContradictEachOtherAreRefused) {
  TemporaryFolder folder;
  write_text(folder / "a.txt", "x\n");
  const auto expect_refused = [&](auto change) {
    PrepareOptions options;
    options.inputs = {folder / "a.txt"};
    options.out = folder / "set";
    change(options);
    EXPECT_THROW(prepare_dataset(options), ConfigError);
    EXPECT_FALSE(std::filesystem::exists(folder / "set"));
  };
  expect_refused([](PrepareOptions& options) { options.tokenizer = "words"; });
  expect_refused([](PrepareOptions& options) { options.tokenizer = "gpt2"; });
  expect_refused([](PrepareOptions& options) { options.vocabulary = "somewhere"; });
  expect_refused([](PrepareOptions& options) { options.context = 0; });
  expect_refused([](PrepareOptions& options) { options.holdout = 0.1; });
  expect_refused([&](PrepareOptions& options) { options.holdout_out = folder / "held"; });
  expect_refused(
      [&](PrepareOptions& options) { options.holdout = 1, options.holdout_out = folder / "held"; });
}

TEST(Synthesis, RecordsFitTheContextAndTheWordingVaries) {
  const SyntheticRecords records = synthesize_records(4000, 24, 1);
  EXPECT_EQ(records.train.size(), 4000u);
  EXPECT_EQ(records.eval.size(), 500u);
  std::set<std::string> distinct(records.train.begin(), records.train.end());
  EXPECT_GT(distinct.size(), 3900u);
  for (const std::string& record : records.train) EXPECT_LE(record.size(), 62u) << record;
  for (const std::string& record : records.eval) EXPECT_LE(record.size(), 62u) << record;
}

TEST(Synthesis, EachCanaryStandsInExactlyOneRecordUnderANameOfItsOwn) {
  for (const int64_t canaries : {0, 1, 24, 512}) {
    const SyntheticRecords records = synthesize_records(3000, canaries, 2);
    ASSERT_EQ(records.canaries.size(), static_cast<size_t>(canaries));
    std::set<std::string> names;
    for (const Canary& canary : records.canaries) {
      ASSERT_EQ(canary.secret.size(), 6u);
      EXPECT_EQ(canary.secret.find_first_not_of("0123456789"), std::string::npos);
      EXPECT_EQ(records.train.at(static_cast<size_t>(canary.record)), canary.prefix + canary.secret);
      ASSERT_TRUE(canary.prefix.starts_with("Patient ") && canary.prefix.ends_with(" code "));
      names.insert(canary.prefix.substr(8, canary.prefix.size() - 14));
    }
    EXPECT_EQ(names.size(), static_cast<size_t>(canaries));
    size_t with_name = 0, eval_with_name = 0;
    for (const std::string& name : names) {
      for (const std::string& record : records.train)
        with_name += record.find(name + " ") != std::string::npos;
      for (const std::string& record : records.eval)
        eval_with_name += record.find(name + " ") != std::string::npos;
    }
    EXPECT_EQ(with_name, static_cast<size_t>(canaries));
    EXPECT_EQ(eval_with_name, 0u);
  }
}

TEST(Synthesis, SecretsAreUniformDigits) {
  // 512 x 6 digits: each digit is Bin(3072, 0.1); ten comparisons at 5 standard deviations: false alarm below
  // 1e-5.
  std::array<int, 10> counts{};
  for (const Canary& canary : synthesize_records(512, 512, 3).canaries) {
    for (const char digit : canary.secret) ++counts[static_cast<size_t>(digit - '0')];
  }
  for (const int count : counts) EXPECT_LT(std::abs(count - 307.2), 5 * std::sqrt(3072 * 0.1 * 0.9));
}

TEST(Synthesis, EqualSeedsGiveEqualRecordsAndOthersDoNot) {
  EXPECT_EQ(synthesize_records(100, 5, 4).train, synthesize_records(100, 5, 4).train);
  EXPECT_NE(synthesize_records(100, 5, 4).train, synthesize_records(100, 5, 5).train);
  EXPECT_NE(synthesize_records(100, 0, 4).train[0], synthesize_records(100, 0, 4).eval[0]);
  EXPECT_THROW(synthesize_records(0, 0, 1), ConfigError);
  EXPECT_THROW(synthesize_records(10, 11, 1), ConfigError);
  EXPECT_THROW(synthesize_records(10000, kMaxCanaries + 1, 1), ConfigError);
  EXPECT_THROW(synthesize_records(10, -1, 1), ConfigError);
}

TEST(Synthesis, TheFolderHoldsDatasetsTextAndCanaries) {
  TemporaryFolder folder;
  const SyntheticRecords records = synthesize_records(200, 8, 6);
  write_synthetic_records(records, folder / "data");
  EXPECT_EQ(texts_of(folder / "data/train"), records.train);
  EXPECT_EQ(texts_of(folder / "data/eval"), records.eval);
  std::string text;
  for (const std::string& record : records.train) text += record + "\n";
  EXPECT_EQ(read_text(folder / "data/records.txt"), text);
  const auto json = nlohmann::json::parse(read_text(folder / "data/canaries.json"));
  EXPECT_EQ(json["alphabet"], "0123456789");
  EXPECT_EQ(json["length"], 6);
  ASSERT_EQ(json["canaries"].size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(json["canaries"][i]["prefix"], records.canaries[i].prefix);
    EXPECT_EQ(json["canaries"][i]["secret"], records.canaries[i].secret);
    EXPECT_EQ(json["canaries"][i]["record"], records.canaries[i].record);
  }
  EXPECT_THROW(write_synthetic_records(records, folder / "data"), IoError);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

// What the verb prints on standard output.
std::string output_of(const cli::Arguments& arguments) {
  ::testing::internal::CaptureStdout();
  try {
    EXPECT_EQ(cli::run_data(arguments), 0);
  } catch (...) {
    ::testing::internal::GetCapturedStdout();
    throw;
  }
  return ::testing::internal::GetCapturedStdout();
}

TEST(DataVerb, PreparesAColumnOfATableAndPrintsTheCountsAsJson) {
  TemporaryFolder folder;
  write_text(folder / "a.csv", "id,text\n1,\"one, two\"\n2,\n3,three\n");
  const std::string out = (folder / "set").string();
  const auto json =
      nlohmann::json::parse(output_of({"prepare", "--input", (folder / "a.csv").string(), "--field", "text",
                                       "--tokenizer", "bytes", "--out", out, "--context", "9", "--json"}));
  EXPECT_EQ(json["records"], 2);
  EXPECT_EQ(json["dropped"], 1);
  EXPECT_EQ(json["truncated"], 1);
  EXPECT_EQ(json["context"], 9);
  EXPECT_EQ(json["vocab_size"], 257);
  EXPECT_EQ(texts_of(out), (std::vector<std::string>{"one, two", "three"}));
  EXPECT_THROW(output_of({"prepare", "--input", (folder / "a.csv").string(), "--out", out}), IoError);
}

TEST(DataVerb, TakesUnderscoresForDashesAndSaysThatHeldOutRecordsArePrivate) {
  TemporaryFolder folder;
  write_text(folder / "a.txt", numbered_lines(100));
  const std::string text =
      output_of({"prepare", "--input", (folder / "a.txt").string(), "--out", (folder / "set").string(),
                 "--holdout", "0.3", "--holdout_out", (folder / "held").string(), "--seed", "5"});
  EXPECT_NE(text.find("as private as the others"), std::string::npos) << text;
  EXPECT_GT(Dataset::open(folder / "held").size(), 0);
}

TEST(DataVerb, SynthesisesTheQuickStartByDefault) {
  TemporaryFolder folder;
  const auto json =
      nlohmann::json::parse(output_of({"synth", "--out", (folder / "data").string(), "--json"}));
  EXPECT_EQ(json["records"], 4000);
  EXPECT_EQ(json["canaries"], 24);
  EXPECT_EQ(json["eval_records"], 500);
  EXPECT_EQ(Dataset::open(folder / "data/train").size(), 4000);
}

TEST(DataVerb, HelpNamesTheVerbsAndWrongInputIsRefused) {
  EXPECT_NE(output_of({"--help"}).find("dpfa data synth"), std::string::npos);
  EXPECT_NE(output_of({"prepare", "--help"}).find("holdout"), std::string::npos);
  EXPECT_NE(output_of({"synth", "--help"}).find("canaries"), std::string::npos);
  EXPECT_THROW(output_of({"prepar"}), ConfigError);
  EXPECT_THROW(output_of({"prepare", "--out", "x"}), ConfigError);
  EXPECT_THROW(output_of({"synth", "--out", "/nonexistent/x", "--records", "ten"}), ConfigError);
  EXPECT_THROW(
      output_of({"prepare", "--input", "/no/such.txt", "--out", "/tmp/dpfa-no/x", "--record", "page"}),
      ConfigError);
}

TEST(DataVerb, PreparesWithTheGpt2Vocabulary) {
  const char* shared = std::getenv("DPFA_SHARED");
  const auto vocabulary = std::filesystem::path(shared == nullptr ? "" : shared) / "data/gpt2-bpe";
  if (shared == nullptr || !std::filesystem::exists(vocabulary))
    GTEST_SKIP() << "not run: no GPT-2 vocabulary in " << vocabulary;
  TemporaryFolder folder;
  write_text(folder / "a.txt", "Hello world\n");
  output_of({"prepare", "--input", (folder / "a.txt").string(), "--out", (folder / "set").string(),
             "--tokenizer", "gpt2", "--vocab", vocabulary.string()});
  std::vector<int32_t> tokens;
  const Dataset dataset = Dataset::open(folder / "set");
  dataset.record(0, 0, tokens);
  EXPECT_EQ(tokens, (std::vector<int32_t>{50256, 15496, 995, 50256}));
  EXPECT_EQ(texts_of(folder / "set"), std::vector<std::string>{"Hello world"});
}

}  // namespace
}  // namespace dpfa::data
