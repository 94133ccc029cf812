#include "src/plan/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "src/base/error.h"
#include "src/plan/value.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::plan {
namespace {

class ConfigFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) const {
    dpfa::testing::write_text(folder_ / "run.ini", text);
    return folder_ / "run.ini";
  }
  Config load(const std::string& text, const std::vector<Override>& overrides = {}) const {
    return load_config(write(text), overrides);
  }
  // The message of the ConfigError that `text` must cause.
  std::string error_of(const std::string& text, const std::vector<Override>& overrides = {}) const {
    try {
      load(text, overrides);
    } catch (const ConfigError& error) {
      return error.what();
    }
    ADD_FAILURE() << "accepted: " << text;
    return {};
  }

  dpfa::testing::TemporaryFolder folder_;
};

void expect_contains(const std::string& text, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
  }
}

constexpr char kComplete[] = R"([model]
architecture = gpt2        # or: from = DIR (Hugging Face directory)
layers = 2
width = 64
heads = 2
context = 64
[data]
train = runs/data
[privacy]
target_epsilon = 3         # or noise_multiplier = 1.1
target_delta = 1e-5
max_grad_norm = 1.0
dataset_size = 2000        # declared public
expected_batch_size = 64
steps = 30
[optimizer]
name = adamw
learning_rate = 0.002
[output]
dir = runs/a
)";

TEST_F(ConfigFile, CompleteFileGivesItsValuesAndTheDefaultsOfTheRest) {
  const Config config = load(kComplete);
  EXPECT_EQ(config.model.layers, 2);
  EXPECT_EQ(config.data.train, "runs/data");
  EXPECT_EQ(config.privacy.target_epsilon, 3.0);
  EXPECT_EQ(config.privacy.noise_multiplier, std::nullopt);
  EXPECT_EQ(config.privacy.target_delta, 1e-5);
  EXPECT_EQ(config.privacy.dataset_size, 2000);
  EXPECT_EQ(config.optimizer.learning_rate, 0.002);
  EXPECT_EQ(config.output.dir, "runs/a");
  EXPECT_EQ(config.runtime.watchdog_seconds, RuntimeConfig{}.watchdog_seconds);
}

TEST_F(ConfigFile, OverridesReplaceTheFileInEitherSpelling) {
  const Config config = load(kComplete, {{"privacy.target-delta", "1e-6"}, {"privacy.enabled", "false"}});
  EXPECT_EQ(config.privacy.target_delta, 1e-6);
  EXPECT_FALSE(config.privacy.enabled);
  EXPECT_EQ(load("[privacy]\nmax-grad-norm = 2\n").privacy.max_grad_norm, 2);
}

TEST_F(ConfigFile, EmptyValueUnsetsAnOptionalKey) {
  const Config config =
      load(kComplete, {{"privacy.target_epsilon", ""}, {"privacy.noise_multiplier", "1.1"}});
  EXPECT_EQ(config.privacy.target_epsilon, std::nullopt);
  EXPECT_EQ(config.privacy.noise_multiplier, 1.1);
}

TEST_F(ConfigFile, UnknownNamesAreRefusedWithTheNearestOne) {
  expect_contains(error_of("[privacy]\nnoise_multiplyer = 1\n"),
                  {"privacy.noise_multiplyer", "did you mean privacy.noise_multiplier?"});
  expect_contains(error_of("[train]\nsteps = 1\n"), {"train.steps", "did you mean privacy.steps?"});
  expect_contains(error_of("steps = 1\n"), {"steps", "did you mean privacy.steps?"});
  expect_contains(error_of("[privcy]\n"), {"[privcy]", "did you mean privacy?"});
  expect_contains(error_of("", {{"privacy.sample_rat", "0.1"}}), {"did you mean privacy.sample_rate?"});
  expect_contains(error_of("", {{"zzzzzzzzzz.q", "0.1"}}), {"unknown configuration key zzzzzzzzzz.q"});
}

