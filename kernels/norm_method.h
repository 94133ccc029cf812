// Which of three ways measures the per-example gradient norms of a matrix, chosen by measurement.
//
//   gram         from the Gram matrices of inputs and output gradients; the gradient is formed once, to add
//                it
//   direct       from the gradient, formed tile by tile and dropped; formed again to be added
//   materialise  from the gradient, kept until it is added: B d p numbers of f32, or of the operands' type
//                on a GPU
//
// Nothing private enters the choice: shapes, processor and threads or GPU, and times of made-up operands.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/norm_method_type.h"
#include "kernels/records.h"

namespace dpfa::kernels {

std::string to_string(NormMethod method);

// What the seconds of a matrix depend on: T tokens, d inputs, p outputs, the rest of its record, and of how
// many examples they are measured.
struct MatrixShape {
  int64_t tokens, inputs, outputs;
  bool output_major;
  at::ScalarType compute;
  int64_t examples = 1;
  int64_t kept = 1;  // examples of kMaterialise, whose gradients take memory; 0: it has none to take
  int64_t element_bytes = sizeof(float);  // of a number of a kept gradient
  bool tied = false;                      // a token table: the embedding's rows are part of its gradient
  std::string key() const;                // "T64/768x3072/fp32", with "/out" for output_major, "/tied"
  int64_t gradient_bytes() const { return inputs * outputs * element_bytes; }
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

// What a log says of a choice: " 12 x T64/768x2304/fp32 gram; 12 x ...;".
std::string summary(std::span<const MatrixShape> shapes, std::span<const NormMethod> methods);

// What times are kept under where a processor measures: its name and the number of threads.
std::string this_processor();

// Times that were measured once on a kind of processor or GPU, in a text file of lines "key<TAB>gram direct
// materialise", the key naming `machine`, shape, type and examples. A file that cannot be read or written,
// and a line that is not understood, mean measuring again, never an error.
class MethodTimes {
 public:
  // Seconds per example.
  using Measure = std::function<double(const MatrixShape&, NormMethod)>;
  // `file` may be empty: nothing is kept between runs.
  explicit MethodTimes(std::filesystem::path file, std::string machine = this_processor())
      : file_(std::move(file)), machine_(std::move(machine)) {}
  // Infinity for what cannot be chosen and is not measured: Gram norms without `gram`, kMaterialise of a
  // shape that keeps none.
  MethodSeconds of(const MatrixShape& shape, const Measure& measure, bool gram = true);

 private:
  std::filesystem::path file_;
  std::string machine_;
};

// $DPFA_CACHE/norm_methods.txt, by default in ~/.cache/dpfa; empty where there is no home folder.
std::filesystem::path default_method_file();

// How norms are to be chosen.
struct NormMethodChoice {
  std::string method = "gram";  // gram | direct | materialise: for every matrix; auto: by measurement
  // For auto: tokens of an example, the public context, whatever the lengths of a microbatch's records are.
  int64_t tokens = 0;
  int64_t budget_bytes = 0;                          // for kept gradients; 0: those of one example
  int64_t most_examples = 0;                         // of which times are taken; 0: two for each thread
  bool constant_work = false;                        // of the route; auto then leaves gram out
  bool gram_norms = true;                            // what measures has kernels for them
  std::string machine = {};                          // what measures; empty: this_processor()
  std::filesystem::path file = {};                   // of MethodTimes
  std::function<void(const std::string&)> log = {};  // takes a line for each choice, of public shapes
};

// The method of every matrix, for microbatches of so many examples; measured are as many of them as
// most_examples allows, and of kMaterialise as many as fit into the budget.
std::vector<NormMethod> methods_of(std::vector<MatrixShape> shapes, int64_t examples,
                                   const NormMethodChoice& choice, const MethodTimes::Measure& measure);
// The shapes of the matrices of the records, for examples of `tokens` tokens.
std::vector<MatrixShape> shapes_of(const GradientRecords& records, int64_t tokens);

}  // namespace dpfa::kernels
