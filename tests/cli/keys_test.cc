#include <gtest/gtest.h>
#include <sys/stat.h>

#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "comm/secagg/identity.h"
#include "src/base/error.h"
#include "src/cli/cli.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::cli {
namespace {

using testing::read_text;
using testing::write_text;

class Keys : public ::testing::Test {
 protected:
  // Runs the verb and returns what it printed.
  std::string keys(const Arguments& words) {
    std::ostringstream output;
    std::streambuf* const before = std::cout.rdbuf(output.rdbuf());
    try {
      run_keys(words);
    } catch (...) {
      std::cout.rdbuf(before);
      throw;
    }
    std::cout.rdbuf(before);
    return output.str();
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }

  testing::TemporaryFolder folder_;
};

TEST_F(Keys, OfNewIdentitiesMakeAnAllowListOfTheirLines) {
  const std::string list = keys({"new", "--out", path("a"), "--rank", "0", "--owner", "north"}) +
                           keys({"new", "--out", path("b"), "--rank", "1", "--owner", "south"});
  write_text(path("list"), list);
  const auto json = nlohmann::json::parse(keys({"list", path("list"), "--identity", path("b"), "--json"}));
  ASSERT_EQ(json["ranks"].size(), 2u);
  EXPECT_EQ(json["ranks"][0]["owner"], "north");
  EXPECT_EQ(json["identity"], 1);
  EXPECT_EQ(json["ranks"][1]["public_key"],
            comm::secagg::to_hex(comm::secagg::Identity::load(path("b")).public_key()));
  EXPECT_NE(keys({"list", path("list")}).find("south"), std::string::npos);
}

TEST_F(Keys, ThatAreSecretAreInAFileOfTheirOwnerAloneAndNotInWhatIsPrinted) {
  const std::string line = keys({"new", "--out", path("a"), "--rank", "0", "--owner", "north"});
  struct stat status {};
  ASSERT_EQ(stat(path("a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const std::string text = read_text(path("a"));
  const std::string seed = text.substr(text.rfind(' ') + 1, 64);
  ASSERT_EQ(seed.find_first_not_of("0123456789abcdef"), std::string::npos);
  write_text(path("list"), line);
  for (const std::string& printed :
       {line, keys({"list", path("list")}), keys({"list", path("list"), "--json"})})
    EXPECT_EQ(printed.find(seed), std::string::npos);
}

TEST_F(Keys, ThatExistAreNotOverwritten) {
  keys({"new", "--out", path("a"), "--rank", "0", "--owner", "north"});
  const std::string before = read_text(path("a"));
  EXPECT_THROW(keys({"new", "--out", path("a"), "--rank", "0", "--owner", "north"}), IoError);
  EXPECT_EQ(read_text(path("a")), before);
}

TEST_F(Keys, OfWrongUseAreRefused) {
  EXPECT_THROW(keys({"new", "--out", path("a"), "--rank", "-1", "--owner", "north"}), ConfigError);
  EXPECT_THROW(keys({"new", "--out", path("a"), "--rank", "0", "--owner", "two words"}), ConfigError);
  EXPECT_THROW(keys({"new", "--out", path("a"), "--rank", "0"}), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(path("a")));
  EXPECT_THROW(keys({"forge"}), ConfigError);
  write_text(path("list"), keys({"new", "--out", path("a"), "--rank", "0", "--owner", "north"}));
  keys({"new", "--out", path("stranger"), "--rank", "0", "--owner", "north"});
  EXPECT_THROW(keys({"list", path("list"), "--identity", path("stranger")}), ConfigError);
  EXPECT_THROW(keys({"list", path("absent")}), IoError);
}

}  // namespace
}  // namespace dpfa::cli
