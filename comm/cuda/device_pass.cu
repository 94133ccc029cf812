#include <algorithm>
#include <bit>
#include <limits>

#include "comm/cuda/device_pass.h"
#include "comm/cuda/lane_group.h"
#include "comm/cuda/slice_powers.h"
#include "src/base/check.h"
#include "src/base/cuda/device.h"

namespace dpfa::comm::cuda {
namespace {

using dpfa::cuda::check;
using dpfa::cuda::check_launch;
using dpfa::cuda::DeviceArray;
using random_internal::ShareTables;
using secagg::add_mod;

// What every kernel of a launch knows. Lane numbers count from lane 0 of the whole contribution.
struct Launch {
  int64_t first, end;         // lanes [first, end)
  const SlicePowers* powers;  // per slice; null: nothing is hashed
  uint64_t* partials;         // (blocks, 2)
};

template <int kLanes>
constexpr int64_t kLaneBytes = int64_t{4} * kLanes* kThreads;
constexpr int64_t kPowerBytes = int64_t{4} * 6 * kMostLanes;

__device__ uint64_t warp_sum(uint64_t value) {
  for (int half = 16; half > 0; half /= 2) value = add_mod(value, __shfl_down_sync(0xffffffffu, value, half));
  return value;
}

// The sum over the block at both points, in threads 0 and 1. `shared` holds two numbers for each warp.
__device__ uint64_t block_sum(const HashPair& own, uint64_t* shared) {
  constexpr int kWarps = kThreads / 32;
  const int warp = threadIdx.x / 32;
  for (int point = 0; point < 2; ++point) {
    const uint64_t sum = warp_sum(own.at[point]);
    if (threadIdx.x % 32 == 0) shared[point * kWarps + warp] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= 2) return 0;
  uint64_t total = 0;
  for (int w = 0; w < kWarps; ++w) total = add_mod(total, shared[threadIdx.x * kWarps + w]);
  return total;
}

// Where a block of kBlockLanes lanes lies: its slice, and its number there.
struct Place {
  int64_t slice, block;
};
__device__ Place place_of(int64_t lane, int64_t block_lanes) {
  return {lane / kHashSlice, lane % kHashSlice / block_lanes};
}

// Hashes the lanes of this block. All threads call it; lanes of a group beyond the end are 0.
template <int kBits>
__device__ void hash_block(const Launch& launch, const uint32_t* lanes, int32_t* lane_powers) {
  using G = Group<kBits>;
  __shared__ uint64_t sums[2 * kThreads / 32];
  const int64_t lane = launch.first + blockIdx.x * G::kBlockLanes;
  const Place place = place_of(lane, G::kBlockLanes);
  const SlicePowers& powers = launch.powers[place.slice];
  for (int i = threadIdx.x; i < 6 * G::kLanes; i += kThreads) lane_powers[i] = powers.lane[i];
  __syncthreads();
  HashPair own = {};
  if (lane + threadIdx.x * G::kLanes < launch.end)
    own = hash_of_group<G::kLanes>(lanes + threadIdx.x, kThreads, lane_powers, powers,
                                   static_cast<int>(threadIdx.x));
  const uint64_t sum = block_sum(own, sums);
  if (threadIdx.x < 2)
    launch.partials[2 * blockIdx.x + threadIdx.x] =
        secagg::multiply_mod(sum, block_power(powers, static_cast<int>(threadIdx.x), place.block));
}

// Sixteen words between registers and memory; `count` of them exist.
template <typename Word>
__device__ void store_group(Word* to, const Word (&words)[kGroupWords], int64_t count) {
  if (count >= kGroupWords) {
    constexpr int kPerVector = 16 / sizeof(Word);
    DPFA_UNROLL
    for (int v = 0; v < kGroupWords / kPerVector; ++v) {
      uint4 vector;
      memcpy(&vector, words + v * kPerVector, sizeof(vector));
      reinterpret_cast<uint4*>(to)[v] = vector;
    }
  } else {
    DPFA_UNROLL
    for (int w = 0; w < kGroupWords; ++w)
      if (w < count) to[w] = words[w];
  }
}
template <typename Word>
__device__ void load_group(const Word* from, Word (&words)[kGroupWords], int64_t count) {
  if (count >= kGroupWords) {
    constexpr int kPerVector = 16 / sizeof(Word);
    DPFA_UNROLL
    for (int v = 0; v < kGroupWords / kPerVector; ++v) {
      const uint4 vector = reinterpret_cast<const uint4*>(from)[v];
      memcpy(words + v * kPerVector, &vector, sizeof(vector));
    }
  } else {
    DPFA_UNROLL
    for (int w = 0; w < kGroupWords; ++w) words[w] = w < count ? from[w] : 0;
  }
}

// Words of the whole contribution that lie before lane `lane`, and of all lanes before `end`.
template <int kBits>
__device__ int64_t words_before(int64_t lane) {
  return (lane + Group<kBits>::kPerWord - 1) / Group<kBits>::kPerWord;
}

// Shared memory: the lanes of all threads side by side, and the powers of a group's lanes. A thread's
// lanes are kThreads apart, so that a loop over them needs no registers that are found by number.
template <int kBits, typename Source>
__global__ __launch_bounds__(kThreads, 2) void make_words_kernel(const Launch launch, const Source source,
                                                                 const MaskKey* keys, int key_count,
                                                                 uint64_t nonce,
                                                                 typename Group<kBits>::Word* words) {
  using G = Group<kBits>;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* lanes = reinterpret_cast<uint32_t*>(shared);
  auto* lane_powers = reinterpret_cast<int32_t*>(lanes + G::kLanes * kThreads);
  const int64_t first = launch.first + blockIdx.x * G::kBlockLanes + threadIdx.x * G::kLanes;
  uint32_t* own = lanes + threadIdx.x;
  if (first < launch.end) source.template load<G::kLanes>(first, launch.end, own, kThreads);
  if (launch.powers != nullptr) hash_block<kBits>(launch, lanes, lane_powers);
  if (first >= launch.end) return;
  typename G::Word group[kGroupWords];
  pack_group<kBits>(own, kThreads, group);
  const int64_t word = words_before<kBits>(first);
  mask_words(keys, key_count, nonce, static_cast<uint64_t>(word), group);
  const int64_t first_word = words_before<kBits>(launch.first);
  store_group(words + (word - first_word), group, words_before<kBits>(launch.end) - word);
}

template <int kBits>
__global__ __launch_bounds__(kThreads, 2) void read_words_kernel(const Launch launch,
                                                                 const typename Group<kBits>::Word* words,
                                                                 int32_t* out) {
  using G = Group<kBits>;
  extern __shared__ __align__(16) unsigned char shared[];
  auto* lanes = reinterpret_cast<uint32_t*>(shared);
  auto* lane_powers = reinterpret_cast<int32_t*>(lanes + G::kLanes * kThreads);
  const int64_t first = launch.first + blockIdx.x * G::kBlockLanes + threadIdx.x * G::kLanes;
  if (first < launch.end) {
    typename G::Word group[kGroupWords];
    const int64_t word = words_before<kBits>(first), before = words_before<kBits>(launch.first);
    load_group(words + (word - before), group, words_before<kBits>(launch.end) - word);
    unpack_group<kBits>(group, launch.end - first, lanes + threadIdx.x, kThreads);
    int32_t* to = out + (first - launch.first);
    DPFA_UNROLL
    for (int i = 0; i < G::kLanes; ++i)
      if (first + i < launch.end) to[i] = static_cast<int32_t>(lanes[i * kThreads + threadIdx.x]);
  }
  if (launch.powers != nullptr) hash_block<kBits>(launch, lanes, lane_powers);
}

// totals (slices, 2) += the partials of a launch; one block per slice, first_slice + blockIdx.x.
__global__ __launch_bounds__(kThreads) void add_partials_kernel(const Launch launch, int64_t block_lanes,
                                                                int64_t first_slice, uint64_t* totals) {
  __shared__ uint64_t sums[2 * kThreads / 32];
  const int64_t slice = first_slice + blockIdx.x;
  const int64_t begin = max(launch.first, slice * kHashSlice);
  const int64_t end = min(launch.end, (slice + 1) * kHashSlice);
  HashPair own = {};
  for (int64_t lane = begin + threadIdx.x * block_lanes; lane < end; lane += kThreads * block_lanes)
    for (int point = 0; point < 2; ++point)
      own.at[point] =
          add_mod(own.at[point], launch.partials[2 * ((lane - launch.first) / block_lanes) + point]);
  const uint64_t sum = block_sum(own, sums);
  if (threadIdx.x < 2) {
    uint64_t& total = totals[2 * slice + threadIdx.x];
    total = add_mod(total, sum);
  }
}

template <typename T>
void wipe(DeviceArray<T>& values) noexcept {
  if (values.size() > 0) cudaMemset(values.data(), 0, values.bytes());
}

void wait() { check(cudaDeviceSynchronize(), "wait for the device"); }

}  // namespace

struct DevicePass::State {
  int lane_bits;
  DeviceArray<MaskKey> keys;
  ShareTables tables = {};  // without the draw
  DeviceArray<int64_t> weights;
  DeviceArray<uint64_t> table;
  DeviceArray<SlicePowers> powers;
  DeviceArray<uint64_t> partials, made, read;

