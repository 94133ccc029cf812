// Per-example losses, gradient norms, clip factors and the clipped sum of one labelled batch, for comparison
// with other libraries. NOT PRIVATE: nothing here is noised, charged or released.
//
// Input file (safetensors): input_ids (B, T) integers; attention_mask (B, T), 1 then 0 on the right, absent:
// all 1; labels (B, T) aligned to input_ids with -100 = ignored, absent: the ids that are not masked. The
// causal shift is done here. Output file: per_example_loss, per_example_grad_norm, clip_factor (B) and
// clipped_sum/NAME for each Hugging Face parameter name, f32, summed over examples and not divided; tied
// parameters once, under the embedding. An example without targets has loss 0, norm 0 and the factor of
// norm 0 (kernels/clip_rule.h); one whose loss or norm is not finite has factor 0.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "src/data/microbatch.h"
#include "src/model/gpt2.h"

namespace dpfa::train {

// Throws IoError (unreadable, no input_ids, shapes that disagree), Unsupported (a mask that is not
// right-padded, a label to be predicted from a masked position, token types, one label per example) and
// StateError (ids outside the model's vocabulary, more tokens than positions).
data::Microbatch read_labelled_batch(const std::filesystem::path& file, const plan::Gpt2Shape& shape);

struct GradientOptions {
  double max_grad_norm = 1;
  std::string clipping = "flat";   // flat | automatic
  std::string numerics = "exact";  // exact | fp32
  std::string compute = "fp32";    // fp32 | bf16
  int64_t microbatch_size = 0;     // examples per pass; 0: all at once
};

struct GradientReport {
  std::vector<double> losses, norms, factors;  // (B)
  std::vector<float> clipped_sum;              // (P)
};

// By the engine of training, its sums taken in double. Throws ConfigError and Unsupported as PrivacyPlan
// does. options.compute is that of `gpt2` already.
GradientReport clipped_gradients(model::Gpt2& gpt2, const data::Microbatch& batch,
                                 const GradientOptions& options);

void write_gradient_report(const std::filesystem::path& file, const plan::Gpt2Shape& shape,
                           const GradientReport& report);

// Reads the folder `model_dir` and `batch`, writes `out`: what `dpfa debug gradients` does.
void report_gradients(const std::filesystem::path& model_dir, const std::filesystem::path& batch,
                      const GradientOptions& options, const std::filesystem::path& out);

}  // namespace dpfa::train
