#include "src/cli/options.h"

#include <gtest/gtest.h>

#include "src/base/error.h"

namespace dpfa::cli {
namespace {

struct Values {
  std::string run;
  double rate = 0.5, delta = 0;
  int64_t steps = 3;
  std::optional<double> epsilon;
  std::vector<std::string> many;
  std::vector<plan::Override> overrides;
  bool json = false, no_header = false;
};

bool parse(const Arguments& words, Values& values) {
  Options options("dpfa try RUN [--json]", "Tries.");
  options.positional("run", &values.run, "run directory")
      .add("sample_rate", &values.rate, "rate")
      .require("delta", &values.delta, "delta")
      .add("steps", &values.steps, "steps")
      .add("epsilon", &values.epsilon, "epsilon")
      .add("many", &values.many, "may be repeated")
      .flag("json", &values.json, "JSON")
      .flag("no-header", &values.no_header, "declared with a dash")
      .overrides(&values.overrides);
  return options.parse(words);
}

std::string error_of(const Arguments& words) {
  Values values;
  try {
    parse(words, values);
  } catch (const ConfigError& error) {
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return {};
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

TEST(Options, ValuesGoIntoTheirVariablesInEitherSpelling) {
  Values values;
  ASSERT_TRUE(parse({"--sample-rate=-1", "folder-a", "--delta", "1e-5", "--epsilon", "-3", "--json", "--many",
                     "a-b", "--many=c", "--privacy.steps", "-3", "--model.from=x=y"},
                    values));
  EXPECT_EQ(values.run, "folder-a");
  EXPECT_EQ(values.rate, -1);
  EXPECT_EQ(values.delta, 1e-5);
  EXPECT_EQ(values.steps, 3) << "the default stays";
  EXPECT_EQ(values.epsilon, -3.0);
  EXPECT_TRUE(values.json);
  EXPECT_FALSE(values.no_header);
  EXPECT_EQ(values.many, (std::vector<std::string>{"a-b", "c"}));
  ASSERT_EQ(values.overrides.size(), 2u);
  EXPECT_EQ(values.overrides[0].key, "privacy.steps");
  EXPECT_EQ(values.overrides[0].value, "-3");
  EXPECT_EQ(values.overrides[1].key, "model.from");
  EXPECT_EQ(values.overrides[1].value, "x=y");
}

TEST(Options, ANameDeclaredWithADashIsFoundInEitherSpelling) {
  for (const char* word : {"--no-header", "--no_header"}) {
    Values values;
    ASSERT_TRUE(parse({"r", "--delta", "1", word}, values));
    EXPECT_TRUE(values.no_header) << word;
  }
}

TEST(Options, HelpIsPrintedEvenWhereRequiredOptionsAreMissing) {
  Values values;
  ::testing::internal::CaptureStdout();
  EXPECT_FALSE(parse({"--help"}, values));
  const std::string text = ::testing::internal::GetCapturedStdout();
  for (const char* part :
       {"usage: dpfa try RUN", "Tries.", "--sample_rate", "(default 0.5)", "(required)", "--json"}) {
    expect_contains(text, part);
  }
}

TEST(Options, ErrorsNameTheOptionAndWhatIsExpected) {
  expect_contains(error_of({"r"}), "--delta is missing");
  expect_contains(error_of({"--delta", "1"}), "run is missing");
  expect_contains(error_of({"r", "--delta", "ten"}), "--delta = ten: expected a finite number");
  expect_contains(error_of({"r", "--delta", "1", "--steps", "1.5"}),
                  "--steps = 1.5: expected a whole number");
  expect_contains(error_of({"r", "--delta", "1", "--sampel_rate", "1"}), "did you mean --sample_rate?");
  expect_contains(error_of({"r", "--delta", "1", "--delta", "2"}), "--delta is given more than once");
  expect_contains(error_of({"r", "s", "--delta", "1"}), "more words");
  expect_contains(error_of({"r", "--delta"}), "--delta");
  expect_contains(error_of({"r", "--delta", "1", "--json=yes"}), "--json");
  expect_contains(error_of({"r", "--delta", "1", "-j"}), "more words");
  expect_contains(error_of({"r", "--delta", "1", "--del", "1"}), "--del");
  expect_contains(error_of({"r", "--delta", "1", "--privacy.steps"}), "needs a value");
  expect_contains(error_of({"r", "--delta", "1", "--privacy.steps", "--json"}), "needs a value");
}

}  // namespace
}  // namespace dpfa::cli
