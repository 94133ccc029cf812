// A whole file as text.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "src/base/file.h"

namespace dpfa::accounting {

// Throws IoError where it cannot be read. Not MappedFile: a ledger grows while it is read.
inline std::string read_text_file(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) throw IoError("'" + path.string() + "' is a folder, not a file");
  std::ifstream file(path, std::ios::binary);
  if (!file) internal::throw_io_error("open", path);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (file.bad()) internal::throw_io_error("read", path);
  return text;
}

}  // namespace dpfa::accounting