  explicit State(int bits) : lane_bits(bits) {}
  ~State() {
    cudaDeviceSynchronize();
    wipe(keys);
    wipe(powers);
    for (DeviceArray<uint64_t>* hashes : {&partials, &made, &read}) wipe(*hashes);
    explicit_bzero(&tables, sizeof(tables));
  }

  int64_t block_lanes() const {
    return int64_t{kThreads} * kGroupWords * (lane_bits == 21 ? 3 : 32 / lane_bits);
  }
  int group_lanes() const { return static_cast<int>(block_lanes() / kThreads); }

  Launch launch(LaneRange range) {
    DPFA_CHECK(range.first >= 0 && range.first % kAlignment == 0 && range.count >= 0, "lanes from ",
               range.first, ", ", range.count, " of them");
    const int64_t end = range.first + range.count, blocks = blocks_of(range);
    DPFA_CHECK(blocks <= std::numeric_limits<int32_t>::max(), range.count, " lanes in one call");
    DPFA_CHECK(powers.size() == 0 || end <= powers.size() * kHashSlice, "no points for lane ", end);
    if (powers.size() > 0 && partials.size() < 2 * blocks) {
      wait();  // earlier work may still use the buffer
      partials = DeviceArray<uint64_t>(2 * blocks);
    }
    return {range.first, end, powers.size() > 0 ? powers.data() : nullptr, partials.data()};
  }
  int64_t blocks_of(LaneRange range) const { return (range.count + block_lanes() - 1) / block_lanes(); }

