#include "src/data/staging_folder.h"

#include <system_error>

#include "src/base/error.h"
#include "src/base/file.h"

namespace dpfa::data {

namespace {

void refuse_existing(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(std::filesystem::symlink_status(path, ignored))) {
    throw IoError("'" + path.string() + "' exists already; choose another folder or remove it first");
  }
}

// "a/b/" names the same folder as "a/b", but has no file name to put a suffix on.
std::filesystem::path without_trailing_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

StagingFolder::StagingFolder(const std::filesystem::path& final_path)
    : final_path_(without_trailing_slash(final_path)),
      path_(final_path_.string() + ".partial-" + std::to_string(::getpid())) {
  refuse_existing(final_path_);
  std::error_code error;
  if (final_path_.has_parent_path()) std::filesystem::create_directories(final_path_.parent_path(), error);
  if (error || !std::filesystem::create_directory(path_, error)) {
    throw IoError("cannot create the folder '" + path_.string() +
                  "': " + (error ? error.message() : "it exists already"));
  }
}

StagingFolder::~StagingFolder() {
  std::error_code ignored;
  if (!committed_) std::filesystem::remove_all(path_, ignored);
}

void StagingFolder::commit() {
  refuse_existing(final_path_);  // a rename would replace an empty folder
  sync_to_disk(path_);
  std::error_code error;
  std::filesystem::rename(path_, final_path_, error);
  if (error) throw IoError("cannot rename '" + path_.string() + "': " + error.message());
  committed_ = true;
  sync_to_disk(final_path_.has_parent_path() ? final_path_.parent_path() : std::filesystem::path("."));
}

}  // namespace dpfa::data
