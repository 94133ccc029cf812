#include "src/plan/config.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <type_traits>

#include <boost/program_options/parsers.hpp>

#include "src/base/error.h"
#include "src/plan/option_table.h"
#include "src/plan/value.h"

namespace dpfa::plan {
namespace {

namespace po = boost::program_options;

std::string full_name(const ConfigOption& option) { return option.section + "." + option.key; }

std::vector<std::string> full_names() {
  std::vector<std::string> names;
  for (const ConfigOption& option : option_table()) names.push_back(full_name(option));
  return names;
}

// A key may be given without its section or with the wrong one: name the key that was meant.
std::string key_suggestion(const std::string& name) {
  const std::string key = name.substr(name.rfind('.') + 1);
  for (const ConfigOption& option : option_table()) {
    if (option.key == key) return "; did you mean " + full_name(option) + "?";
  }
  return suggestion(name, full_names());
}

const ConfigOption& find_option(const std::string& name) {
  for (const ConfigOption& option : option_table()) {
    if (full_name(option) == name) return option;
  }
  throw ConfigError("unknown configuration key " + name + key_suggestion(name) +
                    " (docs/configuration.md lists all keys)");
}

[[noreturn]] void reject(const ConfigOption& option, const std::string& text) {
  throw ConfigError(full_name(option) + " = " + (text.empty() ? "(empty)" : text) + ": expected " +
                    option.rule.expected);
}

// The file format knows no quoting: a text that would not survive to_ini() and load_config() is refused here,
// because the resolved configuration is what a restart reads.
bool survives_ini(const std::string& text) {
  const bool printable = std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20; });
  const bool trimmed = text.empty() || (text.front() != ' ' && text.back() != ' ');
  return printable && trimmed && text.find('#') == std::string::npos;
}

void assign(const ConfigOption& option, const std::string& text, std::string* field) {
  const std::vector<std::string>& choices = option.rule.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end())
    reject(option, text);
  if (!survives_ini(text)) {
    throw ConfigError(
        full_name(option) + " = " + text +
        ": a value holds no '#', control character, leading or trailing space; rename the path");
  }
  *field = text;
}

void assign(const ConfigOption& option, const std::string& text, bool* field) {
  const auto value = parse_boolean(text);
  if (!value) reject(option, text);
  *field = *value;
}

template <typename T>
void assign(const ConfigOption& option, const std::string& text, T* field) {
  std::optional<T> value;
  if constexpr (std::is_same_v<T, int64_t>) {
    value = parse_integer(text);
  } else {
    value = parse_real(text);
  }
  if (!value || !option.rule.accepts(static_cast<double>(*value))) reject(option, text);
  *field = *value;
}

template <typename T>
void assign(const ConfigOption& option, const std::string& text, std::optional<T>* field) {
  if (text.empty()) {
    field->reset();
    return;
  }
  T value{};
  assign(option, text, &value);
  *field = value;
}

std::string text_of(const std::string& value) { return value; }
std::string text_of(bool value) { return value ? "true" : "false"; }
std::string text_of(int64_t value) { return std::to_string(value); }
std::string text_of(double value) { return format_real(value); }
template <typename T>
std::string text_of(const std::optional<T>& value) {
  return value ? text_of(*value) : std::string();
}

std::string value_text(const ConfigOption& option, const Config& config) {
  // The table's accessors hand out mutable fields because parsing needs them.
  Config copy = config;
  return std::visit([](const auto* field) { return text_of(*field); }, option.field(copy));
}

void apply(const ConfigOption& option, const std::string& text, Config& config) {
  std::visit([&](auto* field) { assign(option, text, field); }, option.field(config));
  const auto& absent = option.rule.not_in_this_build;
  const std::string value = value_text(option, config);
  if (std::find(absent.begin(), absent.end(), value) != absent.end()) {
    throw Unsupported(full_name(option) + " = " + value + " is not in this build; use " +
                      value_text(option, Config{}));
  }
}

