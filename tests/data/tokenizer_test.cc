#include "src/data/tokenizer.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <random>
#include <string_view>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/data/gpt2_bpe.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::data {
namespace {

using namespace std::string_view_literals;

using dpfa::testing::read_text;
using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;

std::string random_bytes(std::mt19937_64& random, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) text += static_cast<char>(random());
  return text;
}

// A text of letters, digits, spaces, contractions and broken UTF-8, made to hit every branch of the word
// split.
std::string random_text(std::mt19937_64& random, size_t pieces) {
  static const std::vector<std::string> kPieces{"a",        "b",
                                                "ab",       "Z",
                                                " ",        "  ",
                                                "\n",       "\t",
                                                "'s",       "'ll",
                                                "'",        "7",
                                                "42",       "\xc3\xa9",
                                                "\xc2\xa0", "\xe6\x97\xa5",
                                                "!",        "-",
                                                "\xff",     "\xc3",
                                                "\xe6\x97", "\xf0\x9f\x8e\x89"};
  std::string text;
  for (size_t i = 0; i < pieces; ++i) text += kPieces[random() % kPieces.size()];
  return text;
}

TEST(ByteTokenizer, EveryTextComesBackByteForByte) {
  const auto tokenizer = make_byte_tokenizer();
  std::mt19937_64 random(1);
  for (size_t size : {0, 1, 2, 100, 5000}) {
    const std::string text = random_bytes(random, size);
    EXPECT_EQ(tokenizer->encode(text).size(), size);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->encode("A\xff"), (std::vector<int32_t>{65, 255}));
  EXPECT_EQ(tokenizer->decode({256, 72, 105, 256}), "Hi");
  EXPECT_THROW(tokenizer->decode({257}), InternalError);
  EXPECT_THROW(tokenizer->decode({-1}), InternalError);
}

TEST(Gpt2Words, AreThoseOfThePublishedExpression) {
  using Words = std::vector<std::string_view>;
  EXPECT_EQ(split_gpt2_words(""), Words{});
  EXPECT_EQ(split_gpt2_words("Hello world"), (Words{"Hello", " world"}));
  EXPECT_EQ(split_gpt2_words("don't DON'T we'll's"),
            (Words{"don", "'t", " DON", "'", "T", " we", "'ll", "'s"}));
  EXPECT_EQ(split_gpt2_words("a  b"), (Words{"a", " ", " b"}));
  EXPECT_EQ(split_gpt2_words("a \n b"), (Words{"a", " \n", " b"}));
  EXPECT_EQ(split_gpt2_words("a\nb"), (Words{"a", "\n", "b"}));
  EXPECT_EQ(split_gpt2_words("a   "), (Words{"a", "   "}));
  EXPECT_EQ(split_gpt2_words(" "), (Words{" "}));
  EXPECT_EQ(split_gpt2_words("x=12;"), (Words{"x", "=", "12", ";"}));
  EXPECT_EQ(split_gpt2_words(" !? 3"), (Words{" !?", " 3"}));
  // Unicode classes: e acute is a letter, one half and the roman numeral are numbers, U+3000 is a space that
  // does not join the word after it, a combining accent is none of these.
  EXPECT_EQ(split_gpt2_words("\xc3\xa9t\xc3\xa9"), (Words{"\xc3\xa9t\xc3\xa9"}));
  EXPECT_EQ(split_gpt2_words("\xc2\xbd\xe2\x85\xb7x"), (Words{"\xc2\xbd\xe2\x85\xb7", "x"}));
  EXPECT_EQ(split_gpt2_words("a\xe3\x80\x80\xe3\x80\x80"
                             "b"),
            (Words{"a", "\xe3\x80\x80", "\xe3\x80\x80", "b"}));
  EXPECT_EQ(split_gpt2_words("a\xcc\x81"), (Words{"a", "\xcc\x81"}));
}

