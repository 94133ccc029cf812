#include "src/device/cross_entropy.h"

#include <algorithm>
#include <vector>

#include "src/base/check.h"
#include "src/device/upload.h"

namespace dpfa::device {
namespace {

constexpr int64_t kElementsAtOnce = int64_t{1} << 26;

}  // namespace

at::Tensor cross_entropy(at::Tensor& logits, std::span<const int64_t> targets,
                         std::span<const double> weights, bool gradient) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  DPFA_CHECK(static_cast<int64_t>(targets.size()) == rows && weights.size() == targets.size() &&
             logits.stride(1) == 1);
  const at::ScalarType sum_type = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  std::vector<int64_t> indices(targets.begin(), targets.end()), without;
  for (int64_t i = 0; i < rows; ++i)
    if (indices[i] < 0) {
      indices[i] = 0;
      without.push_back(i);
    }
  const at::Tensor index = upload<int64_t>(indices, logits.device()).unsqueeze(1);
  const at::Tensor weight = upload<double>(weights, logits.device());
  at::Tensor losses = at::empty({rows}, weight.options());
  const int64_t part = std::clamp<int64_t>(kElementsAtOnce / vocab, 1, std::max<int64_t>(rows, 1));
  for (int64_t first = 0; first < rows; first += part) {
    const int64_t count = std::min(part, rows - first);
    at::Tensor values = logits.narrow(0, first, count);
    const at::Tensor target = index.narrow(0, first, count), scale = weight.narrow(0, first, count);
    at::Tensor p = at::log_softmax(values, -1, sum_type);
    losses.narrow(0, first, count).copy_(p.gather(1, target).squeeze(1).to(at::kDouble).mul_(scale).neg_());
    if (!gradient) continue;
    p.exp_();
    p.scatter_add_(1, target, at::full({count, 1}, -1, p.options()));
    at::mul_out(values, p, scale.to(sum_type).unsqueeze(1));
  }
  if (without.empty()) return losses;
  // By selection: a product with weight 0 would keep a NaN.
  const at::Tensor ignored = upload<int64_t>(without, logits.device());
  losses.index_fill_(0, ignored, 0);
  if (gradient) logits.index_fill_(0, ignored, 0);
  return losses;
}

}  // namespace dpfa::device