// The parser of Boost says nothing about a section that holds no key.
void check_sections(std::istream& file, const std::string& path) {
  std::set<std::string> known;
  for (const ConfigOption& option : option_table()) known.insert(option.section);
  std::string line;
  while (std::getline(file, line)) {
    const size_t open = line.find_first_not_of(" \t");
    if (open == std::string::npos || line[open] != '[') continue;
    const std::string name = line.substr(open + 1, line.find(']') - open - 1);
    if (known.count(name) == 0) {
      throw ConfigError(path + ": unknown section [" + name + "]" +
                        suggestion(name, {known.begin(), known.end()}));
    }
  }
}

std::map<std::string, std::string> read_file(const std::filesystem::path& path) {
  std::map<std::string, std::string> values;
  if (path.empty()) return values;
  std::ifstream file(path);
  std::stringstream text;
  if (std::filesystem::is_directory(path) || !file || (file.peek() != EOF && !(text << file.rdbuf()))) {
    throw IoError("cannot read the configuration file " + path.string());
  }
  check_sections(text, path.string());
  text.clear();
  text.seekg(0);
  try {
    const po::options_description none;
    for (const auto& option : po::parse_config_file(text, none, /*allow_unregistered=*/true).options) {
      const std::string name = canonical_name(option.string_key);
      const std::string value = option.value.empty() ? std::string() : option.value.front();
      if (!values.emplace(name, value).second) {
        throw ConfigError(path.string() + ": " + name + " is given more than once (now " + value +
                          ", before " + values[name] + ")");
      }
    }
  } catch (const po::error& error) {
    throw ConfigError(path.string() + ": " + error.what() +
                      "; expected [section] lines and key = value lines");
  }
  return values;
}

std::string type_name(const ConfigOption& option) {
  Config config;
  return std::visit(
      [](const auto* field) -> std::string {
        using T = std::remove_cvref_t<decltype(*field)>;
        if constexpr (std::is_same_v<T, std::string>) return "text";
        if constexpr (std::is_same_v<T, bool>) return "boolean";
        if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, std::optional<int64_t>>)
          return "integer";
        return "number";
      },
      option.field(config));
}

}  // namespace

Config load_config(const std::filesystem::path& file, const std::vector<Override>& overrides) {
  std::map<std::string, std::string> values = read_file(file);
  std::set<std::string> overridden;
  for (const Override& given : overrides) {
    const std::string name = canonical_name(given.key);
    if (!overridden.insert(name).second) throw ConfigError("--" + name + " is given more than once");
    values[name] = given.value;
  }
  Config config;
  for (const auto& [name, text] : values) apply(find_option(name), text, config);
  return config;
}

std::string to_ini(const Config& config) {
  std::ostringstream out;
  std::string section;
  for (const ConfigOption& option : option_table()) {
    if (option.section != section) {
      out << (section.empty() ? "" : "\n") << "[" << option.section << "]\n";
      section = option.section;
    }
    const std::string value = value_text(option, config);
    out << option.key << " =" << (value.empty() ? "" : " ") << value << "\n";
  }
  return out.str();
}

std::string configuration_reference() {
  std::ostringstream out;
  out << "# Configuration\n\n"
         "`dpfa train --config FILE` reads an INI file; `--section.key VALUE` on the command line replaces a "
         "value\n"
         "of the file, and `-` and `_` are alike in names. An unknown key, a repeated key or a value out of "
         "range\n"
         "stops the program (exit code 2). An empty value leaves an optional key unset. `#` starts a "
         "comment.\n\n"
         "This page is printed by `dpfa doctor --configuration_reference`; a test compares the two.\n";
  std::string section;
  for (const ConfigOption& option : option_table()) {
    if (option.section != section) {
      out << "\n## [" << option.section
          << "]\n\n| key | type | expected | default | meaning |\n|---|---|---|---|---|\n";
      section = option.section;
    }
    const std::string value = value_text(option, Config{});
    out << "| `" << option.key << "` | " << type_name(option) << " | " << option.rule.expected;
    for (const std::string& absent : option.rule.not_in_this_build)
      out << "; `" << absent << "` is not in this build";
    out << " | " << (value.empty() ? "-" : "`" + value + "`") << " | " << option.help << " |\n";
  }
  return out.str();
}

std::string DataConfig::train_of(int rank) const {
  std::string path = train;
  for (size_t at = path.find(kOwnRank); at != std::string::npos; at = path.find(kOwnRank))
    path.replace(at, kOwnRank.size(), std::to_string(rank));
  return path;
}

}  // namespace dpfa::plan