TEST_F(ConfigFile, ARepeatedKeyIsRefused) {
  expect_contains(error_of("[privacy]\nsteps = 1\nsteps = 2\n"), {"privacy.steps", "more than once"});
  expect_contains(error_of("[privacy]\nmax_grad_norm = 1\n[model]\n[privacy]\nmax-grad-norm = 1\n"),
                  {"privacy.max_grad_norm", "more than once"});
  expect_contains(error_of("", {{"privacy.steps", "1"}, {"privacy.steps", "2"}}), {"more than once"});
}

struct Rejected {
  std::string key, value, expected;
};

TEST_F(ConfigFile, ValuesOfTheWrongTypeOrOutOfRangeAreRefusedWithKeyValueAndExpectation) {
  const std::vector<Rejected> cases = {
      {"privacy.steps", "ten", "a whole number >= 0"},
      {"privacy.steps", "-1", "a whole number >= 0"},
      {"privacy.steps", "1.5", "a whole number >= 0"},
      {"privacy.steps", "10 20", "a whole number >= 0"},
      {"privacy.steps", "99999999999999999999", "a whole number >= 0"},
      {"privacy.steps", "", "a whole number >= 0"},
      {"privacy.sample_rate", "1.1", "in (0, 1]"},
      {"privacy.sample_rate", "0", "in (0, 1]"},
      {"privacy.sample_rate", "-0.1", "in (0, 1]"},
      {"privacy.sample_rate", "nan", "in (0, 1]"},
      {"privacy.sample_rate", "0.1x", "in (0, 1]"},
      {"privacy.noise_multiplier", "0", "in (0, "},
      {"privacy.noise_multiplier", "inf", "in (0, "},
      {"privacy.target_epsilon", "0", "> 0"},
      {"privacy.target_epsilon", "1e999", "> 0"},
      {"privacy.target_delta", "1", "in [0, 1)"},
      {"privacy.target_delta", "-1e-5", "in [0, 1)"},
      {"privacy.max_grad_norm", "0", "in [1e-12"},
      {"privacy.max_grad_norm", "-1", "in [1e-12"},
      {"privacy.expected_batch_size", "0", "> 0"},
      {"privacy.dataset_size", "0", "a whole number >= 1"},
      {"privacy.enabled", "maybe", "true or false"},
      {"privacy.clipping", "flatt", "flat"},
      {"privacy.generator", "mt19937", "chacha20 or philox"},
      {"model.layers", "0", "a whole number >= 1"},
      {"model.dropout", "1", "in [0, 1)"},
      {"optimizer.learning_rate", "0", "> 0"},
      {"optimizer.beta1", "1", "in [0, 1)"},
      {"runtime.threads", "-2", "a whole number >= 0"},
      {"runtime.expected_world_size", "0", "a whole number >= 1"},
      {"train.keep_checkpoints", "0", "a whole number >= 1"},
  };
  for (const Rejected& c : cases) {
    const size_t dot = c.key.find('.');
    const std::string file =
        "[" + c.key.substr(0, dot) + "]\n" + c.key.substr(dot + 1) + " = " + c.value + "\n";
    const std::string shown = c.key + " = " + (c.value.empty() ? "(empty)" : c.value);
    expect_contains(error_of(file), {shown, c.expected});
    expect_contains(error_of("", {{c.key, c.value}}), {shown, c.expected});
  }
}

TEST_F(ConfigFile, KnownValuesWithoutAnImplementationAreUnsupportedAndSaySo) {
  const std::vector<Override> cases = {
      {"privacy.clipping", "per_layer"},
      {"privacy.privacy_unit", "user"},
      {"privacy.neighboring_relation", "replace_one"},
      {"runtime.device", "cuda"},
  };
  for (const Override& given : cases) {
    try {
      load("", {given});
      ADD_FAILURE() << "accepted: " << given.key;
    } catch (const Unsupported& error) {
      expect_contains(error.what(), {given.key, "not in this build"});
    }
  }
}

