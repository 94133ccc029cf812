// The layers that a whole model is written over, once, and two ways to run them.
//
// RecordingTape runs a batch as a training step does: the kernels do the work, and what the backward pass
// meets becomes GradientRecords. PlainTape runs one example on parameters that LibTorch differentiates and
// shares nothing with the kernels.
//
// Rows x (N, C) of examples that lie one behind another, offsets as in kernels/records.h. Parameters have
// the names of a Hugging Face directory; layers are named by their prefix.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/records.h"

namespace dpfa::kernels::test {

struct Parameter {
  std::string name;
  at::Tensor value;               // f64
  std::optional<int64_t> offset;  // in the flat parameter vector; none: frozen
};

class Parameters {
 public:
  void add(std::string name, at::Tensor value, bool is_trained = true);
  const std::vector<Parameter>& all() const { return all_; }
  const Parameter* find(const std::string& name) const;
  int64_t count() const { return count_; }  // of trained numbers

 private:
  std::vector<Parameter> all_;
  int64_t count_ = 0;
};

class Tape {
 public:
  // The parameters and offsets must outlive it. differentiates: LibTorch differentiates those that are
  // trained.
  Tape(const Parameters& parameters, std::span<const int64_t> offsets, at::ScalarType type,
       bool differentiates);
  virtual ~Tape() = default;

  std::span<const int64_t> offsets() const { return offsets_; }
  at::ScalarType type() const { return type_; }
  bool has(const std::string& name) const { return parameters_.find(name) != nullptr; }

  // x W^T with W = name.weight, plus name.bias where there is one.
  virtual at::Tensor linear(const at::Tensor& x, const std::string& name) = 0;
  virtual at::Tensor layer_norm(const at::Tensor& x, const std::string& name, double epsilon) = 0;
  virtual at::Tensor rms_norm(const at::Tensor& x, const std::string& name, double epsilon) = 0;
  struct Heads {
    int64_t queries, keys, width;
    bool causal;
  };
  virtual at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const Heads& heads) = 0;
  // Row ids[i] (N) of name.weight, plus row t of positions.weight for row t of each example where
  // `positions` is not empty.
  virtual at::Tensor embedding(std::span<const int64_t> ids, const std::string& name,
                               const std::string& positions = "") = 0;
  // The vector `name` in the rows where marks (N, 1) is 1, zeros in those where it is 0.
  virtual at::Tensor marked_rows(const at::Tensor& marks, const std::string& name) = 0;

 protected:
  const Parameter& parameter(const std::string& name) const;
  // In the compute type. Undefined where there is no such parameter.
  at::Tensor value(const std::string& name) const;
  const std::vector<at::Tensor>& values() const { return values_; }

 private:
  const Parameters& parameters_;
  std::vector<at::Tensor> values_;  // of parameters_.all()
  std::span<const int64_t> offsets_;
  at::ScalarType type_;
};

// One example.
class PlainTape final : public Tape {
 public:
  PlainTape(const Parameters& parameters, std::span<const int64_t> offsets, at::ScalarType type);
  at::Tensor linear(const at::Tensor& x, const std::string& name) override;
  at::Tensor layer_norm(const at::Tensor& x, const std::string& name, double epsilon) override;
  at::Tensor rms_norm(const at::Tensor& x, const std::string& name, double epsilon) override;
  at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const Heads& heads) override;
  at::Tensor embedding(std::span<const int64_t> ids, const std::string& name,
                       const std::string& positions) override;
  at::Tensor marked_rows(const at::Tensor& marks, const std::string& name) override;

  // The gradient of `loss` of all trained parameters, one behind another, f64.
  at::Tensor gradient(const at::Tensor& loss) const;
};

class RecordingTape final : public Tape {
 public:
  RecordingTape(const Parameters& parameters, std::span<const int64_t> offsets, at::ScalarType type,
                AttentionPath path);
  at::Tensor linear(const at::Tensor& x, const std::string& name) override;
  at::Tensor layer_norm(const at::Tensor& x, const std::string& name, double epsilon) override;
  at::Tensor rms_norm(const at::Tensor& x, const std::string& name, double epsilon) override;
  at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const Heads& heads) override;
  at::Tensor embedding(std::span<const int64_t> ids, const std::string& name,
                       const std::string& positions) override;
  at::Tensor marked_rows(const at::Tensor& marks, const std::string& name) override;

  // Runs the backward pass for the gradient of `output`. The records are valid while the tape lives.
  const GradientRecords& backward(const at::Tensor& output, const at::Tensor& gradient);

 private:
  void record_vector(const std::string& name, const at::Tensor& per_example);

  AttentionPath path_;
  GradientRecords records_;
  std::list<std::vector<int64_t>> ids_;  // which the records point at
};

}  // namespace dpfa::kernels::test
