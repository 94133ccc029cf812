#include "src/model/safetensors.h"

#include <sys/resource.h>

#include <array>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "src/base/error.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::model {
namespace {

using dpfa::testing::read_text;
using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;

template <typename Value>
std::span<const std::byte> bytes(const std::vector<Value>& values) {
  return std::as_bytes(std::span(values));
}

std::string file_of(uint64_t header_size, const std::string& header, const std::string& data) {
  std::string text(sizeof(header_size), '\0');
  std::memcpy(text.data(), &header_size, sizeof(header_size));
  return text + header + data;
}

std::string file_of(const std::string& header, const std::string& data) {
  return file_of(header.size(), header, data);
}

// The message of the IoError with which opening `text` as a file is refused; fails the test where it is not.
std::string refusal(const std::string& text) {
  TemporaryFolder folder;
  const auto path = folder / "case.safetensors";
  write_text(path, text);
  try {
    SafetensorsFile::open(path);
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << text.substr(0, 200);
  return "";
}

::testing::AssertionResult refused_for(const std::string& text, const std::string& reason) {
  const std::string message = refusal(text);
  if (message.find(reason) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "expected '" << reason << "' in: " << message;
}

std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(Safetensors, WhatIsWrittenIsReadBackToTheLastBit) {
  TemporaryFolder folder;
  const std::vector<float> weights{1.5f,     -0.0f, std::numeric_limits<float>::denorm_min(),
                                   INFINITY, 3e38f, -7};
  const std::vector<double> wide{1.0 / 3, -1e300};
  const std::vector<int64_t> ids{-5, int64_t{1} << 60};
  const std::vector<uint8_t> flags{1, 0, 1};
  const std::vector<int8_t> small{-128, 127};
  const std::vector<float> none;
  const auto path = folder / "weights.safetensors";
  write_safetensors(path,
                    {{"flags", DType::kBool, {3}, bytes(flags)},
                     {"weights", DType::kF32, {2, 3}, bytes(weights)},
                     {"none", DType::kF32, {0, 4}, bytes(none)},
                     {"wide", DType::kF64, {2}, bytes(wide)},
                     {"ids", DType::kI64, {1, 2}, bytes(ids)},
                     {"small", DType::kI8, {2}, bytes(small)}},
                    {{"format", "pt"}, {"note", "\"quoted\" \xc3\xa9"}});
  const SafetensorsFile file = SafetensorsFile::open(path);
  ASSERT_EQ(file.tensors().size(), 6u);
  EXPECT_EQ(file.metadata().at("note"), "\"quoted\" \xc3\xa9");
  EXPECT_EQ(file.at("weights").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.at("none").elements(), 0);
  EXPECT_EQ(std::memcmp(file.at("weights").data.data(), weights.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.at("wide").data.data(), wide.data(), 16), 0);
  EXPECT_EQ(file.read_integers("ids"), ids);
  EXPECT_EQ(file.read_integers("flags"), (std::vector<int64_t>{1, 0, 1}));
  EXPECT_EQ(file.read_integers("small"), (std::vector<int64_t>{-128, 127}));
  std::vector<float> read(6);
  file.read_floats("weights", read);
  EXPECT_EQ(std::memcmp(read.data(), weights.data(), 24), 0);
  for (const auto& [name, view] : file.tensors()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data.data()) % static_cast<size_t>(size_of(view.dtype)), 0u)
        << name;
  }
}

TEST(Safetensors, EqualContentGivesEqualFilesWhateverTheOrderOfTheTensors) {
  TemporaryFolder folder;
  const std::vector<float> a{1, 2}, b{3};
  const TensorToWrite first{"a", DType::kF32, {2}, bytes(a)}, second{"b", DType::kF32, {1}, bytes(b)};
  write_safetensors(folder / "one", {first, second});
  write_safetensors(folder / "two", {second, first});
  EXPECT_EQ(read_text(folder / "one"), read_text(folder / "two"));
}

TEST(Safetensors, HalfPrecisionFormatsConvertExactly) {
  TemporaryFolder folder;
  // 1, -2, largest half, smallest subnormal, smallest normal, -infinity, NaN, -0.
  const std::vector<uint16_t> half{0x3c00, 0xc000, 0x7bff, 0x0001, 0x0400, 0xfc00, 0x7e00, 0x8000};
  const std::vector<float> expected{1, -2, 65504, 0x1p-24f, 0x1p-14f, -INFINITY, NAN, -0.0f};
  const std::vector<uint16_t> brain{0x3f80, 0xc000, 0x7f7f, 0xff80};
  const std::vector<float> brain_expected{1, -2, 0x1.fep127f, -INFINITY};
  write_safetensors(folder / "f",
                    {{"half", DType::kF16, {8}, bytes(half)}, {"brain", DType::kBF16, {4}, bytes(brain)}});
  const SafetensorsFile file = SafetensorsFile::open(folder / "f");
  std::vector<float> read(8), brain_read(4);
  file.read_floats("half", read);
  file.read_floats("brain", brain_read);
  EXPECT_EQ(brain_read, brain_expected);
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(std::isnan(read[i]), std::isnan(expected[i])) << i;
    EXPECT_EQ(std::signbit(read[i]), std::signbit(expected[i])) << i;
    if (!std::isnan(expected[i])) {
      EXPECT_EQ(read[i], expected[i]) << i;
    }
  }
}

