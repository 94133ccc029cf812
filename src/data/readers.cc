#include "src/data/readers.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/base/file.h"

namespace dpfa::data {

namespace {

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

// Drops records without text and counts the others.
class Output {
 public:
  explicit Output(const std::function<void(std::string_view)>& sink) : sink_(sink) {}
  void add(std::string_view text) {
    if (is_blank(text)) {
      ++counts_.dropped;
    } else {
      ++counts_.records;
      sink_(text);
    }
  }
  const ReadCounts& counts() const { return counts_; }

 private:
  const std::function<void(std::string_view)>& sink_;
  ReadCounts counts_;
};

[[noreturn]] void fail(const std::filesystem::path& path, int64_t line, const std::string& what) {
  throw IoError("'" + path.string() + "', line " + std::to_string(line) + ": " + what);
}

// Lines of a text without their line breaks (LF or CR LF); a text that ends with a line break has no empty
// last line.
class Lines {
 public:
  explicit Lines(std::string_view text) : rest_(text) {}
  bool next(std::string_view& line) {
    if (rest_.empty()) return false;
    const size_t end = std::min(rest_.find('\n'), rest_.size());
    line = rest_.substr(0, end);
    if (end < rest_.size() && line.ends_with('\r')) line.remove_suffix(1);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    ++number_;
    return true;
  }
  int64_t number() const { return number_; }

 private:
  std::string_view rest_;
  int64_t number_ = 0;
};

void read_text(std::string_view text, RecordUnit unit, Output& output) {
  if (unit == RecordUnit::kDocument) {
    output.add(text);
    return;
  }
  Lines lines(text);
  std::string_view line;
  const char* paragraph = nullptr;  // where the current paragraph begins
  const char* end = nullptr;        // where its last line ends
  while (lines.next(line)) {
    if (unit == RecordUnit::kLine) {
      output.add(line);
    } else if (!is_blank(line)) {
      if (paragraph == nullptr) paragraph = line.data();
      end = line.data() + line.size();
    } else if (paragraph != nullptr) {
      output.add({paragraph, end});
      paragraph = nullptr;
    }
  }
  if (paragraph != nullptr) output.add({paragraph, end});
}

// Rows of a table with quoted fields (RFC 4180; line breaks LF or CR LF).
class Rows {
 public:
  Rows(const std::filesystem::path& path, std::string_view text, char separator)
      : path_(path), text_(text), separator_(separator) {}

  // Line on which the row given last begins.
  int64_t line() const { return row_line_; }

  bool next(std::vector<std::string>& fields) {
    if (position_ == text_.size()) return false;
    row_line_ = line_;
    fields.clear();
    do {
      fields.emplace_back();
      if (position_ < text_.size() && text_[position_] == '"') {
        read_quoted(fields.back());
      } else {
        read_plain(fields.back());
      }
    } while (!row_ended());
    return true;
  }

 private:
  bool at_line_break() const { return text_[position_] == '\n' || text_.substr(position_, 2) == "\r\n"; }

  void read_plain(std::string& field) {
    const size_t begin = position_;
    while (position_ < text_.size() && text_[position_] != separator_ && !at_line_break()) {
      if (text_[position_] == '"') {
        fail(path_, line_,
             "a quote inside a field that does not begin with one (RFC 4180: quote the whole field "
             "and double the quotes in it)");
      }
      ++position_;
    }
    field.assign(text_.substr(begin, position_ - begin));
  }

  void read_quoted(std::string& field) {
    const int64_t begin_line = line_;
    for (++position_;; ++position_) {
      if (position_ == text_.size())
        fail(path_, begin_line, "a quoted field begins here and is never closed");
      if (text_[position_] == '"') {
        ++position_;
        if (position_ == text_.size() || text_[position_] != '"') break;
      }
      if (text_[position_] == '\n') ++line_;
      field += text_[position_];
    }
    if (position_ < text_.size() && text_[position_] != separator_ && !at_line_break()) {
      fail(path_, line_, "text follows the closing quote of a field");
    }
  }

  // Passes the separator or line break after a field.
  bool row_ended() {
    if (position_ == text_.size()) return true;
    if (text_[position_] == separator_) {
      ++position_;
      return false;
    }
    position_ += text_[position_] == '\r' ? 2 : 1;
    ++line_;
    return true;
  }

