#include "comm/secagg/identity.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "src/base/error.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::comm::secagg {
namespace {

using testing::read_text;
using testing::TemporaryFolder;
using testing::write_text;

std::vector<uint8_t> message() { return {'h', 'e', 'l', 'l', 'o'}; }

TEST(Identity, IsReadBackFromItsFileWhichItsOwnerAloneMayRead) {
  const TemporaryFolder folder;
  const Identity identity = Identity::generate();
  identity.save(folder / "key");
  struct stat status {};
  ASSERT_EQ(stat((folder / "key").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const Identity again = Identity::load(folder / "key");
  EXPECT_EQ(again.public_key(), identity.public_key());
  EXPECT_EQ(again.sign(message()), identity.sign(message()));
}

TEST(Identity, OfAFileThatOthersMayReadIsRefused) {
  const TemporaryFolder folder;
  Identity::generate().save(folder / "key");
  for (const mode_t mode : {0640, 0604, 0620, 0660, 0644}) {
    ASSERT_EQ(chmod((folder / "key").c_str(), mode), 0);
    EXPECT_THROW(Identity::load(folder / "key"), ConfigError) << std::oct << mode;
  }
}

TEST(Identity, IsNeverOverwritten) {
  const TemporaryFolder folder;
  Identity::generate().save(folder / "key");
  const std::string before = read_text(folder / "key");
  EXPECT_THROW(Identity::generate().save(folder / "key"), IoError);
  EXPECT_EQ(read_text(folder / "key"), before);
}

TEST(Identity, IsNotReadFromAFileOfAnotherForm) {
  const TemporaryFolder folder;
  Identity::generate().save(folder / "key");
  const std::string good = read_text(folder / "key");
  for (const std::string& text : {std::string(), good.substr(1), good.substr(0, good.size() - 2), good + "x",
                                  good.substr(0, good.size() - 3) + "zz\n"}) {
    write_text(folder / "other", text);
    ASSERT_EQ(chmod((folder / "other").c_str(), 0600), 0);
    EXPECT_THROW(Identity::load(folder / "other"), IoError) << text.size();
  }
  EXPECT_THROW(Identity::load(folder / "absent"), IoError);
}

TEST(Identity, SignsForItsPublicKeyAlone) {
  const Identity mine = Identity::generate(), other = Identity::generate();
  Signature signature = mine.sign(message());
  EXPECT_TRUE(signature_is_valid(signature, message(), mine.public_key()));
  EXPECT_FALSE(signature_is_valid(signature, message(), other.public_key()));
  std::vector<uint8_t> altered = message();
  altered[0] ^= 1;
  EXPECT_FALSE(signature_is_valid(signature, altered, mine.public_key()));
  signature[3] ^= 1;
  EXPECT_FALSE(signature_is_valid(signature, message(), mine.public_key()));
  EXPECT_FALSE(signature_is_valid(Signature{}, message(), mine.public_key()));
}

class AllowLists : public ::testing::Test {
 protected:
  const Bytes32 a_ = Identity::generate().public_key(), b_ = Identity::generate().public_key();
  const std::string line_a_ = allow_list_line(0, a_, "north") + "\n";
  const std::string line_b_ = allow_list_line(1, b_, "south") + "\n";
};

TEST_F(AllowLists, NameKeyAndOwnerOfEachRankInAnyOrder) {
  const AllowList list = AllowList::parse("# keys\n\n" + line_b_ + line_a_, "x");
  ASSERT_EQ(list.size(), 2);
  EXPECT_EQ(list.entry(0).public_key, a_);
  EXPECT_EQ(list.entry(1).public_key, b_);
  EXPECT_EQ(list.entry(1).owner, "south");
  EXPECT_EQ(list.digest(), AllowList::parse(line_a_ + line_b_, "x").digest());
}

TEST_F(AllowLists, OfOtherKeysOwnersOrAnotherOrderHaveAnotherDigest) {
  const AllowList list = AllowList::parse(line_a_ + line_b_, "x");
  EXPECT_NE(list.digest(), AllowList::parse(line_a_, "x").digest());
  EXPECT_NE(list.digest(),
            AllowList::parse(allow_list_line(0, b_, "n") + "\n" + allow_list_line(1, a_, "s"), "x").digest());
  const AllowList renamed = AllowList::parse(line_a_ + allow_list_line(1, b_, "north"), "x");
  EXPECT_NE(list.digest(), renamed.digest());
  EXPECT_EQ(list.most_ranks_of_an_owner(), 1);
  EXPECT_EQ(renamed.most_ranks_of_an_owner(), 2);
}

TEST_F(AllowLists, ThatAreWrongAreRefusedWithTheirLine) {
  const std::string key_c = to_hex(Identity::generate().public_key());
  const std::pair<std::string, std::string> cases[] = {
      {"", "names no rank"},
      {"# nothing\n", "names no rank"},
      {line_b_, "rank 0 is missing"},
      {line_a_ + allow_list_line(2, b_, "south"), "rank 1 is missing"},
      {line_a_ + allow_list_line(1, a_, "south"), "line 2: this key is already"},
      {line_a_ + "0 " + key_c + " south", "line 2: rank 0 is named twice"},
      {"one " + key_c + " south", "'one' is no rank"},
      {"-1 " + key_c + " south", "'-1' is no rank"},
      {"0x " + key_c + " south", "'0x' is no rank"},
      {"0 " + key_c.substr(1) + " south", "64 hex digits"},
      {"0 " + key_c + "00 south", "64 hex digits"},
      {"0 g" + key_c.substr(1) + " south", "64 hex digits"},
      {"0 " + key_c, "owner is missing"},
      {"0 " + key_c + " south pole", "'pole' is one word too many"},
  };
  for (const auto& [text, problem] : cases) {
    try {
      AllowList::parse(text, "members.txt");
      ADD_FAILURE() << "accepted: " << text;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(problem), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("members.txt"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace dpfa::comm::secagg