TEST(Safetensors, AskingForTheWrongTensorTypeOrSizeIsAnError) {
  TemporaryFolder folder;
  const std::vector<float> a{1, 2};
  const std::vector<int32_t> b{3};
  write_safetensors(folder / "f", {{"a", DType::kF32, {2}, bytes(a)}, {"b", DType::kI32, {1}, bytes(b)}});
  const SafetensorsFile file = SafetensorsFile::open(folder / "f");
  std::vector<float> one(1);
  EXPECT_THROW(file.at("c"), IoError);
  EXPECT_THROW(file.read_floats("a", one), IoError);
  EXPECT_THROW(file.read_floats("b", one), IoError);
  EXPECT_THROW(file.read_integers("a"), IoError);
  EXPECT_THROW(SafetensorsFile::open(folder / "absent"), IoError);
  EXPECT_THROW(SafetensorsFile::open(folder.path()), IoError);
}

TEST(Safetensors, HeadersThatLieAboutTheirSizeAreRefused) {
  EXPECT_TRUE(refused_for("", "shorter than the 8 bytes"));
  EXPECT_TRUE(refused_for("1234567", "shorter than the 8 bytes"));
  EXPECT_TRUE(refused_for(file_of(UINT64_MAX, "{}", ""), "at most 100000000"));
  EXPECT_TRUE(refused_for(file_of(100'000'001, "{}", ""), "at most 100000000"));
  EXPECT_TRUE(refused_for(file_of(100'000'000, "{}", ""), "only 2 follow"));
  EXPECT_TRUE(refused_for(file_of(0, "", ""), "does not start with '{'"));
}