  void add_partials(const Launch& launch, uint64_t* totals, cudaStream_t stream) {
    if (launch.powers == nullptr) return;
    const int64_t first_slice = launch.first / kHashSlice, last_slice = (launch.end - 1) / kHashSlice;
    add_partials_kernel<<<static_cast<unsigned>(last_slice - first_slice + 1), kThreads, 0, stream>>>(
        launch, block_lanes(), first_slice, totals);
    check_launch("add_partials");
  }

  template <int kBits, typename Source>
  void make(LaneRange range, const Source& source, uint64_t nonce, void* words, cudaStream_t stream) {
    if (range.count == 0) return;
    using Word = typename Group<kBits>::Word;
    const Launch l = launch(range);
    const int64_t bytes = kLaneBytes<Group<kBits>::kLanes> + kPowerBytes;
    const auto kernel = make_words_kernel<kBits, Source>;
    dpfa::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes, "make_words");
    kernel<<<static_cast<unsigned>(blocks_of(range)), kThreads, static_cast<size_t>(bytes), stream>>>(
        l, source, keys.data(), static_cast<int>(keys.size()), nonce, static_cast<Word*>(words));
    check_launch("make_words");
    add_partials(l, made.data(), stream);
  }
  template <int kBits>
  void take(LaneRange range, const void* words, int32_t* lanes, cudaStream_t stream) {
    if (range.count == 0) return;
    const Launch l = launch(range);
    const int64_t bytes = kLaneBytes<Group<kBits>::kLanes> + kPowerBytes;
    const auto kernel = read_words_kernel<kBits>;
    dpfa::cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes, "read_words");
    kernel<<<static_cast<unsigned>(blocks_of(range)), kThreads, static_cast<size_t>(bytes), stream>>>(
        l, static_cast<const typename Group<kBits>::Word*>(words), lanes);
    check_launch("read_words");
    add_partials(l, read.data(), stream);
  }
  template <typename Source>
  void make_any(LaneRange range, const Source& source, uint64_t nonce, void* words, cudaStream_t stream) {
    lane_bits == 16   ? make<16>(range, source, nonce, words, stream)
    : lane_bits == 21 ? make<21>(range, source, nonce, words, stream)
                      : make<32>(range, source, nonce, words, stream);
  }

  SliceHashes hashes(const DeviceArray<uint64_t>& totals, cudaStream_t stream) const {
    check(cudaStreamSynchronize(stream), "wait for the pass over a contribution");
    const std::vector<uint64_t> flat = totals.to_host();
    SliceHashes result(flat.size() / 2);
    for (size_t i = 0; i < flat.size(); ++i) result[i / 2][i % 2] = flat[i];
    return result;
  }
};

