#include <algorithm>
#include <cmath>

#include "src/base/check.h"
#include "src/base/random/normal.h"
#include "src/model/gpt2.h"

namespace dpfa::model {

std::vector<ParameterInfo> gpt2_parameters(const plan::Gpt2Shape& shape) {
  std::vector<ParameterInfo> result;
  int64_t offset = 0;
  const auto add = [&](const std::string& name, std::vector<int64_t> dims) {
    int64_t size = 1;
    for (int64_t d : dims) size *= d;
    const bool decays = dims.size() > 1;
    result.push_back({name, std::move(dims), offset, size, decays});
    offset += size;
  };
  const int64_t c = shape.width;
  add("transformer.wte.weight", {shape.vocab, c});
  add("transformer.wpe.weight", {shape.positions, c});
  for (int64_t l = 0; l < shape.layers; ++l) {
    const std::string h = "transformer.h." + std::to_string(l) + ".";
    add(h + "ln_1.weight", {c});
    add(h + "ln_1.bias", {c});
    add(h + "attn.c_attn.weight", {c, 3 * c});
    add(h + "attn.c_attn.bias", {3 * c});
    add(h + "attn.c_proj.weight", {c, c});
    add(h + "attn.c_proj.bias", {c});
    add(h + "ln_2.weight", {c});
    add(h + "ln_2.bias", {c});
    add(h + "mlp.c_fc.weight", {c, 4 * c});
    add(h + "mlp.c_fc.bias", {4 * c});
    add(h + "mlp.c_proj.weight", {4 * c, c});
    add(h + "mlp.c_proj.bias", {c});
  }
  add("transformer.ln_f.weight", {c});
  add("transformer.ln_f.bias", {c});
  if (!shape.tied_head) add("lm_head.weight", {shape.vocab, c});
  DPFA_CHECK(offset == shape.parameter_count(), offset, " against ", shape.parameter_count());
  return result;
}

std::vector<kernels::DecayRange> decay_ranges(const std::vector<ParameterInfo>& parameters) {
  std::vector<kernels::DecayRange> ranges;
  for (const auto& p : parameters) {
    if (!ranges.empty() && ranges.back().decays == p.decays && ranges.back().end == p.offset)
      ranges.back().end += p.size;
    else
      ranges.push_back({p.offset, p.offset + p.size, p.decays});
  }
  return ranges;
}

void initialise_gpt2(const plan::Gpt2Shape& shape, const StreamKey& key, std::span<float> parameters) {
  const double residual = 0.02 / std::sqrt(2.0 * static_cast<double>(shape.layers));
  for (const ParameterInfo& p : gpt2_parameters(shape)) {
    std::span<float> values = parameters.subspan(p.offset, p.size);
    if (p.shape.size() == 1) {
      const bool is_gain = p.name.ends_with(".weight");
      std::fill(values.begin(), values.end(), is_gain ? 1.0f : 0.0f);
      continue;
    }
    const double stddev = p.name.ends_with("c_proj.weight") ? residual : 0.02;
    std::vector<double> normals(values.size());
    fill_normals(key, /*step=*/0, static_cast<uint64_t>(p.offset), Generator::kPhilox, normals);
    for (size_t i = 0; i < normals.size(); ++i) values[i] = static_cast<float>(stddev * normals[i]);
  }
}

}  // namespace dpfa::model
