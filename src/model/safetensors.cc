#include "src/model/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "src/base/check.h"
#include "src/base/file.h"

namespace dpfa::model {

static_assert(std::endian::native == std::endian::little, "safetensors data is little endian");

namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 16;

struct DTypeRow {
  DType dtype;
  const char* name;
  int64_t bytes;
};
constexpr std::array<DTypeRow, 10> kDTypes{{{DType::kF64, "F64", 8},
                                            {DType::kF32, "F32", 4},
                                            {DType::kF16, "F16", 2},
                                            {DType::kBF16, "BF16", 2},
                                            {DType::kI64, "I64", 8},
                                            {DType::kI32, "I32", 4},
                                            {DType::kI16, "I16", 2},
                                            {DType::kI8, "I8", 1},
                                            {DType::kU8, "U8", 1},
                                            {DType::kBool, "BOOL", 1}}};

const DTypeRow& row_of(DType dtype) {
  const auto row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                [dtype](const DTypeRow& entry) { return entry.dtype == dtype; });
  DPFA_CHECK(row != kDTypes.end(), "unknown dtype");
  return *row;
}

// Product of the dimensions times the element size, or -1 where it leaves int64 or a dimension is negative.
int64_t bytes_of(const std::vector<int64_t>& shape, DType dtype) {
  int64_t bytes = size_of(dtype);
  bool empty = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) return -1;
    if (dimension == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(bytes, dimension, &bytes)) {
      return -1;
    }
  }
  return empty ? 0 : bytes;
}

// Everything that can be wrong about one file, with the file's name in front.
class HeaderParser {
 public:
  HeaderParser(const std::filesystem::path& path, std::span<const std::byte> file)
      : path_(path), file_(file) {}

  void parse(std::map<std::string, TensorView>& tensors, std::map<std::string, std::string>& metadata) {
    const std::string_view header = header_text();
    const Json json = parse_json(header);
    data_ = file_.subspan(sizeof(uint64_t) + header.size());
    for (const auto& [name, value] : json.items()) {
      if (name == "__metadata__") {
        metadata = parse_metadata(value);
      } else {
        tensors.emplace(name, parse_tensor(name, value));
      }
    }
    check_coverage();
  }

 private:
  struct Range {
    uint64_t begin, end;
    std::string name;
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw IoError("'" + path_.string() + "' is not a valid safetensors file: " + what);
  }
  [[noreturn]] void fail(const std::string& tensor, const std::string& what) const {
    fail("tensor '" + tensor + "': " + what);
  }

