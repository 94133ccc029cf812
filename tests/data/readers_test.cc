#include "src/data/readers.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "src/base/error.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::data {
namespace {

using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;
using Records = std::vector<std::string>;

struct Result {
  Records records;
  int64_t dropped;
};

Result read(const std::string& name, const std::string& content, const ReadOptions& options = {}) {
  TemporaryFolder folder;
  write_text(folder / name, content);
  Result result;
  const ReadCounts counts =
      read_records(folder / name, options, [&](std::string_view text) { result.records.emplace_back(text); });
  EXPECT_EQ(counts.records, static_cast<int64_t>(result.records.size()));
  result.dropped = counts.dropped;
  return result;
}

ReadOptions unit(RecordUnit value) {
  ReadOptions options;
  options.unit = value;
  return options;
}

ReadOptions field(const std::string& name, bool header = true) {
  ReadOptions options;
  options.field = name;
  options.header = header;
  return options;
}

// Which error reading gives, and its message.
std::string failure(const std::string& name, const std::string& content, const ReadOptions& options = {}) {
  try {
    read(name, content, options);
  } catch (const ConfigError& error) {
    return std::string("ConfigError: ") + error.what();
  } catch (const IoError& error) {
    return std::string("IoError: ") + error.what();
  }
  return "accepted";
}

::testing::AssertionResult contains(const std::string& message, const std::string& kind,
                                    const std::string& part) {
  if (message.starts_with(kind) && message.find(part) != std::string::npos)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected " << kind << " with '" << part << "', got: " << message;
}

TEST(TextReader, EachLineIsARecordAndLinesWithoutTextAreCounted) {
  const Result result = read("a.txt", "one\r\n\n  two \t\n \r\nthree \xff");
  EXPECT_EQ(result.records, (Records{"one", "  two \t", "three \xff"}));
  EXPECT_EQ(result.dropped, 2);
  EXPECT_EQ(read("a.txt", "last\n").records, Records{"last"});
  EXPECT_EQ(read("a.txt", "last\n").dropped, 0);
  EXPECT_EQ(read("a.txt", "").records, Records{});
  EXPECT_EQ(read("a.txt", "\xef\xbb\xbfmarked").records, Records{"marked"});
  EXPECT_EQ(read("a.txt", std::string("nul\0byte", 8)).records, Records{std::string("nul\0byte", 8)});
}

TEST(TextReader, ParagraphsAreSeparatedByBlankLines) {
  const Result result =
      read("a.txt", "\n\none\ntwo\n \t\n\nthree\r\nfour\r\n\r\nfive", unit(RecordUnit::kParagraph));
  EXPECT_EQ(result.records, (Records{"one\ntwo", "three\r\nfour", "five"}));
  EXPECT_EQ(read("a.txt", "a\n\n", unit(RecordUnit::kParagraph)).records, Records{"a"});
}

TEST(TextReader, ADocumentIsTheWholeFile) {
  EXPECT_EQ(read("a.txt", "one\n\ntwo\n", unit(RecordUnit::kDocument)).records, Records{"one\n\ntwo\n"});
  EXPECT_EQ(read("a.txt", " \n", unit(RecordUnit::kDocument)).dropped, 1);
}

TEST(TableReader, FollowsRfc4180) {
  const std::string csv = "id,text\r\n1,\"a, \"\"b\"\"\nc\"\r\n2,plain\r\n3,\"\"\r\n4, spaced \r\n";
  const Result result = read("a.csv", csv, field("text"));
  EXPECT_EQ(result.records, (Records{"a, \"b\"\nc", "plain", " spaced "}));
  EXPECT_EQ(result.dropped, 1);
  EXPECT_EQ(read("a.csv", csv, field("id")).records, (Records{"1", "2", "3", "4"}));
  EXPECT_EQ(read("a.csv", "text,x\nlast,").records, Records{"last"});
  EXPECT_EQ(read("a.csv", "x,text\n1,\"quoted end\"").records, Records{"quoted end"});
  EXPECT_EQ(read("a.csv", "\"te\"\"xt\",b\nv,w\n", field("te\"xt")).records, Records{"v"});
  EXPECT_EQ(read("a.csv", "text,b\n\na,b\n").records, Records{"a"});
  EXPECT_EQ(read("a.csv", "").records, Records{});
}

TEST(TableReader, SeparatesTsvByTabs) {
  EXPECT_EQ(read("a.tsv", "sentence\tlabel\na, b\t1\n\"q\tq\"\t0\n", field("sentence")).records,
            (Records{"a, b", "q\tq"}));
}

TEST(TableReader, TheFieldMayBeLeftOutWhereItIsClear) {
  EXPECT_EQ(read("a.csv", "anything\nx\ny\n").records, (Records{"x", "y"}));
  EXPECT_EQ(read("a.csv", "id,text\n1,x\n").records, Records{"x"});
  EXPECT_TRUE(contains(failure("a.csv", "id,body\n1,x\n"), "ConfigError", "'id', 'body'"));
}

TEST(TableReader, WithoutHeaderTheFieldIsAColumnNumber) {
  EXPECT_EQ(read("a.tsv", "x\t0\ny\t1\n", field("1", false)).records, (Records{"x", "y"}));
  EXPECT_EQ(read("a.tsv", "x\ny\n", field("", false)).records, (Records{"x", "y"}));
  for (const char* wrong : {"0", "3", "-1", "1x", "text", ""}) {
    EXPECT_TRUE(contains(failure("a.tsv", "x\t0\n", field(wrong, false)), "ConfigError",
                         "column number from 1 to 2"));
  }
}

TEST(TableReader, MalformedRowsAreRefusedWithTheirLine) {
  EXPECT_TRUE(
      contains(failure("a.csv", "text\n\"a\nb\nc"), "IoError", "a.csv', line 2: a quoted field begins here"));
  EXPECT_TRUE(contains(failure("a.csv", "text,b\n\"a\n\",1\nx\"y,1\n"), "IoError", "line 4: a quote inside"));
  EXPECT_TRUE(contains(failure("a.csv", "text\n\"a\" b\n"), "IoError", "line 2: text follows"));
  EXPECT_TRUE(contains(failure("a.csv", "text,b\n1,2\n1\n"), "IoError", "line 3: this row has 1 fields"));
  EXPECT_TRUE(contains(failure("a.csv", "text,b\n1,2,3\n"), "IoError", "line 2: this row has 3 fields"));
  EXPECT_TRUE(contains(failure("a.csv", "text,text\n1,2\n"), "IoError", "two columns are called 'text'"));
  EXPECT_TRUE(contains(failure("a.csv", "a,b\n1,2\n", field("c")), "ConfigError", "no column 'c'"));
}

TEST(JsonLinesReader, TakesTheFieldOfEachObject) {
  const Result result =
      read("a.jsonl", "{\"text\":\"a\\nb \\u00e9\",\"n\":1}\n\n{\"text\":\"\"}\r\n{\"n\":2,\"text\":\"c\"}");
  EXPECT_EQ(result.records, (Records{"a\nb \xc3\xa9", "c"}));
  EXPECT_EQ(result.dropped, 2);
  EXPECT_EQ(read("a.jsonl", "{\"body\":\"x\"}\n", field("body")).records, Records{"x"});
}

TEST(JsonLinesReader, MalformedLinesAreRefusedWithTheirNumber) {
  const std::string good = "{\"text\":\"a\"}\n";
  EXPECT_TRUE(
      contains(failure("a.jsonl", good + "{\"text\":"), "IoError", "a.jsonl', line 2: not a JSON object"));
  EXPECT_TRUE(contains(failure("a.jsonl", good + "[1]\n"), "IoError", "line 2: not a JSON object"));
  EXPECT_TRUE(contains(failure("a.jsonl", "{\"text\":\"\xff\"}\n"), "IoError", "line 1: not a JSON object"));
  EXPECT_TRUE(contains(failure("a.jsonl", good + "{\"body\":\"x\"}\n"), "IoError",
                       "line 2: the object has no member 'text'"));
  EXPECT_TRUE(contains(failure("a.jsonl", good + "{\"text\":null}\n"), "IoError",
                       "line 2: the member 'text' is not a text"));
}

TEST(Readers, MessagesNeverQuoteARecord) {
  const std::string secret = "hunter2secret";
  EXPECT_EQ(failure("a.jsonl", "{\"text\":\"" + secret + "\n").find(secret), std::string::npos);
  EXPECT_EQ(failure("a.jsonl", "{\"other\":\"" + secret + "\"}\n").find(secret), std::string::npos);
  EXPECT_EQ(failure("a.csv", "text\n" + secret + "\"\n").find(secret), std::string::npos);
  EXPECT_EQ(failure("a.csv", "text,b\n" + secret + "\n").find(secret), std::string::npos);
}

TEST(Readers, OptionsThatDoNotFitTheFileAreRefused) {
  EXPECT_TRUE(contains(failure("a.parquet", "x"), "ConfigError", ".txt, .csv, .tsv or .jsonl"));
  EXPECT_TRUE(contains(failure("a.txt", "x", field("text")), "ConfigError", "no fields"));
  EXPECT_TRUE(
      contains(failure("a.csv", "x", unit(RecordUnit::kParagraph)), "ConfigError", "each row is a record"));
  EXPECT_TRUE(contains(failure("a.jsonl", "x", field("", false)), "ConfigError", "--no_header"));
  EXPECT_THROW(record_unit("sentence"), ConfigError);
  EXPECT_THROW(read_records("/no/such/file.txt", {}, [](std::string_view) {}), IoError);
}

TEST(Readers, ReadPublishedFilesInFull) {
  const char* shared = std::getenv("DPFA_SHARED");
  const std::filesystem::path data = std::filesystem::path(shared == nullptr ? "" : shared) / "data";
  if (shared == nullptr || !std::filesystem::exists(data)) GTEST_SKIP() << "not run: no files in " << data;
  const auto count = [](std::string_view text) { EXPECT_FALSE(text.empty()); };
  // Row counts by Python's csv module.
  EXPECT_EQ(read_records(data / "e2e/devset.csv", field("ref"), count).records, 4672);
  EXPECT_EQ(read_records(data / "sst2/dev.tsv", field("1", false), count).records, 872);
  EXPECT_EQ(read_records(data / "sst2/train.tsv", field("1", false), count).records, 6920);
  EXPECT_EQ(read_records(data / "tinyshakespeare/input.txt", {}, count).records, 32777);
}

}  // namespace
}  // namespace dpfa::data
