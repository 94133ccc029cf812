#include "src/cli/options.h"

#include <iostream>
#include <sstream>
#include <type_traits>

#include <boost/program_options.hpp>

#include "src/base/error.h"
#include "src/plan/value.h"

namespace dpfa::cli {
namespace {

namespace po = boost::program_options;

void assign(const std::string&, const std::string& text, std::string* target) { *target = text; }

void assign(const std::string& name, const std::string& text, int64_t* target) {
  const auto value = plan::parse_integer(text);
  if (!value) throw ConfigError(name + " = " + text + ": expected a whole number");
  *target = *value;
}

void assign(const std::string& name, const std::string& text, double* target) {
  const auto value = plan::parse_real(text);
  if (!value) throw ConfigError(name + " = " + text + ": expected a finite number");
  *target = *value;
}

template <typename T>
void assign(const std::string& name, const std::string& text, std::optional<T>* target) {
  T value{};
  assign(name, text, &value);
  *target = value;
}

void assign(const std::string&, const std::string& text, std::vector<std::string>* target) {
  target->push_back(text);
}

// What the variable holds before parsing, as the help shows it; empty where there is nothing to show.
std::string default_text(const Options::Target& target) {
  return std::visit(
      [](const auto* variable) -> std::string {
        using T = std::remove_cvref_t<decltype(*variable)>;
        if constexpr (std::is_same_v<T, std::string>) {
          return *variable;
        } else if constexpr (std::is_same_v<T, int64_t>) {
          return std::to_string(*variable);
        } else if constexpr (std::is_same_v<T, double>) {
          return plan::format_real(*variable);
        } else {
          return {};
        }
      },
      target);
}

std::string shown_name(bool positional, const std::string& name) { return positional ? name : "--" + name; }

// --dry-run=x and --dry_run=x are one option; the value keeps its dashes.
std::string canonical_word(const std::string& word) {
  if (word.rfind("--", 0) != 0) return word;
  const size_t equals = word.find('=');
  const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
  return "--" + plan::canonical_name(name) + (equals == std::string::npos ? "" : word.substr(equals));
}

}  // namespace

Options::Options(std::string usage, std::string summary)
    : usage_(std::move(usage)), summary_(std::move(summary)) {}

Options& Options::declare(Option option) {
  option.name = plan::canonical_name(option.name);
  options_.push_back(std::move(option));
  return *this;
}

Options& Options::add(const std::string& name, Target target, const std::string& help) {
  return declare({name, Kind::kOptional, target, nullptr, help});
}

Options& Options::require(const std::string& name, Target target, const std::string& help) {
  return declare({name, Kind::kRequired, target, nullptr, help});
}

Options& Options::flag(const std::string& name, bool* target, const std::string& help) {
  return declare({name, Kind::kFlag, {}, target, help});
}

Options& Options::positional(const std::string& name, Target target, const std::string& help) {
  return declare({name, Kind::kPositional, target, nullptr, help});
}

Options& Options::positional_rest(const std::string& name, std::vector<std::string>* target,
                                  const std::string& help) {
  return declare({name, Kind::kRest, target, nullptr, help});
}

Options& Options::overrides(std::vector<plan::Override>* target) {
  overrides_ = target;
  return *this;
}

std::vector<std::string> Options::names() const {
  std::vector<std::string> result = {"--help"};
  for (const Option& option : options_) {
    if (option.kind < Kind::kPositional) result.push_back("--" + option.name);
  }
  return result;
}

std::string Options::help() const {
  po::options_description named("Options", 110, 50);
  for (const Option& option : options_) {
    std::string text = option.help;
    const std::string value = option.kind == Kind::kOptional ? default_text(option.target) : std::string();
    if (option.kind == Kind::kRequired) text += " (required)";
    if (!value.empty()) text += " (default " + value + ")";
    if (option.kind == Kind::kFlag) {
      named.add_options()(option.name.c_str(), text.c_str());
    } else if (option.kind < Kind::kPositional) {
      named.add_options()(option.name.c_str(), po::value<std::string>()->value_name("VALUE"), text.c_str());
    }
  }
  named.add_options()("help", "prints this text");
  std::ostringstream out;
  out << "usage: " << usage_ << "\n" << summary_ << "\n\n";
  for (const Option& option : options_) {
    if (option.kind >= Kind::kPositional) out << "  " << option.name << ": " << option.help << "\n";
  }
  if (overrides_ != nullptr) out << "  --section.key VALUE: any key of docs/configuration.md\n";
  out << named;
  return out.str();
}

Arguments Options::take_overrides(const Arguments& arguments) const {
  if (overrides_ == nullptr) return arguments;
  Arguments rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    const size_t equals = word.find('=');
    if (word.rfind("--", 0) != 0 || word.substr(0, equals).find('.') == std::string::npos) {
      rest.push_back(word);
    } else if (equals != std::string::npos) {
      overrides_->push_back({word.substr(2, equals - 2), word.substr(equals + 1)});
    } else if (i + 1 < arguments.size() && arguments[i + 1].rfind("--", 0) != 0) {
      overrides_->push_back({word.substr(2), arguments[i + 1]});
      ++i;
    } else {
      throw ConfigError(word + " needs a value: " + word + " VALUE");
    }
  }
  return rest;
}