  std::string_view header_text() const {
    uint64_t size = 0;
    if (file_.size() < sizeof(size)) fail("it is shorter than the 8 bytes of its header size");
    std::memcpy(&size, file_.data(), sizeof(size));
    if (size > kMaxHeaderBytes) {
      fail("its header claims " + std::to_string(size) + " bytes, at most " +
           std::to_string(kMaxHeaderBytes) + " are allowed");
    }
    if (size > file_.size() - sizeof(size)) {
      fail("its header claims " + std::to_string(size) + " bytes, but only " +
           std::to_string(file_.size() - sizeof(size)) + " follow (truncated file?)");
    }
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + sizeof(size), size);
    if (text.empty() || text.front() != '{') fail("its header does not start with '{'");
    return text;
  }

  Json parse_json(std::string_view text) const {
    // The parser keeps the last of two equal names; a file that means two things is refused instead.
    std::vector<std::set<std::string>> names;
    const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
      using Event = Json::parse_event_t;
      if ((event == Event::object_start || event == Event::array_start) && depth > 2) {
        fail("its header is nested too deeply");
      }
      if (event == Event::object_start) names.emplace_back();
      if (event == Event::object_end) names.pop_back();
      if (event == Event::key && !names.back().insert(parsed.get<std::string>()).second) {
        fail("the name '" + parsed.get<std::string>() + "' stands in its header twice");
      }
      return true;
    };
    try {
      return Json::parse(text, watch);
    } catch (const Json::exception& error) {
      fail(std::string("its header is not JSON: ") + error.what());
    }
  }

  std::map<std::string, std::string> parse_metadata(const Json& value) const {
    if (!value.is_object()) fail("__metadata__ must map texts to texts");
    std::map<std::string, std::string> metadata;
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail("__metadata__ entry '" + key + "' must be a text");
      metadata.emplace(key, text.get<std::string>());
    }
    return metadata;
  }

  TensorView parse_tensor(const std::string& name, const Json& value) {
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets")) {
      fail(name, "expected exactly the entries dtype, shape and data_offsets");
    }
    TensorView view;
    view.dtype = parse_dtype(name, value["dtype"]);
    const Json& shape = value["shape"];
    if (!shape.is_array() || shape.size() > kMaxDimensions) {
      fail(name, "shape must be a list of at most " + std::to_string(kMaxDimensions) + " sizes");
    }
    for (const Json& dimension : shape) {
      const uint64_t size = parse_unsigned(name, dimension, "shape");
      if (size > static_cast<uint64_t>(INT64_MAX)) fail(name, "shape holds a size beyond 2^63");
      view.shape.push_back(static_cast<int64_t>(size));
    }
    const Json& offsets = value["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2) fail(name, "data_offsets must be [begin, end]");
    const uint64_t begin = parse_unsigned(name, offsets[0], "data_offsets");
    const uint64_t end = parse_unsigned(name, offsets[1], "data_offsets");
    if (begin > end || end > data_.size()) {
      fail(name, "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) +
                     "] do not lie within the file's " + std::to_string(data_.size()) +
                     " bytes of data (truncated file?)");
    }
    const int64_t bytes = bytes_of(view.shape, view.dtype);
    if (bytes < 0 || static_cast<uint64_t>(bytes) != end - begin) {
      fail(name, "its shape and dtype need " + (bytes < 0 ? "more than 2^63" : std::to_string(bytes)) +
                     " bytes, data_offsets give " + std::to_string(end - begin));
    }
    view.data = data_.subspan(begin, end - begin);
    ranges_.push_back({begin, end, name});
    return view;
  }

  DType parse_dtype(const std::string& name, const Json& value) const {
    std::string known;
    for (const DTypeRow& row : kDTypes) {
      if (value.is_string() && value.get_ref<const std::string&>() == row.name) return row.dtype;
      known += std::string(known.empty() ? "" : ", ") + row.name;
    }
    fail(name, "its dtype is none of " + known);
  }

  uint64_t parse_unsigned(const std::string& name, const Json& value, const char* entry) const {
    if (!value.is_number_unsigned()) fail(name, std::string(entry) + " must hold non-negative integers");
    return value.get<uint64_t>();
  }

  // The tensors must tile the data: no byte unused (a place to hide things) and none used twice.
  void check_coverage() {
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    uint64_t covered = 0;
    for (const Range& range : ranges_) {
      if (range.begin != covered) {
        fail(range.name, "its data begins at " + std::to_string(range.begin) + ", expected " +
                             std::to_string(covered) + (range.begin < covered ? " (overlap)" : " (hole)"));
      }
      covered = range.end;
    }
    if (covered != data_.size()) {
      fail("its tensors end at " + std::to_string(covered) + ", but there are " +
           std::to_string(data_.size()) + " bytes of data");
    }
  }

  const std::filesystem::path& path_;
  std::span<const std::byte> file_;
  std::span<const std::byte> data_;
  std::vector<Range> ranges_;
};

template <typename Value>
Value load(std::span<const std::byte> data, size_t index) {
  Value value;  // the data may be unaligned
  std::memcpy(&value, data.data() + index * sizeof(Value), sizeof(Value));
  return value;
}

float float_of_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

float float_of_half(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

template <typename Value, typename Out, typename Convert>
void convert_all(std::span<const std::byte> data, std::span<Out> out, Convert convert) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = convert(load<Value>(data, i));
}

}  // namespace

int64_t size_of(DType dtype) { return row_of(dtype).bytes; }

int64_t TensorView::elements() const { return static_cast<int64_t>(data.size()) / size_of(dtype); }

