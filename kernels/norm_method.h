// Which of three ways measures the per-example gradient norms of a matrix, chosen by measurement.
//
//   gram         from the Gram matrices of inputs and output gradients; the gradient is formed once, to add
//                it
//   direct       from the gradient, formed tile by tile and dropped; formed again to be added
//   materialise  from the gradient, kept until it is added: 4 B d p bytes
//
// Nothing private enters the choice: shapes, processor, threads, and times of made-up operands.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/records.h"

namespace dpfa::kernels {

enum class NormMethod : uint8_t { kGram, kDirect, kMaterialise };
inline constexpr int kNormMethods = 3;
std::string to_string(NormMethod method);

// What the seconds of a matrix depend on: T tokens, d inputs, p outputs, the rest of its record, and of how
// many examples they are measured.
struct MatrixShape {
  int64_t tokens, inputs, outputs;
  bool output_major;
  at::ScalarType compute;
  int64_t examples = 1;
  int64_t kept = 1;         // examples of kMaterialise, whose gradients take memory; 0: it has none to take
  std::string key() const;  // "T64/768x3072/fp32", with "/out" for output_major
  int64_t gradient_bytes() const { return inputs * outputs * static_cast<int64_t>(sizeof(float)); }
};

// Seconds per example of measuring the norm and adding the gradient, by method; infinity where it has no
// memory.
using MethodSeconds = std::array<double, kNormMethods>;

// The method of each matrix with the least sum of seconds for which the kept gradients of `examples` examples
// fit into budget_bytes: matrices take kMaterialise in the order of seconds saved per byte, as long as they
// fit. Ties go to the earlier method, then to the earlier matrix. seconds and shapes have equal length.
std::vector<NormMethod> choose_methods(std::span<const MatrixShape> shapes,
                                       std::span<const MethodSeconds> seconds, int64_t examples,
                                       int64_t budget_bytes);

// Times that were measured once on a kind of processor, in a text file of lines "key<TAB>gram direct
// materialise", the key naming processor, threads, shape, type and examples. A file that cannot be read or
// written, and a line that is not understood, mean measuring again, never an error.
class MethodTimes {
 public:
  // Seconds per example; never asked for kMaterialise of a shape that keeps none.
  using Measure = std::function<double(const MatrixShape&, NormMethod)>;
  // `file` may be empty: nothing is kept between runs.
  explicit MethodTimes(std::filesystem::path file) : file_(std::move(file)) {}
  MethodSeconds of(const MatrixShape& shape, const Measure& measure);

 private:
  std::filesystem::path file_;
};

// $DPFA_CACHE/norm_methods.txt, by default in ~/.cache/dpfa; empty where there is no home folder.
std::filesystem::path default_method_file();

// How the route of numerics = fp32 is to choose.
struct NormMethodChoice {
  std::string method = "gram";  // gram | direct | materialise: for every matrix; auto: by measurement
  // For auto: tokens of an example, the public context, whatever the lengths of a microbatch's records are.
  int64_t tokens = 0;
  int64_t budget_bytes = 0;                          // for kept gradients; 0: those of one example
  bool constant_work = false;                        // of the route; auto leaves gram out
  std::filesystem::path file = {};                   // of MethodTimes
  std::function<void(const std::string&)> log = {};  // takes a line for each choice, of public shapes
};

// The method of every matrix of the records.
std::vector<NormMethod> methods_of(const GradientRecords& records, const NormMethodChoice& choice,
                                   const MethodTimes::Measure& measure);

}  // namespace dpfa::kernels
