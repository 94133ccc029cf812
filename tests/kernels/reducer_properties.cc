#include "tests/kernels/reducer_properties.h"

namespace dpfa::kernels::made {
namespace {

NormalisedRows rows_for(int64_t rows, int64_t columns) {
  NormalisedRows made = {random_matrix(1, rows, columns), random_matrix(2, rows, columns), {}, {}};
  for (int64_t t = 0; t < rows; ++t) {
    made.mean.push_back(0.01f * static_cast<float>(t % 7));
    made.rstd.push_back(1 + 0.1f * static_cast<float>(t % 5));
  }
  return made;
}

}  // namespace

void vectors_are_the_sums_over_tokens(Failures& f, const ReducerBackend& backend) {
  for (const Lengths& lengths : batches())
    for (const int64_t columns : {1, 33, 96, 300}) {
      const std::vector<int64_t> offsets = offsets_of(lengths);
      const NormalisedRows rows = rows_for(offsets.back(), columns);
      const VectorGradients got = backend.reduce(rows, offsets);
      f.expect(got.bias.size() == lengths.size() * static_cast<size_t>(columns), backend.name, ": ",
               got.bias.size(), " numbers");
      for (size_t b = 0; b < lengths.size(); ++b)
        for (int64_t c = 0; c < columns; ++c) {
          double sum = 0, gain = 0, rms = 0, magnitude = 0;
          for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
            const double g = rows.g.at(t, c), x = rows.x.at(t, c), mean = rows.mean[t], rstd = rows.rstd[t];
            sum += g;
            gain += g * (x - mean) * rstd;
            rms += g * x * rstd;
            magnitude += std::abs(g) * (1 + std::abs(x) + std::abs(mean)) * rstd;
          }
          const size_t i = b * static_cast<size_t>(columns) + static_cast<size_t>(c);
          const double error = backend.relative * magnitude;
          f.expect(std::abs(got.bias[i] - sum) <= backend.relative / 8 * std::abs(sum) + 1e-12 * magnitude,
                   backend.name, ": bias ", got.bias[i], " for ", sum);
          f.expect(got.shift[i] == got.bias[i], backend.name, ": shift ", got.shift[i], " beside bias ",
                   got.bias[i]);
          f.expect(std::abs(got.gain[i] - gain) <= error, backend.name, ": gain ", got.gain[i], " for ",
                   gain);
          f.expect(std::abs(got.rms[i] - rms) <= error, backend.name, ": gain of RMSNorm ", got.rms[i],
                   " for ", rms);
        }
    }
}

void vectors_of_an_example_have_their_bits_in_any_batch(Failures& f, const ReducerBackend& backend) {
  constexpr int64_t kColumns = 33;
  const Lengths lengths = {70, 0, 257, 128, 1};
  const std::vector<int64_t> offsets = offsets_of(lengths);
  const NormalisedRows rows = rows_for(offsets.back(), kColumns);
  const VectorGradients together = backend.reduce(rows, offsets);
  for (size_t b = 0; b < lengths.size(); ++b) {
    const auto part = [&](const std::vector<float>& v) {
      return std::vector<float>(v.begin() + offsets[b], v.begin() + offsets[b + 1]);
    };
    const VectorGradients alone =
        backend.reduce({rows_of(rows.g, offsets[b], lengths[b]), rows_of(rows.x, offsets[b], lengths[b]),
                        part(rows.mean), part(rows.rstd)},
                       {0, lengths[b]});
    for (const auto member :
         {&VectorGradients::bias, &VectorGradients::gain, &VectorGradients::shift, &VectorGradients::rms})
      for (size_t c = 0; c < kColumns; ++c)
        f.expect(same_bits((alone.*member)[c], (together.*member)[b * kColumns + c]), backend.name,
                 ", length ", lengths[b], ": ", (alone.*member)[c], " alone, ",
                 (together.*member)[b * kColumns + c]);
  }
}

}  // namespace dpfa::kernels::made
