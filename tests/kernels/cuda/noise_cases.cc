// Noise and updates against the CPU's release and update, bit by bit.
#include "kernels/cuda/noisy_step.h"
#include "tests/kernels/cuda/suite.h"

namespace dpfa::kernels::cuda::suite {
namespace {

struct Shard {
  uint64_t first;
  int64_t count;
};
const std::vector<Shard>& shards() {
  static const std::vector<Shard> all = {
      {0, 0},      {0, 1}, {1, 127}, {127, 2}, {128, 4096}, {1000, 1001}, {(uint64_t{1} << 35) - 9, 300},
      {5, 1 << 20}};
  return all;
}

StreamKey key_of(uint64_t seed) { return RootKey::from_insecure_seed(seed).stream(Purpose::kNoise); }

// Of both signs; those of 64 bits are of all sizes up to 2^61.
template <typename Int>
std::vector<Int> some_sums(int64_t count) {
  std::vector<Int> sum(count);
  for (int64_t i = 0; i < count; ++i) {
    sum[i] = static_cast<int32_t>(static_cast<uint32_t>(i) * 2654435761u) >> 8;
    if constexpr (sizeof(Int) == 8) sum[i] *= Int{1} << i % 39;
  }
  return sum;
}

template <typename Int>
void expect_noise(Failures& f, Generator generator, double stddev) {
  for (const Shard& shard : shards()) {
    const Release release = {key_of(3), 9, {stddev, generator}, 0x1p-20 / 64};
    const std::vector<Int> sum = some_sums<Int>(shard.count);
    std::vector<float> expected(shard.count);
    kernels::add_noise(release.key, release.step, shard.first, release.spec, release.scale,
                       std::span<const Int>(sum), expected);
    const DeviceArray<Int> on_device{std::span<const Int>(sum)};
    DeviceArray<float> out(shard.count);
    add_noise<Int>(release, shard.first, shard.count, on_device.data(), out.data(), nullptr);
    f.expect(out.to_host() == expected, to_string(generator), ", ", 8 * sizeof(Int), " bits, elements ",
             shard.first, " + ", shard.count);
  }
}

void noise_has_the_bits_of_the_cpu(Failures& f) {
  for (const Generator generator : {Generator::kChaCha20, Generator::kPhilox})
    for (const double stddev : {0x1p20, 1000.5, 0.0}) {
      expect_noise<int32_t>(f, generator, stddev);
      expect_noise<int64_t>(f, generator, stddev);
    }
}

struct Buffers {
  std::vector<float> m, v, w;
  std::vector<uint16_t> compute;
  explicit Buffers(int64_t count) : compute(count) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) {
      m.push_back(normal(random) * 0.1f);
      v.push_back(std::abs(normal(random)) * 0.01f);
      w.push_back(normal(random));
    }
  }
};

// `plain`: all weights decay and none is kept in bfloat16 besides.
template <typename Int>
void expect_update(Failures& f, const char* kind, Generator generator, const Shard& shard, bool plain) {
  const AdamwStep adamw = {
      .learning_rate = 0.01, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.1, .step = 7};
  const Release release = {key_of(4), 2, {0x1p15, generator}, 0x1p-18};
  const std::vector<Int> sum = some_sums<Int>(shard.count);
  const int64_t n = shard.count;
  std::vector<DecayRange> ranges = {{0, n, true}};
  if (!plain) ranges = {{0, n / 3, true}, {n / 3, n / 3, true}, {n / 3, n / 2, false}, {n / 2, n, true}};
  std::vector<float> gradient(n);
  kernels::add_noise(release.key, release.step, shard.first, release.spec, release.scale,
                     std::span<const Int>(sum), gradient);
  const GradientChunk chunk = [&](int64_t begin, std::span<float>) { return gradient.data() + begin; };
  const DecayRanges decay(ranges, n);
  Buffers e(n);
  if (plain) e.compute.clear();
  DeviceArray<Int> s{std::span<const Int>(sum)};
  DeviceArray<float> m{std::span<const float>(e.m)}, v{std::span<const float>(e.v)},
      w{std::span<const float>(e.w)};
  DeviceArray<uint16_t> compute(plain ? 0 : n);
  if (kind[0] == 'A') {
    kernels::adamw_step(adamw, ranges, chunk, e.m, e.v, e.w, e.compute);
    adamw_step<Int>(release, adamw, decay, shard.first, s.data(),
                    {m.data(), v.data(), w.data(), compute.data()}, nullptr);
  } else {
    const bool momentum = kind[3] != '\0';
    const SgdStep sgd = {.learning_rate = 0.01, .momentum = momentum ? 0.9 : 0.0, .weight_decay = 0.1};
    kernels::sgd_step(sgd, ranges, chunk, momentum ? std::span<float>(e.v) : std::span<float>(), e.w,
                      e.compute);
    sgd_step<Int>(release, sgd, decay, shard.first, s.data(),
                  {momentum ? v.data() : nullptr, w.data(), compute.data()}, nullptr);
  }
  const bool same =
      m.to_host() == e.m && v.to_host() == e.v && w.to_host() == e.w && compute.to_host() == e.compute;
  f.expect(same, kind, ", ", to_string(generator), ", ", 8 * sizeof(Int), " bits, elements ", shard.first,
           " + ", n);
  f.expect(s.to_host() == std::vector<Int>(n, 0), kind, ": the sum is not zero afterwards");
}