  const std::filesystem::path& path_;
  std::string_view text_;
  char separator_;
  size_t position_ = 0;
  int64_t line_ = 1;
  int64_t row_line_ = 1;
};

size_t column_by_number(const std::filesystem::path& path, const std::string& field, size_t columns) {
  size_t number = columns == 1 && field.empty() ? 1 : 0;
  std::from_chars(field.data(), field.data() + field.size(), number);
  if (number < 1 || number > columns || (!field.empty() && std::to_string(number) != field)) {
    throw ConfigError("'" + path.string() +
                      "' is read without a header row: --field must be a column number from 1 to " +
                      std::to_string(columns));
  }
  return number - 1;
}

size_t column_by_name(const std::filesystem::path& path, const std::string& field,
                      const std::vector<std::string>& header) {
  if (field.empty() && header.size() == 1) return 0;
  const std::string& wanted = field.empty() ? "text" : field;
  const auto found = std::find(header.begin(), header.end(), wanted);
  if (found == header.end()) {
    std::string known;
    for (const std::string& name : header) known += (known.empty() ? "'" : ", '") + name + "'";
    throw ConfigError("'" + path.string() + "' has no column '" + wanted + "'; give --field one of " + known +
                      ", or --no_header where the first row is a record");
  }
  if (std::find(found + 1, header.end(), wanted) != header.end()) {
    fail(path, 1, "two columns are called '" + wanted + "'");
  }
  return static_cast<size_t>(found - header.begin());
}

void read_table(const std::filesystem::path& path, std::string_view text, char separator,
                const ReadOptions& options, Output& output) {
  Rows rows(path, text, separator);
  std::vector<std::string> fields;
  if (!rows.next(fields)) return;
  const size_t columns = fields.size();
  const size_t column = options.header ? column_by_name(path, options.field, fields)
                                       : column_by_number(path, options.field, columns);
  if (!options.header) output.add(fields[column]);
  while (rows.next(fields)) {
    if (fields.size() == 1 && fields[0].empty()) {  // a blank line
      output.add("");
      continue;
    }
    if (fields.size() != columns) {
      fail(path, rows.line(),
           "this row has " + std::to_string(fields.size()) + " fields, the first one has " +
               std::to_string(columns));
    }
    output.add(fields[column]);
  }
}

void read_json_lines(const std::filesystem::path& path, std::string_view text, const std::string& field,
                     Output& output) {
  const std::string wanted = field.empty() ? "text" : field;
  Lines lines(text);
  std::string_view line;
  while (lines.next(line)) {
    if (is_blank(line)) {
      output.add("");
      continue;
    }
    // No exception text: the parser quotes what it read, and records do not belong into messages.
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object()) fail(path, lines.number(), "not a JSON object in valid UTF-8");
    const auto member = object.find(wanted);
    if (member == object.end()) {
      fail(path, lines.number(), "the object has no member '" + wanted + "' (choose another with --field)");
    }
    if (!member->is_string()) fail(path, lines.number(), "the member '" + wanted + "' is not a text");
    output.add(member->get_ref<const std::string&>());
  }
}

}  // namespace

RecordUnit record_unit(const std::string& name) {
  if (name == "line") return RecordUnit::kLine;
  if (name == "paragraph") return RecordUnit::kParagraph;
  if (name == "document") return RecordUnit::kDocument;
  throw ConfigError("--record is '" + name + "', expected line, paragraph or document");
}

ReadCounts read_records(const std::filesystem::path& path, const ReadOptions& options,
                        const std::function<void(std::string_view)>& sink) {
  const std::string kind = path.extension().string();
  const bool is_text = kind == ".txt", is_table = kind == ".csv" || kind == ".tsv",
             is_json = kind == ".jsonl";
  if (!is_text && !is_table && !is_json) {
    throw ConfigError("'" + path.string() + "': the name must end in .txt, .csv, .tsv or .jsonl");
  }
  if (is_text && !options.field.empty())
    throw ConfigError("--field does not fit a .txt file, which has no fields");
  if (!is_text && options.unit != RecordUnit::kLine) {
    throw ConfigError("--record fits only .txt files; in '" + path.string() + "' each row is a record");
  }
  if (!is_table && !options.header) throw ConfigError("--no_header fits only .csv and .tsv files");
  const MappedFile file(path);
  std::string_view text = file.text();
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  Output output(sink);
  if (is_text) read_text(text, options.unit, output);
  if (is_table) read_table(path, text, kind == ".csv" ? ',' : '\t', options, output);
  if (is_json) read_json_lines(path, text, options.field, output);
  return output.counts();
}

}  // namespace dpfa::data
