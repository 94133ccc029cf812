// Files as bytes: a read-only mapping of a whole file, and a file that appears complete or not at all.
//
// Every failure is IoError and names the file and the system's reason.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/error.h"

namespace dpfa {

namespace internal {
[[noreturn]] inline void throw_io_error(const std::string& action, const std::filesystem::path& path) {
  const int error = errno;
  throw IoError("cannot " + action + " '" + path.string() + "': " + std::strerror(error));
}
}  // namespace internal

// The bytes of a regular file for as long as the object lives. The file must not shrink meanwhile.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) internal::throw_io_error("open", path);
    struct stat status {};
    const bool known = ::fstat(descriptor, &status) == 0;
    if (known && S_ISREG(status.st_mode) && status.st_size > 0) {
      size_ = static_cast<size_t>(status.st_size);
      data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    const int error = errno;
    ::close(descriptor);
    errno = error;
    if (!known || data_ == MAP_FAILED) internal::throw_io_error("read", path);
    if (!S_ISREG(status.st_mode)) throw IoError("'" + path.string() + "' is not a regular file");
  }
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (size_ > 0) ::munmap(data_, size_);
  }

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Makes what was written to a file, or the entries of a folder, survive a power failure.
inline void sync_to_disk(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) internal::throw_io_error("open", path);
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  errno = error;
  if (result != 0) internal::throw_io_error("sync", path);
}

// Replaces `path` by the concatenated `parts`: temporary name, fsync, rename, fsync of the folder. Where it
// throws, what stood under `path` before still stands there and no temporary file is left.
inline void write_file_atomically(const std::filesystem::path& path,
                                  std::span<const std::span<const std::byte>> parts) {
  const std::filesystem::path temporary = path.string() + ".partial-" + std::to_string(::getpid());
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) internal::throw_io_error("create", temporary);
  bool good = true;
  for (std::span<const std::byte> part : parts) {
    while (good && !part.empty()) {
      const ssize_t written = ::write(descriptor, part.data(), part.size());
      if (written > 0) part = part.subspan(static_cast<size_t>(written));
      good = written > 0 || (written < 0 && errno == EINTR);
    }
  }
  good = good && ::fsync(descriptor) == 0;
  int error = errno;
  if (::close(descriptor) != 0 && good) error = errno, good = false;
  if (good && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno, good = false;
  if (!good) {
    ::unlink(temporary.c_str());
    errno = error;
    internal::throw_io_error("write", path);
  }
  const std::filesystem::path folder = path.parent_path();
  sync_to_disk(folder.empty() ? std::filesystem::path(".") : folder);
}

inline void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  const std::span<const std::byte> part = std::as_bytes(std::span(text.data(), text.size()));
  write_file_atomically(path, std::span(&part, 1));
}

}  // namespace dpfa
