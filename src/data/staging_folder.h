// A folder that appears complete or not at all: filled under a temporary name beside its place, then renamed.
#pragma once

#include <filesystem>

namespace dpfa::data {

class StagingFolder {
 public:
  // Throws IoError where `final_path` exists or the temporary folder cannot be made; creates the folders
  // above it.
  explicit StagingFolder(const std::filesystem::path& final_path);
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;
  // Removes the temporary folder with all that is in it, unless commit() succeeded.
  ~StagingFolder();

  const std::filesystem::path& path() const { return path_; }  // where to write
  void commit();                                               // throws IoError

 private:
  std::filesystem::path final_path_;
  std::filesystem::path path_;
  bool committed_ = false;
};

}  // namespace dpfa::data
