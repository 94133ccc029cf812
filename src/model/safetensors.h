// Reader and writer of the safetensors format (8-byte little-endian header size, JSON header, raw data).
//
// The reader trusts nothing: header size (<= 100 MB), JSON, dtypes, shapes, offsets without holes or overlaps
// and the file's length are all checked before a byte of data is used; anything wrong is IoError naming the
// file, the tensor and what was expected. The writer is atomic: temporary name, fsync, rename.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dpfa::model {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };
int64_t size_of(DType dtype);  // bytes of one element

struct TensorView {
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // points into the mapped file
  int64_t elements() const;
};

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const std::map<std::string, TensorView>& tensors() const;
  const std::map<std::string, std::string>& metadata() const;
  bool contains(const std::string& name) const;
  // Throws IoError where `name` is absent.
  const TensorView& at(const std::string& name) const;
  // Converts F64, F32, F16, BF16 to float; throws IoError for other dtypes or where out has another size.
  void read_floats(const std::string& name, std::span<float> out) const;
  // Converts I64, I32, I16, I8, U8, Bool to int64.
  std::vector<int64_t> read_integers(const std::string& name) const;

 private:
  struct State;
  explicit SafetensorsFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// What to write: the data must stay alive until write_safetensors() returns.
struct TensorToWrite {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace dpfa::model
