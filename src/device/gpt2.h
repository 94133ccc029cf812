// GPT-2's forward pass and explicit backward pass from LibTorch's own operations, on the device of its
// weights.
//
// The mathematics, parameters, batches and visitors are those of src/model/gpt2.h, without dropout; its CPU
// kernels are replaced by at:: operations, so that a GPU runs it. Like there, examples lie one behind another
// and no operation mixes them, N rows in all. Two ways to pack records of various lengths, which differ in
// what a shape tells: Batch::lengths empty gives every slot all T rows, and those behind a record's last
// target get output gradients of exact zeros (attention is causal, so no row before them reads them); with
// lengths, rows of padding do not exist. A product's bits may depend on N, so runs that need an example's
// numbers to be independent of its neighbours' lengths take the first. Batch::every_row changes nothing: all
// rows that exist are worked on.
//
// What is not shown: that LibTorch's products on a GPU give a row the same bits at any place of the batch.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/model/gpt2.h"
#include "src/plan/model_shape.h"

namespace dpfa::device {

// A matrix of linear layers, in the order in which a backward pass gives their records.
struct MatrixParameter {
  int64_t offset, inputs, outputs;
  bool output_major, tied = false;
};
std::vector<MatrixParameter> matrices_of(const plan::Gpt2Shape& shape);

// Has LibTorch take the algorithms that repeat their bits from call to call, in this process from now on:
// what a step that recomputes layers wants on a GPU. Before the first operation there.
void use_repeatable_operations();

class Gpt2 {
 public:
  // `compute`: kFloat or kBFloat16, and kDouble on CPUs (tests). recompute_layers: of a layer the forward
  // pass keeps its input alone, and the backward pass runs the layer again first.
  Gpt2(const plan::Gpt2Shape& shape, at::ScalarType compute, at::Device device,
       bool recompute_layers = false);
  ~Gpt2();

  const plan::Gpt2Shape& shape() const;
  bool recomputes_layers() const;
  at::ScalarType compute() const;
  at::Device device() const;
  // Reads `flat` (P, compute type, on the device, in the order of gpt2_parameters()) in place from now on.
  void bind(const at::Tensor& flat);

  // The loss of each example (B), f64 on the device: the weighted sum of its targets' cross-entropies; 0 for
  // an example without targets. With `for_backward` activations are kept.
  at::Tensor forward(const model::Batch& batch, bool for_backward);
  // After forward(for_backward = true) on a batch with at least one row, once; where layers are recomputed
  // again and again, with the same bits as far as LibTorch's operations repeat theirs. What a visitor is
  // given stays valid until the next forward pass. Rows of logit gradients lie at strides of multiples of 64
  // numbers, all others are contiguous.
  void backward(model::GradientVisitor& visitor);

  // Of the last forward pass: example b's rows are [offsets[b], offsets[b + 1]); ids (N), targets (N).
  std::span<const int64_t> offsets() const;
  std::span<const int64_t> ids() const;
  std::span<const int64_t> targets() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::device