TEST(Gpt2Words, BytesThatAreNotUtf8CountAsNeitherLetterNorSpace) {
  using Words = std::vector<std::string_view>;
  EXPECT_EQ(split_gpt2_words("a\xff\xfe!b"), (Words{"a", "\xff\xfe!", "b"}));
  EXPECT_EQ(split_gpt2_words(" \xc3 x\xe6\x97"), (Words{" \xc3", " x", "\xe6\x97"}));
}

TEST(Gpt2Words, CoverEveryTextWithoutGapOrOverlap) {
  std::mt19937_64 random(2);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = random_text(random, 1 + random() % 20);
    std::string joined;
    for (const std::string_view word : split_gpt2_words(text)) {
      EXPECT_FALSE(word.empty());
      joined += word;
    }
    EXPECT_EQ(joined, text);
  }
}

// GPT-2's spelling of one byte, built here from its definition.
std::string printable(uint8_t byte) {
  const auto prints = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; };
  int code = byte;
  if (!prints(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += prints(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

std::string printable(const std::string& bytes) {
  std::string text;
  for (const char byte : bytes) text += printable(static_cast<uint8_t>(byte));
  return text;
}

using Merges = std::vector<std::pair<std::string, std::string>>;  // bytes

struct MadeVocabulary {
  std::vector<std::string> tokens;  // bytes; the id is the position
  Merges merges;

  // The 256 bytes, then what `merges` joins to, then the end of text.
  explicit MadeVocabulary(Merges pairs) : merges(std::move(pairs)) {
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(std::string(1, static_cast<char>(byte)));
    for (const auto& [left, right] : merges) {
      if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end())
        tokens.push_back(left + right);
    }
    tokens.push_back("<|endoftext|>");
  }
  nlohmann::json vocabulary() const {
    nlohmann::json json = nlohmann::json::object();
    for (size_t id = 0; id < tokens.size(); ++id) json[printable(tokens[id])] = id;
    return json;
  }
  std::string merge_lines() const {
    std::string lines = "#version: 0.2\n";
    for (const auto& [left, right] : merges) lines += printable(left) + " " + printable(right) + "\n";
    return lines;
  }
  void write(const std::filesystem::path& dir) const {
    write_text(dir / "vocab.json", vocabulary().dump());
    write_text(dir / "merges.txt", merge_lines());
  }
  // The definition of the algorithm, word by word: join every occurrence of the first listed pair, and
  // repeat.
  std::vector<int32_t> encode(const std::string& text) const {
    std::vector<int32_t> ids;
    for (const std::string_view word : split_gpt2_words(text)) {
      std::vector<std::string> parts;
      for (const char byte : word) parts.push_back(std::string(1, byte));
      for (size_t rank = 0; rank < merges.size();) {
        bool joined = false;
        for (size_t i = 0; i + 1 < parts.size(); ++i) {
          if (parts[i] != merges[rank].first || parts[i + 1] != merges[rank].second) continue;
          parts[i] += parts[i + 1];
          parts.erase(parts.begin() + static_cast<ptrdiff_t>(i) + 1);
          joined = true;
        }
        rank = joined ? 0 : rank + 1;
      }
      for (const std::string& part : parts) {
        ids.push_back(static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), part) - tokens.begin()));
      }
    }
    return ids;
  }
};

TEST(Gpt2Tokenizer, JoinsTheFirstListedPairFirst) {
  TemporaryFolder folder;
  MadeVocabulary(Merges{{"l", "l"}, {"h", "e"}, {"ll", "o"}, {"he", "llo"}, {" ", "w"}, {"o", "r"}})
      .write(folder.path());
  const auto tokenizer = load_gpt2_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_EQ(tokenizer->end_of_text(), 262);
  EXPECT_EQ(tokenizer->encode("hello world"), (std::vector<int32_t>{259, 260, 261, 'l', 'd'}));
  EXPECT_EQ(tokenizer->encode("llll"), (std::vector<int32_t>{256, 256}));
  EXPECT_EQ(tokenizer->encode("lll"), (std::vector<int32_t>{256, 'l'}));
}