TEST_F(ConfigFile, TextsThatAFileCannotHoldAreRefused) {
  for (const std::string value : {"a#b", " a", "a ", "a\nb", "a\tb"}) {
    expect_contains(error_of("", {{"output.dir", value}}), {"output.dir"});
  }
  EXPECT_EQ(load("", {{"output.dir", "a = b [c] ; d"}}).output.dir, "a = b [c] ; d");
}

TEST_F(ConfigFile, MalformedFilesAreRefused) {
  expect_contains(error_of("[privacy]\nsteps\n"), {"run.ini"});
  expect_contains(error_of("\xEF\xBB\xBF[privacy]\nsteps = 1\n"), {"run.ini"});
  EXPECT_EQ(load("").privacy.steps, 0);
  EXPECT_EQ(load("[privacy]\r\nsteps = 7\r\n").privacy.steps, 7);
  EXPECT_THROW(load_config(folder_ / "absent.ini", {}), IoError);
  EXPECT_THROW(load_config(folder_.path(), {}), IoError);
}

// Every field of `a` and `b` as text: to_ini writes doubles with the shortest text that names them exactly.
TEST_F(ConfigFile, IniTextReadsBackToTheSameConfiguration) {
  Config config;
  EXPECT_EQ(to_ini(load(to_ini(config))), to_ini(config));
  config.model.from = "models/gpt2 small";
  config.privacy.enabled = false;
  config.privacy.noise_multiplier = std::nextafter(1.1, 2.0);
  config.privacy.target_delta = 1.0 / 3.0;
  config.privacy.sample_rate = 5e-324;
  config.privacy.expected_batch_size = 1e22 / 3;
  config.privacy.dataset_size = int64_t{1} << 53;
  config.privacy.steps = 1000000007;
  config.optimizer.learning_rate = 0.1 + 0.2;
  config.runtime.expected_world_size = 4;
  const Config again = load(to_ini(config));
  EXPECT_EQ(to_ini(again), to_ini(config));
  EXPECT_EQ(again.model.from, config.model.from);
  EXPECT_EQ(again.privacy.enabled, config.privacy.enabled);
  EXPECT_EQ(again.privacy.noise_multiplier, config.privacy.noise_multiplier);
  EXPECT_EQ(again.privacy.target_epsilon, std::nullopt);
  EXPECT_EQ(again.privacy.target_delta, config.privacy.target_delta);
  EXPECT_EQ(again.privacy.sample_rate, config.privacy.sample_rate);
  EXPECT_EQ(again.privacy.expected_batch_size, config.privacy.expected_batch_size);
  EXPECT_EQ(again.privacy.dataset_size, config.privacy.dataset_size);
  EXPECT_EQ(again.privacy.steps, config.privacy.steps);
  EXPECT_EQ(again.optimizer.learning_rate, config.optimizer.learning_rate);
  EXPECT_EQ(again.runtime.expected_world_size, config.runtime.expected_world_size);
}

TEST(Configuration, ReferencePageIsWhatTheOptionTableSays) {
  const char* source = std::getenv("DPFA_SOURCE_DIR");
  ASSERT_NE(source, nullptr) << "DPFA_SOURCE_DIR names the checkout; ctest sets it";
  const std::filesystem::path page = std::filesystem::path(source) / "docs/configuration.md";
  EXPECT_EQ(dpfa::testing::read_text(page), configuration_reference())
      << "write it anew: dpfa doctor --configuration_reference > docs/configuration.md";
}

TEST(Value, NumbersAreReadWholeOrNotAtAll) {
  EXPECT_EQ(parse_integer("1e6"), 1000000);
  EXPECT_EQ(parse_integer("+5"), 5);
  EXPECT_EQ(parse_integer("-9223372036854775808"), INT64_MIN);
  for (const char* text : {"", "1 ", "0x10", "1.0", "1e-1", "1e30", "+-1", "ten"}) {
    EXPECT_EQ(parse_integer(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_real("1.1"), 1.1);
  EXPECT_EQ(parse_real(format_real(0.1 + 0.2)), 0.1 + 0.2);
  for (const char* text : {"", "1e", "nan", "inf", "1,5", "1e999"}) {
    EXPECT_EQ(parse_real(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace dpfa::plan