DevicePass::DevicePass(int lane_bits) : state_(std::make_unique<State>(lane_bits)) {
  DPFA_CHECK(lane_bits == 16 || lane_bits == 21 || lane_bits == 32, "lanes of ", lane_bits, " bits");
}

DevicePass::~DevicePass() = default;

void DevicePass::set_share(const ShareSpec& spec) {
  DPFA_CHECK(spec.share.clamp > 0 && spec.share.clamp <= INT32_MAX, "clamp ", spec.share.clamp);
  DPFA_CHECK(spec.share.dither_shift >= 0 && spec.share.dither_shift <= 32, "a dither of ",
             spec.share.dither_shift, " bits");
  DPFA_CHECK(!spec.weights.empty() && spec.table.size() >= 4 && std::has_single_bit(spec.table.size()),
             spec.weights.size(), " levels of noise, a table of ", spec.table.size(), " words");
  wait();
  state_->weights = DeviceArray<int64_t>(spec.weights);
  state_->table = DeviceArray<uint64_t>(spec.table);
  state_->tables = {{},
                    {},
                    0,
                    spec.share.clamp,
                    spec.share.dither_shift,
                    static_cast<int32_t>(spec.weights.size()),
                    std::countr_zero(spec.table.size() / 2),
                    state_->weights.data(),
                    state_->table.data()};
  std::copy_n(spec.noise.words().begin(), 8, state_->tables.noise_key);
  std::copy_n(spec.dither.words().begin(), 8, state_->tables.dither_key);
}

void DevicePass::set_keys(std::span<const secagg::Masks::Key> keys) {
  std::vector<MaskKey> plain;
  for (const secagg::Masks::Key& key : keys) {
    plain.push_back({{}, key.subtract ? 1u : 0u});
    std::copy_n(key.key.words().begin(), 8, plain.back().words);
  }
  wait();
  wipe(state_->keys);
  state_->keys = DeviceArray<MaskKey>(std::span<const MaskKey>(plain));
  explicit_bzero(plain.data(), plain.size() * sizeof(MaskKey));
}

void DevicePass::set_points(const SliceHashes& points) {
  wait();
  wipe(state_->powers);
  std::vector<SlicePowers> powers;
  for (const auto& of_slice : points) powers.push_back(slice_powers(of_slice, state_->group_lanes()));
  state_->powers = DeviceArray<SlicePowers>(std::span<const SlicePowers>(powers));
  explicit_bzero(powers.data(), powers.size() * sizeof(SlicePowers));
  const std::vector<uint64_t> zeros(2 * points.size());
  state_->made = DeviceArray<uint64_t>(std::span<const uint64_t>(zeros));
  state_->read = DeviceArray<uint64_t>(std::span<const uint64_t>(zeros));
}

void DevicePass::make_words(LaneRange range, uint64_t draw, uint64_t nonce, const int64_t* sum, void* words,
                            cudaStream_t stream) {
  DPFA_CHECK(state_->tables.levels > 0, "a contribution without its share of the noise");
  RankSum source = {state_->tables, sum, range.first};
  source.share.draw = draw;
  state_->make_any(range, source, nonce, words, stream);
  explicit_bzero(&source, sizeof(source));  // the launch has its own copy
}

void DevicePass::make_words(LaneRange range, uint64_t nonce, const int32_t* lanes, void* words,
                            cudaStream_t stream) {
  state_->make_any(range, PlainLanes{lanes, range.first}, nonce, words, stream);
}

void DevicePass::read_words(LaneRange range, const void* words, int32_t* lanes, cudaStream_t stream) {
  state_->lane_bits == 16   ? state_->take<16>(range, words, lanes, stream)
  : state_->lane_bits == 21 ? state_->take<21>(range, words, lanes, stream)
                            : state_->take<32>(range, words, lanes, stream);
}

SliceHashes DevicePass::made_hashes(cudaStream_t stream) const {
  return state_->hashes(state_->made, stream);
}
SliceHashes DevicePass::read_hashes(cudaStream_t stream) const {
  return state_->hashes(state_->read, stream);
}

}  // namespace dpfa::comm::cuda