TEST(Gpt2Tokenizer, AgreesWithTheDefinitionOnRandomVocabulariesAndTexts) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> known{"a", "b", "Z",    " ",    "\n",   "s",   "l",
                                   "7", "4", "\xc3", "\xa9", "\xff", "\xe6"};
    Merges merges;
    while (merges.size() < 60) {
      const std::pair pair(known[random() % known.size()], known[random() % known.size()]);
      const std::string joined = pair.first + pair.second;
      // As in a trained list, a token arises in one way only.
      if (joined.size() > 8 || std::find(known.begin(), known.end(), joined) != known.end()) continue;
      known.push_back(joined);
      merges.push_back(pair);
    }
    const MadeVocabulary made(merges);
    TemporaryFolder folder;
    made.write(folder.path());
    const auto tokenizer = load_gpt2_tokenizer(folder.path());
    for (int text_number = 0; text_number < 50; ++text_number) {
      const std::string text = random_text(random, random() % 40);
      EXPECT_EQ(tokenizer->encode(text), made.encode(text));
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    }
  }
}

TEST(Gpt2Tokenizer, ATextThatSpellsTheEndOfTextDoesNotEndItself) {
  TemporaryFolder folder;
  MadeVocabulary(Merges{{"<", "|"}, {"|", ">"}}).write(folder.path());
  const auto tokenizer = load_gpt2_tokenizer(folder.path());
  const std::vector<int32_t> ids = tokenizer->encode("a<|endoftext|>b");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer->end_of_text()), 0);
  EXPECT_EQ(tokenizer->decode(ids), "a<|endoftext|>b");
  EXPECT_EQ(tokenizer->decode({tokenizer->end_of_text(), 'x', tokenizer->end_of_text()}), "x");
}

TEST(Gpt2Tokenizer, AWordOfAMillionBytesTakesSeconds) {
  TemporaryFolder folder;
  Merges merges;
  for (std::string run = "a"; run.size() < 64; run += run) merges.push_back({run, run});
  MadeVocabulary(merges).write(folder.path());
  const auto tokenizer = load_gpt2_tokenizer(folder.path());
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tokenizer->encode(std::string(1 << 20, 'a')), std::vector<int32_t>((1 << 20) / 64, 256 + 5));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Gpt2Tokenizer, WhatSaveWritesLoadsAgain) {
  TemporaryFolder folder, saved;
  MadeVocabulary(Merges{{"h", "e"}, {"he", "y"}, {" ", "\xff"}}).write(folder.path());
  const auto original = load_gpt2_tokenizer(folder.path());
  original->save(saved.path());
  const auto loaded = load_tokenizer(saved.path());
  EXPECT_EQ(loaded->kind(), "gpt2");
  EXPECT_EQ(nlohmann::json::parse(read_text(saved / "vocab.json")),
            nlohmann::json::parse(read_text(folder / "vocab.json")));
  EXPECT_EQ(read_text(saved / "merges.txt"), read_text(folder / "merges.txt"));
  EXPECT_EQ(loaded->encode("hey \xff"), original->encode("hey \xff"));
  TemporaryFolder bytes;
  make_byte_tokenizer()->save(bytes.path());
  EXPECT_EQ(load_tokenizer(bytes.path())->kind(), "bytes");
}