void Options::store(const Option& option, const std::vector<std::string>& texts) const {
  const std::string name = shown_name(option.kind >= Kind::kPositional, option.name);
  if (texts.empty()) {
    const bool needed = option.kind == Kind::kRequired || option.kind == Kind::kPositional;
    if (needed) throw ConfigError(name + " is missing: " + option.help + "; usage: " + usage_);
    return;
  }
  const bool many = std::holds_alternative<std::vector<std::string>*>(option.target);
  if (texts.size() > 1 && !many) throw ConfigError(name + " is given more than once");
  for (const std::string& text : texts) {
    std::visit([&](auto* target) { assign(name, text, target); }, option.target);
  }
}

bool Options::parse(const Arguments& arguments) const {
  po::options_description description;
  po::positional_options_description places;
  description.add_options()("help", "");
  for (const Option& option : options_) {
    if (option.kind == Kind::kFlag) {
      description.add_options()(option.name.c_str(), "");
    } else {
      description.add_options()(option.name.c_str(), po::value<std::vector<std::string>>(), "");
    }
    if (option.kind == Kind::kPositional) places.add(option.name.c_str(), 1);
    if (option.kind == Kind::kRest) places.add(option.name.c_str(), -1);
  }
  Arguments words = take_overrides(arguments);
  for (std::string& word : words) word = canonical_word(word);
  po::variables_map values;
  try {
    using namespace po::command_line_style;
    const int style = allow_long | long_allow_next | long_allow_adjacent;
    po::store(po::command_line_parser(words).options(description).positional(places).style(style).run(),
              values);
  } catch (const po::unknown_option& error) {
    const std::string name = error.get_option_name();
    throw ConfigError("unknown option " + name + plan::suggestion(name, names()) + " (--help lists them)");
  } catch (const po::too_many_positional_options_error&) {
    throw ConfigError("there are more words than this command takes; usage: " + usage_);
  } catch (const po::error& error) {
    throw ConfigError(std::string(error.what()) + " (--help lists the options)");
  }
  if (values.count("help") != 0) {
    std::cout << help();
    return false;
  }
  for (const Option& option : options_) {
    if (option.kind == Kind::kFlag) {
      *option.flag = values.count(option.name) != 0;
    } else {
      const bool given = values.count(option.name) != 0;
      store(option, given ? values[option.name].as<std::vector<std::string>>() : std::vector<std::string>());
    }
  }
  return true;
}

}  // namespace dpfa::cli