struct SafetensorsFile::State {
  std::filesystem::path path;
  MappedFile file;
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

SafetensorsFile::SafetensorsFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  auto state = std::make_unique<State>(State{path, MappedFile(path), {}, {}});
  HeaderParser(state->path, state->file.bytes()).parse(state->tensors, state->metadata);
  return SafetensorsFile(std::move(state));
}

const std::map<std::string, TensorView>& SafetensorsFile::tensors() const { return state_->tensors; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return state_->metadata; }
bool SafetensorsFile::contains(const std::string& name) const { return state_->tensors.contains(name); }

const TensorView& SafetensorsFile::at(const std::string& name) const {
  const auto found = state_->tensors.find(name);
  if (found == state_->tensors.end()) {
    throw IoError("'" + state_->path.string() + "' holds no tensor '" + name + "'");
  }
  return found->second;
}

void SafetensorsFile::read_floats(const std::string& name, std::span<float> out) const {
  const TensorView& view = at(name);
  if (static_cast<uint64_t>(view.elements()) != out.size()) {
    throw IoError("'" + state_->path.string() + "': tensor '" + name + "' has " +
                  std::to_string(view.elements()) + " elements, expected " + std::to_string(out.size()));
  }
  switch (view.dtype) {
    case DType::kF64:
      return convert_all<double>(view.data, out, [](double value) { return static_cast<float>(value); });
    case DType::kF32:
      return convert_all<float>(view.data, out, [](float value) { return value; });
    case DType::kF16:
      return convert_all<uint16_t>(view.data, out, float_of_half);
    case DType::kBF16:
      return convert_all<uint16_t>(view.data, out, float_of_bf16);
    default:
      throw IoError("'" + state_->path.string() + "': tensor '" + name + "' holds " +
                    row_of(view.dtype).name + ", expected floating point numbers");
  }
}

std::vector<int64_t> SafetensorsFile::read_integers(const std::string& name) const {
  const TensorView& view = at(name);
  std::vector<int64_t> values(static_cast<size_t>(view.elements()));
  const auto widen = [](auto value) { return static_cast<int64_t>(value); };
  const std::span<int64_t> out(values);
  switch (view.dtype) {
    case DType::kI64:
      convert_all<int64_t>(view.data, out, widen);
      break;
    case DType::kI32:
      convert_all<int32_t>(view.data, out, widen);
      break;
    case DType::kI16:
      convert_all<int16_t>(view.data, out, widen);
      break;
    case DType::kI8:
      convert_all<int8_t>(view.data, out, widen);
      break;
    case DType::kU8:
    case DType::kBool:
      convert_all<uint8_t>(view.data, out, widen);
      break;
    default:
      throw IoError("'" + state_->path.string() + "': tensor '" + name + "' holds " +
                    row_of(view.dtype).name + ", expected integers");
  }
  return values;
}

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  // Widest elements first: with a header padded to 8 bytes every tensor is then aligned in the mapped file.
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    const int64_t width_a = size_of(a->dtype), width_b = size_of(b->dtype);
    return width_a != width_b ? width_a > width_b : a->name < b->name;
  });
  std::vector<std::span<const std::byte>> parts(2);
  uint64_t offset = 0;
  for (const TensorToWrite* tensor : order) {
    DPFA_CHECK(tensor->name != "__metadata__" && !header.contains(tensor->name), "two tensors are called '",
               tensor->name, "'");
    DPFA_CHECK(bytes_of(tensor->shape, tensor->dtype) == static_cast<int64_t>(tensor->data.size()),
               "tensor '", tensor->name, "' has ", tensor->data.size(),
               " bytes, which is not its shape's size");
    header[tensor->name] = {{"dtype", row_of(tensor->dtype).name},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + tensor->data.size()}}};
    offset += tensor->data.size();
    parts.push_back(tensor->data);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  DPFA_CHECK(text.size() <= kMaxHeaderBytes, "the header has ", text.size(), " bytes");
  const uint64_t size = text.size();
  parts[0] = std::as_bytes(std::span(&size, 1));
  parts[1] = std::as_bytes(std::span(text));
  write_file_atomically(path, parts);
}

}  // namespace dpfa::model