void updates_have_the_bits_of_the_cpu(Failures& f) {
  for (const Shard& shard : shards())
    for (const char* const kind : {"AdamW", "SGD with momentum", "SGD"})
      for (const Generator generator : {Generator::kChaCha20, Generator::kPhilox}) {
        expect_update<int32_t>(f, kind, generator, shard, /*plain=*/false);
        expect_update<int64_t>(f, kind, generator, shard, /*plain=*/false);
        expect_update<int32_t>(f, kind, generator, shard, /*plain=*/true);
        expect_update<int64_t>(f, kind, generator, shard, /*plain=*/true);
      }
}

void low_bits_do_not_tell_a_sum_of_zero_from_a_sum_of_one(Failures& f) {
  // "One" is one standard deviation. All values lie on the grid, and their last eight bits have one law: a
  // chi-square of 255 degrees of freedom exceeds 390 with probability 1e-7, the false-alarm rate.
  constexpr int64_t kCount = 1 << 20;
  std::vector<std::vector<double>> residues(2, std::vector<double>(256));
  for (int x = 0; x < 2; ++x) {
    const DeviceArray<int32_t> sum{std::span<const int32_t>(std::vector<int32_t>(kCount, x << 20))};
    DeviceArray<float> out(kCount);
    add_noise<int32_t>({key_of(6), static_cast<uint64_t>(1 + x), {0x1p20}, 0x1p-20}, 0, kCount, sum.data(),
                       out.data(), nullptr);
    for (const float y : out.to_host()) {
      const double units = static_cast<double>(y) * 0x1p20;
      f.expect(units == std::floor(units), units, " lies between two steps of the grid");
      ++residues[x][static_cast<size_t>(static_cast<int64_t>(std::floor(units)) & 255)];
    }
  }
  double chi_square = 0;
  for (size_t i = 0; i < 256; ++i) {
    const double a = residues[0][i], b = residues[1][i];
    if (a + b > 0) chi_square += (a - b) * (a - b) / (a + b);
  }
  f.expect(chi_square < 390, "chi-square ", chi_square);
}

template <typename Call>
void expect_refusal(Failures& f, const char* what, const Call& call) {
  bool refused = false;
  try {
    call();
  } catch (const InternalError&) {
    refused = true;
  }
  f.expect(refused, what, " was not refused");
}

void refuses_what_it_cannot_release(Failures& f) {
  DeviceArray<int32_t> sum(4);
  DeviceArray<float> out(4);
  const auto noise = [&](double stddev, double scale) {
    add_noise<int32_t>({key_of(1), 0, {stddev}, scale}, 0, 4, sum.data(), out.data(), nullptr);
  };
  expect_refusal(f, "a negative standard deviation", [&] { noise(-1, 1); });
  expect_refusal(f, "a standard deviation that is no number", [&] { noise(std::nan(""), 1); });
  expect_refusal(f, "a standard deviation beyond 2^47", [&] { noise(0x1p48, 1); });
  expect_refusal(f, "a scale of zero", [&] { noise(1, 0); });
  expect_refusal(f, "ranges with a gap", [] {
    const std::vector<DecayRange> gap = {{0, 2, true}, {3, 4, true}};
    DecayRanges(gap, 4);
  });
}

}  // namespace

std::vector<Case> noise_cases() {
  return {{"NoiseHasTheBitsOfTheCpu", noise_has_the_bits_of_the_cpu},
          {"UpdatesHaveTheBitsOfTheCpu", updates_have_the_bits_of_the_cpu},
          {"LowBitsOfNoiseDoNotTellASumOfZeroFromASumOfOne",
           low_bits_do_not_tell_a_sum_of_zero_from_a_sum_of_one},
          {"NoiseRefusesWhatItCannotRelease", refuses_what_it_cannot_release}};
}

}  // namespace dpfa::kernels::cuda::suite
