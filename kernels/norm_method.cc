#include "kernels/norm_method.h"

#include <fcntl.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>
#include <sstream>

#include "src/base/check.h"
#include "src/base/processor.h"

namespace dpfa::kernels {
namespace {

constexpr size_t index_of(NormMethod method) { return static_cast<size_t>(method); }

bool are_times(std::span<const double> seconds) {
  return std::all_of(seconds.begin(), seconds.end(), [](double s) { return std::isfinite(s) && s > 0; });
}

}  // namespace

std::string to_string(NormMethod method) {
  return method == NormMethod::kGram ? "gram" : method == NormMethod::kDirect ? "direct" : "materialise";
}

std::string MatrixShape::key() const {
  const char* type = compute == at::kFloat ? "fp32" : compute == at::kBFloat16 ? "bf16" : "fp64";
  std::ostringstream text;
  text << 'T' << tokens << '/' << inputs << 'x' << outputs << '/' << type << (output_major ? "/out" : "")
       << (tied ? "/tied" : "");
  return text.str();
}

std::vector<NormMethod> choose_methods(std::span<const MatrixShape> shapes,
                                       std::span<const MethodSeconds> seconds, int64_t examples,
                                       int64_t budget_bytes) {
  DPFA_CHECK(shapes.size() == seconds.size());
  std::vector<NormMethod> methods;
  std::vector<double> saved_per_byte;
  std::vector<int64_t> bytes;
  for (size_t k = 0; k < shapes.size(); ++k) {
    const double gram = seconds[k][index_of(NormMethod::kGram)];
    const double direct = seconds[k][index_of(NormMethod::kDirect)];
    methods.push_back(gram <= direct ? NormMethod::kGram : NormMethod::kDirect);
    bytes.push_back(examples * shapes[k].gradient_bytes());
    saved_per_byte.push_back((std::min(gram, direct) - seconds[k][index_of(NormMethod::kMaterialise)]) /
                             static_cast<double>(bytes[k]));
  }
  std::vector<size_t> order(shapes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return saved_per_byte[a] > saved_per_byte[b]; });
  for (const size_t k : order) {
    if (saved_per_byte[k] <= 0 || bytes[k] > budget_bytes) continue;
    methods[k] = NormMethod::kMaterialise;
    budget_bytes -= bytes[k];
  }
  return methods;
}

std::string summary(std::span<const MatrixShape> shapes, std::span<const NormMethod> methods) {
  std::map<std::string, int64_t> counts;
  for (size_t k = 0; k < shapes.size(); ++k) ++counts[shapes[k].key() + " " + to_string(methods[k])];
  std::ostringstream text;
  for (const auto& [what, count] : counts) text << ' ' << count << " x " << what << ';';
  return text.str();
}

std::string this_processor() { return processor_name() + "/threads" + std::to_string(omp_get_max_threads()); }

MethodSeconds MethodTimes::of(const MatrixShape& shape, const Measure& measure, bool gram) {
  const std::string key = machine_ + '/' + shape.key() + "/examples" + std::to_string(shape.examples) +
                          "/kept" + std::to_string(shape.kept) + (gram ? "\t" : "/no_gram\t");
  // Gram norms are the first method, kMaterialise, for which there may be no memory, the last.
  const size_t first = gram ? 0 : 1, end = shape.kept > 0 ? kNormMethods : kNormMethods - 1;
  MethodSeconds seconds;
  seconds.fill(std::numeric_limits<double>::infinity());
  const std::span<double> known = std::span(seconds).subspan(first, end - first);
  if (!file_.empty()) {
    std::ifstream file(file_);
    for (std::string line; std::getline(file, line);) {
      if (!line.starts_with(key)) continue;
      std::istringstream values(line.substr(key.size()));
      for (double& s : known) values >> s;
      if (values && are_times(known)) return seconds;
    }
  }
  for (size_t m = first; m < end; ++m) seconds[m] = measure(shape, static_cast<NormMethod>(m));
  if (file_.empty()) return seconds;
  std::ostringstream line;
  line << key;
  for (const double s : known) line << s << ' ';
  line << '\n';
  std::error_code ignored;
  std::filesystem::create_directories(file_.parent_path(), ignored);
  // One write to the end of the file: ranks that measure at the same time do not mix their lines.
  const int file = open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) return seconds;
  [[maybe_unused]] const ssize_t written = write(file, line.str().data(), line.str().size());
  close(file);
  return seconds;
}

std::filesystem::path default_method_file() {
  if (const char* cache = std::getenv("DPFA_CACHE"); cache != nullptr && *cache != '\0')
    return std::filesystem::path(cache) / "norm_methods.txt";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0')
    return std::filesystem::path(home) / ".cache" / "dpfa" / "norm_methods.txt";
  return {};
}

std::vector<NormMethod> methods_of(std::vector<MatrixShape> shapes, int64_t examples,
                                   const NormMethodChoice& choice, const MethodTimes::Measure& measure) {
  for (int m = 0; m < kNormMethods; ++m)
    if (choice.method == to_string(static_cast<NormMethod>(m)))
      return std::vector<NormMethod>(shapes.size(), static_cast<NormMethod>(m));
  DPFA_CHECK(choice.method == "auto", choice.method);
  MethodTimes times(choice.file, choice.machine.empty() ? this_processor() : choice.machine);
  std::map<std::string, MethodSeconds> known;
  std::vector<MethodSeconds> seconds;
  int64_t budget = choice.budget_bytes;
  if (budget == 0)
    for (const MatrixShape& shape : shapes) budget += shape.gradient_bytes();
  const int64_t most = choice.most_examples > 0 ? choice.most_examples : 2 * omp_get_max_threads();
  for (MatrixShape& shape : shapes) {
    DPFA_CHECK(shape.tokens > 0, shape.key());
    shape.examples = std::min(most, examples);
    shape.kept = std::min(shape.examples, budget / shape.gradient_bytes());
    if (!known.contains(shape.key()))
      known[shape.key()] = times.of(shape, measure, choice.gram_norms && !choice.constant_work);
    seconds.push_back(known[shape.key()]);
  }
  const std::vector<NormMethod> methods = choose_methods(shapes, seconds, examples, budget);
  if (choice.log) choice.log("gradient norms:" + summary(shapes, methods));
  return methods;
}

std::vector<MatrixShape> shapes_of(const GradientRecords& records, int64_t tokens) {
  std::vector<MatrixShape> shapes;
  for (const LinearRecord& linear : records.linears)
    shapes.push_back({tokens, linear.input.size(1), linear.output_gradient.size(1), linear.output_major,
                      linear.input.scalar_type()});
  for (MatrixShape& shape : shapes)
    if (shape.compute == at::kDouble) shape.element_bytes = sizeof(double);
  for (const EmbeddingRecord& embedding : records.embeddings)
    if (embedding.tied_head) shapes[*embedding.tied_head].tied = true;
  return shapes;
}

}  // namespace dpfa::kernels
