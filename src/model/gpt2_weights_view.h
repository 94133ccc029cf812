// The flat parameter vector seen as the tensors of GPT-2.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "src/model/gpt2.h"

namespace dpfa::model {

// Conv1D matrices are (in, out): y = x W + b.
struct Gpt2LayerWeights {
  at::Tensor ln1_gain, ln1_shift, qkv, qkv_bias, projection, projection_bias;
  at::Tensor ln2_gain, ln2_shift, fc, fc_bias, output, output_bias;
};
struct Gpt2Weights {
  at::Tensor tokens, positions;  // (V, C), (positions, C)
  std::vector<Gpt2LayerWeights> layers;
  at::Tensor final_gain, final_shift;
  at::Tensor head;  // (V, C): y = x W^T; the token table itself where the head is tied
};

// `flat` (P): the views share its memory. The order is that of gpt2_parameters().
inline Gpt2Weights view_gpt2_weights(const plan::Gpt2Shape& shape,
                                     const std::vector<ParameterInfo>& parameters, const at::Tensor& flat) {
  size_t next = 0;
  const auto take = [&] {
    const ParameterInfo& p = parameters[next++];
    return flat.narrow(0, p.offset, p.size).view(p.shape);
  };
  Gpt2Weights w;
  w.tokens = take();
  w.positions = take();
  w.layers.resize(shape.layers);
  for (Gpt2LayerWeights& l : w.layers)
    for (at::Tensor* t : {&l.ln1_gain, &l.ln1_shift, &l.qkv, &l.qkv_bias, &l.projection, &l.projection_bias,
                          &l.ln2_gain, &l.ln2_shift, &l.fc, &l.fc_bias, &l.output, &l.output_bias})
      *t = take();
  w.final_gain = take();
  w.final_shift = take();
  w.head = shape.tied_head ? w.tokens : take();
  return w;
}

}  // namespace dpfa::model
