// Text files as records: the unit of privacy is decided here and by the user, never guessed.
//
//   .txt    --record line (default): each line; paragraph: lines between blank ones; document: the whole file
//   .csv    each row after the header row, column --field; RFC 4180 (quotes, doubled quotes, line breaks in
//   quotes) .tsv    the same with tabs .jsonl  each line a JSON object, member --field
// Without --field: the only column, else the one called "text". A UTF-8 byte order mark at the start of a
// file and the line break that ends a record are not part of it; every other byte is kept. A record of
// nothing but ASCII white space has no text: it is dropped and counted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace dpfa::data {

enum class RecordUnit { kLine, kParagraph, kDocument };
// Throws ConfigError where `name` is none of line, paragraph, document.
RecordUnit record_unit(const std::string& name);

struct ReadOptions {
  std::string field;                    // empty: as above; without a header row the column's number, from 1
  bool header = true;                   // .csv, .tsv: the first row names the columns
  RecordUnit unit = RecordUnit::kLine;  // .txt only
};

struct ReadCounts {
  int64_t records = 0;  // given to the sink
  int64_t dropped = 0;  // without text
};

// Calls `sink` with each record of `path`, in the file's order; the text lives only during the call.
// Throws ConfigError (unknown kind of file, an option that does not fit it, no such column: the names of
// the header row are listed) and IoError (unreadable or malformed: file, line and what is wrong, never
// the text of a record).
ReadCounts read_records(const std::filesystem::path& path, const ReadOptions& options,
                        const std::function<void(std::string_view)>& sink);

}  // namespace dpfa::data