TEST(Safetensors, HeadersThatAreNotTheExpectedJsonAreRefused) {
  EXPECT_TRUE(refused_for(file_of("[]", ""), "does not start with '{'"));
  EXPECT_TRUE(refused_for(file_of(" {}", ""), "does not start with '{'"));
  EXPECT_TRUE(refused_for(file_of("{", ""), "not JSON"));
  EXPECT_TRUE(refused_for(file_of("{}{}", ""), "not JSON"));
  EXPECT_TRUE(refused_for(file_of("{\"\xff\":1}", ""), "not JSON"));
  EXPECT_TRUE(refused_for(file_of("{\"a\":" + std::string(100'000, '['), ""), "nested too deeply"));
  EXPECT_TRUE(refused_for(file_of(R"({"a":3})", ""), "tensor 'a'"));
  EXPECT_TRUE(refused_for(file_of(R"({"a":{"dtype":"F32","shape":[]}})", ""), "exactly the entries"));
  EXPECT_TRUE(refused_for(file_of(R"({"__metadata__":{"a":1}})", ""), "must be a text"));
  EXPECT_TRUE(refused_for(file_of(R"({"__metadata__":[]})", ""), "texts to texts"));
}

TEST(Safetensors, DuplicateNamesAreRefused) {
  const std::string a = tensor("U8", "[1]", "[0,1]");
  EXPECT_TRUE(refused_for(file_of("{\"a\":" + a + ",\"a\":" + a + "}", "x"), "twice"));
  EXPECT_TRUE(refused_for(file_of("{\"a\":" + a + ",\"\\u0061\":" + a + "}", "x"), "twice"));
  EXPECT_TRUE(refused_for(
      file_of(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", "x"), "twice"));
}

TEST(Safetensors, ShapesAndDtypesThatDoNotFitTheBytesAreRefused) {
  const auto file = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return file_of("{\"a\":" + tensor(dtype, shape, offsets) + "}", "12345678");
  };
  EXPECT_NO_THROW({
    TemporaryFolder folder;
    write_text(folder / "f", file("F32", "[2,1]", "[0,8]"));
    SafetensorsFile::open(folder / "f");
  });
  EXPECT_TRUE(refused_for(file("F32", "[3]", "[0,8]"), "need 12 bytes"));
  EXPECT_TRUE(refused_for(file("F64", "[2]", "[0,8]"), "need 16 bytes"));
  EXPECT_TRUE(refused_for(file("F99", "[2]", "[0,8]"), "dtype is none of"));
  EXPECT_TRUE(refused_for(file("F32", "[-2]", "[0,8]"), "non-negative integers"));
  EXPECT_TRUE(refused_for(file("F32", "[2.0]", "[0,8]"), "non-negative integers"));
  EXPECT_TRUE(refused_for(file("F32", "2", "[0,8]"), "shape must be a list"));
  EXPECT_TRUE(refused_for(file("F32", "[18446744073709551615]", "[0,8]"), "beyond 2^63"));
  // 2^32 x 2^32 elements wrap to a size of 0 in 64 bits.
  EXPECT_TRUE(refused_for(file("U8", "[4294967296,4294967296]", "[0,0]"), "more than 2^63"));
  EXPECT_TRUE(refused_for(file("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]", "[0,8]"), "at most 16"));
}

TEST(Safetensors, OffsetsThatDoNotTileTheDataAreRefused) {
  const auto file = [](const std::string& first, const std::string& second) {
    return file_of("{\"a\":" + tensor("U8", "[4]", first) + ",\"b\":" + tensor("U8", "[4]", second) + "}",
                   "12345678");
  };
  EXPECT_TRUE(refused_for(file("[0,4]", "[2,6]"), "(overlap)"));
  EXPECT_TRUE(refused_for(file("[0,4]", "[0,4]"), "(overlap)"));
  EXPECT_TRUE(refused_for(file("[1,5]", "[4,8]"), "(hole)"));
  EXPECT_TRUE(refused_for(file("[0,4]", "[5,9]"), "do not lie within"));
  EXPECT_TRUE(refused_for(file("[4,0]", "[4,8]"), "do not lie within"));
  EXPECT_TRUE(refused_for(file("[0,4,4]", "[4,8]"), "[begin, end]"));
  EXPECT_TRUE(refused_for(file("[0,\"4\"]", "[4,8]"), "non-negative integers"));
  EXPECT_TRUE(
      refused_for(file_of("{\"a\":" + tensor("U8", "[4]", "[0,4]") + "}", "12345"), "tensors end at 4"));
}

std::string valid_file(const TemporaryFolder& folder) {
  const std::vector<float> a{1, 2, 3};
  const std::vector<int32_t> b{4, 5};
  write_safetensors(folder / "valid", {{"a", DType::kF32, {3}, bytes(a)}, {"b", DType::kI32, {2}, bytes(b)}},
                    {{"k", "v"}});
  return read_text(folder / "valid");
}

TEST(Safetensors, EveryTruncationOfAValidFileIsRefused) {
  TemporaryFolder folder;
  const std::string valid = valid_file(folder);
  for (size_t length = 0; length < valid.size(); ++length) {
    EXPECT_FALSE(refusal(valid.substr(0, length)).empty()) << length;
  }
}

TEST(Safetensors, MutatedFilesAreEitherRefusedOrStayWithinTheirBytes) {
  TemporaryFolder folder;
  const std::string valid = valid_file(folder);
  std::mt19937_64 random(20260101);
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string text = valid;
    for (uint64_t change = random() % 4 + 1; change > 0; --change) {
      text[random() % text.size()] = static_cast<char>(random());
    }
    write_text(folder / "f", text);
    try {
      const SafetensorsFile file = SafetensorsFile::open(folder / "f");
      size_t total = 0;
      for (const auto& [name, view] : file.tensors()) total += view.data.size();
      EXPECT_LE(total, text.size());
    } catch (const IoError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, AFailedWriteLeavesTheOldFileAndNoOther) {
  TemporaryFolder folder;
  const auto path = folder / "weights";
  write_text(path, "old content");
  const std::vector<float> large(1 << 16, 1.0f);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(write_safetensors(path, {{"a", DType::kF32, {1 << 16}, bytes(large)}}), IoError);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text(path), "old content");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  EXPECT_THROW(write_safetensors(folder / "no/such/folder", {{"a", DType::kF32, {1 << 16}, bytes(large)}}),
               IoError);
}

TEST(Safetensors, AWriterThatIsGivenNonsenseThrowsInsteadOfWriting) {
  TemporaryFolder folder;
  const std::vector<float> a{1, 2};
  EXPECT_THROW(write_safetensors(folder / "f", {{"a", DType::kF32, {3}, bytes(a)}}), InternalError);
  EXPECT_THROW(
      write_safetensors(folder / "f", {{"a", DType::kF32, {2}, bytes(a)}, {"a", DType::kF32, {2}, bytes(a)}}),
      InternalError);
  EXPECT_FALSE(std::filesystem::exists(folder / "f"));
}

TEST(Safetensors, ReadsFilesWrittenByTheReferenceLibrary) {
  const char* shared = std::getenv("DPFA_SHARED");
  const auto path =
      std::filesystem::path(shared == nullptr ? "" : shared) / "golden/gradients/gpt2-tied/batch.safetensors";
  if (shared == nullptr || !std::filesystem::exists(path)) {
    GTEST_SKIP() << "not run: no file of the reference library at " << path;
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.contains("input_ids"));
  const TensorView& ids = file.at("input_ids");
  ASSERT_EQ(ids.shape.size(), 2u);
  EXPECT_EQ(file.read_integers("input_ids").size(), static_cast<size_t>(ids.shape[0] * ids.shape[1]));
}

}  // namespace
}  // namespace dpfa::model
