// A large flat array on huge pages, zero-filled by all threads at construction.
//
// First touch of ordinary pages costs about half a second per GiB, so the buffers of a run are made once, up
// front. Not resizable; element type trivially copyable.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace dpfa {

template <typename T>
class FlatBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  FlatBuffer() = default;
  explicit FlatBuffer(int64_t size) : size_(size) {
    if (size == 0) return;
    const size_t bytes = (static_cast<size_t>(size) * sizeof(T) + kPage - 1) / kPage * kPage;
    void* memory = std::aligned_alloc(kPage, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    data_.reset(static_cast<T*>(memory));
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice only: without huge pages everything still works
    const int64_t pages = static_cast<int64_t>(bytes / kPage);
#pragma omp parallel for schedule(static)
    for (int64_t page = 0; page < pages; ++page)
      std::memset(reinterpret_cast<char*>(memory) + page * static_cast<int64_t>(kPage), 0, kPage);
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<T> span() { return {data_.get(), static_cast<size_t>(size_)}; }
  std::span<const T> span() const { return {data_.get(), static_cast<size_t>(size_)}; }

 private:
  static constexpr size_t kPage = size_t{2} << 20;
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace dpfa