// The message of the IoError with which loading is refused, after `change` has damaged a valid folder.
template <typename Change>
std::string refusal(Change change) {
  TemporaryFolder folder;
  const MadeVocabulary made(Merges{{"h", "e"}});
  made.write(folder.path());
  change(folder, made);
  try {
    load_gpt2_tokenizer(folder.path());
  } catch (const IoError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Gpt2Tokenizer, MalformedFilesAreRefusedWithTheReason) {
  const auto with_vocabulary = [](auto edit) {
    return refusal([&](const TemporaryFolder& folder, const MadeVocabulary& made) {
      nlohmann::json json = made.vocabulary();
      edit(json);
      write_text(folder / "vocab.json", json.dump());
    });
  };
  const auto with_merges = [](const std::string& lines) {
    return refusal([&](const TemporaryFolder& folder, const MadeVocabulary&) {
      write_text(folder / "merges.txt", lines);
    });
  };
  const std::map<std::string, std::string> cases{
      {with_vocabulary([](nlohmann::json& json) {
         json = {1, 2};
       }),
       "expected a JSON object"},
      {with_vocabulary([](nlohmann::json& json) { json.erase("A"); }), "the ids must be"},
      {with_vocabulary([](nlohmann::json& json) { json["A"] = json["B"]; }), "the ids must be"},
      {with_vocabulary([](nlohmann::json& json) { json["A"] = "65"; }), "the ids must be"},
      {with_vocabulary([](nlohmann::json& json) {
         json["Ax"] = json["A"];
         json.erase("A");
       }),
       "no token for the byte 65"},
      {with_vocabulary([](nlohmann::json& json) {
         json["<|end|>"] = json["<|endoftext|>"];
         json.erase("<|endoftext|>");
       }),
       "no token '<|endoftext|>'"},
      {with_vocabulary([](nlohmann::json& json) { json["\xe6\x97\xa5"] = 258; }), "stands for no byte"},
      {with_merges("he\n"), "line 1: expected two tokens"},
      {with_merges("#version: 0.2\nh e x\n"), "line 2: expected two tokens"},
      {with_merges("#version: 0.2\nh q\n"), "line 2: the two tokens"},
      {with_merges("h e\nh e\n"), "line 2 repeats"},
      {refusal([](const TemporaryFolder& folder, const MadeVocabulary&) {
         std::filesystem::remove(folder / "merges.txt");
       }),
       "holds no GPT-2 vocabulary"}};
  EXPECT_EQ(cases.size(), 12u);
  for (const auto& [message, reason] : cases) EXPECT_NE(message.find(reason), std::string::npos) << message;
  TemporaryFolder folder;
  EXPECT_THROW(load_tokenizer(folder.path()), IoError);
  write_text(folder / kTokenizerFile, R"({"kind": "wordpiece"})");
  EXPECT_THROW(load_tokenizer(folder.path()), IoError);
}

// Expected ids: tiktoken 0.14.0 and Hugging Face tokenizers 0.23.3, which agree, on the published GPT-2
// vocabulary.
TEST(Gpt2Tokenizer, GivesTheIdsOfTheReferenceTokenizers) {
  const char* shared = std::getenv("DPFA_SHARED");
  const auto dir = std::filesystem::path(shared == nullptr ? "" : shared) / "data/gpt2-bpe";
  if (shared == nullptr || !std::filesystem::exists(dir / "vocab.bpe")) {
    GTEST_SKIP() << "not run: no GPT-2 vocabulary in " << dir;
  }
  const auto tokenizer = load_gpt2_tokenizer(dir);
  ASSERT_EQ(tokenizer->vocab_size(), 50257);
  EXPECT_EQ(tokenizer->end_of_text(), 50256);
  const std::vector<std::pair<std::string_view, std::vector<int32_t>>> cases{
      {"Hello world"sv, {15496, 995}},
      {" "sv, {220}},
      {"   "sv, {220, 220, 220}},
      {"a  b"sv, {64, 220, 275}},
      {"a \x0a\x0a b\x0a"sv, {64, 220, 628, 275, 198}},
      {"I'll say we've they're DON'T don't can'ts 'tis"sv,
       {40, 1183, 910, 356, 1053, 484, 821, 23917, 6, 51, 836, 470, 460, 470, 82, 705, 48010}},
      {"x'S"sv, {87, 6, 50}},
      {"na\xc3\xafve caf\xc3\xa9 \xc3\xbc"
       "ber stra\xc3\x9f"
       "e"sv,
       {2616, 38776, 40304, 6184, 120, 527, 3534, 39683, 68}},
      {"\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e\xe3\x81\xae\xe3\x83\x86\xe3\x82\xad\xe3\x82\xb9\xe3\x83"
       "\x88 \xe3\x81\xa7\xe3\x81\x99"sv,
       {33768, 98, 17312, 105, 45739, 252, 5641, 24336, 25084, 43302, 23294, 100, 33623}},
      {"\xc3\x9cn\xc3\xaf"
       "c\xc3\xb6"
       "d\xc3\xa9 \xe0\xa5\xa7\xe0\xa5\xa8\xe0\xa5\xa9 \xe2\x85\xb7 "
       "\xc2\xb2 \xc2\xbd"sv,
       {127,   250, 77,    26884, 66,   9101, 67,  2634, 220, 24231, 100,
        24231, 101, 24231, 102,   2343, 227,  115, 1587, 110, 25208}},
      {"emoji \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7 \xf0\x9f\x8e\x89!"sv,
       {368, 31370, 50169, 102, 447, 235, 41840, 102, 447, 235, 41840, 100, 12520, 236, 231, 0}},
      {"  leading and trailing  "sv, {220, 3756, 290, 25462, 220, 220}},
      {"tab\x09new\x0d\x0aline\xc2\xa0nbsp\xe3\x80\x80ideographic\xe2\x80\xa8sep\xc2\x85nel"sv,
       {8658, 197, 3605, 201, 198, 1370, 1849, 77,  24145, 5099,
        222,  485, 6826, 447, 101, 325,  79,   126, 227,   4954}},
      {"1234567890 3.14 -5e10"sv, {10163, 2231, 30924, 3829, 513, 13, 1415, 532, 20, 68, 940}},
      {"<|endoftext|> is text here"sv, {27, 91, 437, 1659, 5239, 91, 29, 318, 2420, 994}},
      {"for(int i=0;i<n;++i){a[i]*=2;}"sv,
       {1640, 7, 600, 1312, 28, 15, 26, 72, 27, 77, 26, 4880, 72, 19953, 64, 58, 72, 60, 9, 28, 17, 46956}},
      {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"sv,
       {24794, 24794, 24794, 24794, 24794, 24794, 24794, 24794, 24794, 24794, 24794, 24794, 24794, 24794,
        7252}},
      {"\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82, \xd0\xbc\xd0\xb8\xd1\x80!"sv,
       {140, 253, 21169, 18849, 38857, 16843, 20375, 11, 12466, 120, 18849, 21169, 0}},
      {"\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d \xd7\xa2\xd7\x95\xd7\x9c\xd7\x9d"sv,
       {50227, 40010, 27072, 147, 251, 14360, 95, 27072, 40010, 147, 251}},
      {"\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7 \xd8\xa8\xd8\xa7\xd9\x84\xd8\xb9\xd8\xa7\xd9\x84"
       "\xd9\x85"sv,
       {25405, 26897, 148, 255, 39848, 12919, 17550, 101, 23525, 44690, 23525, 25405}},
      {"a\xcc\x81 combining"sv, {64, 136, 223, 19771}},
      {"\xe2\x80\x8bzero\xef\xbb\xbfwidth"sv, {9525, 22570, 171, 119, 123, 10394}},
      {"\x00\x01"
       "ctrl\x1f\x1c"
       "fs"sv,
       {188, 189, 44755, 219, 216, 9501}},
      {"!!!???..."sv, {10185, 28358, 986}},
      {"' ' 's 's's  's"sv, {6, 705, 705, 82, 705, 82, 338, 220, 705, 82}},
      {" \x09 \x0a x"sv, {220, 197, 220, 198, 2124}},
      {"end\x0a"sv, {437, 198}},
      {"end \x0a "sv, {437, 220, 198, 220}},
      {"\xef\xb7\xba \xc7\x85 \xca\xb0 \xc2\xaa"sv, {171, 115, 118, 220, 131, 227, 220, 134, 108, 1587, 103}},
  };
  for (const auto& [text, ids] : cases) {
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->decode(ids), text);
  }
}

}  // namespace
}  // namespace dpfa::data
