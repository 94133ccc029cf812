// The options of one verb: long names only, "-" and "_" alike, `--help` everywhere.
//
//   Options options("dpfa ledger show RUN [--json]", "Prints what a run has spent.");
//   options.positional("run", &run, "run directory").flag("json", &json, "one JSON object");
//   if (!options.parse(arguments)) return 0;  // --help was printed
//
// Values go straight into the variables given; what a variable holds before parse() is its default and
// appears in the help. Errors (unknown or repeated option, missing value, wrong type, missing required
// option, surplus word) are ConfigError and name the option, what was given and what is expected.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "src/cli/cli.h"
#include "src/plan/config.h"

namespace dpfa::cli {

class Options {
 public:
  // Where a value goes; its type is the option's type. A vector collects every occurrence of its option.
  using Target = std::variant<std::string*, int64_t*, double*, std::optional<std::string>*,
                              std::optional<int64_t>*, std::optional<double>*, std::vector<std::string>*>;

  Options(std::string usage, std::string summary);

  Options& add(const std::string& name, Target target, const std::string& help);
  Options& require(const std::string& name, Target target, const std::string& help);
  Options& flag(const std::string& name, bool* target, const std::string& help);  // takes no value
  // A required word without a name; declared in the order in which they are given.
  Options& positional(const std::string& name, Target target, const std::string& help);
  // Any number of words after the other positional ones.
  Options& positional_rest(const std::string& name, std::vector<std::string>* target,
                           const std::string& help);
  // Collects every `--section.key value` (a name with a dot) for plan::load_config.
  Options& overrides(std::vector<plan::Override>* target);

  // False where --help was asked for and printed to stdout.
  bool parse(const Arguments& arguments) const;
  std::string help() const;

 private:
  enum class Kind { kOptional, kRequired, kFlag, kPositional, kRest };
  struct Option {
    std::string name;
    Kind kind;
    Target target;
    bool* flag;
    std::string help;
  };
  Options& declare(Option option);
  void store(const Option& option, const std::vector<std::string>& texts) const;
  Arguments take_overrides(const Arguments& arguments) const;
  std::vector<std::string> names() const;

  std::string usage_;
  std::string summary_;
  std::vector<Option> options_;
  std::vector<plan::Override>* overrides_ = nullptr;
};

}  // namespace dpfa::cli
