// `dpfa bench comm`: what secure sums cost beside plain ones, between the ranks that mpirun started.
#include <omp.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <thread>

#include "accounting/noise_shares.h"
#include "comm/secagg/lane_hash.h"
#include "comm/secagg/secure_sum.h"
#include "src/base/error.h"
#include "src/base/flat_buffer.h"
#include "src/base/random/rank_contribution.h"
#include "src/cli/bench_cipher.h"
#include "src/cli/bench_report.h"
#include "src/cli/options.h"
#include "src/plan/share_layout.h"
#include "src/plan/value.h"
#include "src/train/run_setup.h"

namespace dpfa::cli {
namespace {

using comm::Communicator;
using comm::secagg::LaneLayout;
using comm::secagg::SecureSum;
using comm::secagg::SessionKeys;

struct Spec {
  std::string mode = "masked";
  int64_t elements = 10000000, lane_bits = 32, colluding_ranks = 1, repeats = 3, threads = 0;
  double noise_multiplier = 1;
  std::optional<double> step_seconds;
  bool json = false;
};

// What a plan gives each rank to do where sums are dithered (numerics = fp32) and nobody's norm exceeds 1.
RankShare share_of(const Spec& spec, int ranks) {
  plan::PrivacyConfig privacy;
  privacy.max_grad_norm = 1;
  privacy.numerics = "fp32";
  plan::AggregationConfig aggregation;
  aggregation.ranks = ranks;
  aggregation.colluding_ranks = std::min<int64_t>(spec.colluding_ranks, ranks - 1);
  aggregation.lane_bits = spec.lane_bits;
  const RankShare share =
      plan::share_layout(privacy, aggregation, spec.elements, spec.noise_multiplier).share;
  if (!(share.share_sigma >= accounting::kSmallestShare))
    throw ConfigError("--noise_multiplier " + plan::format_real(spec.noise_multiplier) +
                      ": shares of deviation " + plan::format_real(share.share_sigma) +
                      " on the grid are too narrow to be drawn; expected at least " +
                      plan::format_real(accounting::kSmallestShare));
  return share;
}

// Stops before memory runs out: lanes, words that lanes share (of two sums and the bare one), fp32 numbers,
// and what MPI takes for a sum.
void check_memory(const Spec& spec, const Communicator& world) {
  const LaneLayout layout{static_cast<int>(spec.lane_bits), spec.elements};
  const double lanes = 4 * static_cast<double>(spec.elements), words = static_cast<double>(layout.bytes());
  const double floats = spec.mode == "masked" ? lanes : 0;
  const double needed = world.local_size() * (lanes + floats + (spec.lane_bits == 32 ? 1 : 4) * words);
  expect_memory(needed, std::to_string(spec.elements) + " elements on " + std::to_string(world.local_size()) +
                            " ranks of this host");
}

// 10000000 -> "1e7"
std::string short_number(int64_t number) {
  int zeros = 0;
  int64_t rest = number;
  for (; rest % 10 == 0 && rest > 1; rest /= 10) ++zeros;
  return rest == 1 && zeros > 0 ? "1e" + std::to_string(zeros) : std::to_string(number);
}

// Keys as a run would agree on them, with identities that live for this benchmark.
SessionKeys agree(Communicator& world, int colluding_ranks) {
  const auto identity = comm::secagg::Identity::generate();
  const comm::secagg::Bytes32& own = identity.public_key();
  const std::vector<std::byte> all = world.all_gather(std::as_bytes(std::span(own)));
  std::string list;
  for (int rank = 0; rank < world.size(); ++rank) {
    comm::secagg::Bytes32 key;
    std::memcpy(key.data(), all.data() + static_cast<size_t>(rank) * key.size(), key.size());
    list += comm::secagg::allow_list_line(rank, key, "bench") + "\n";
  }
  return comm::secagg::agree_on_keys(
      world, identity, comm::secagg::AllowList::parse(list, "of the benchmark"), colluding_ranks, {});
}

// What a rank adds: the integers of a gradient, and what a release makes of a sum in their place.
class Contribution {
 public:
  explicit Contribution(const RankShare& share)
      : root_(RootKey::from_system()),
        part_(share, root_.stream(Purpose::kNoise), root_.stream(Purpose::kDither)) {}

  static void gradient(int64_t first, std::span<int32_t> lanes) {
    for (size_t i = 0; i < lanes.size(); ++i)
      lanes[i] = static_cast<int32_t>((static_cast<size_t>(first) + i) % 17) - 8;
  }
  // Dithered, cut and under the rank's share of the noise.
  SecureSum::Prepare release(int64_t draw) const {
    return [this, draw](int64_t first, std::span<int32_t> lanes) {
      std::array<int64_t, 1024> sum;
      for (size_t begin = 0; begin < lanes.size(); begin += sum.size()) {
        const std::span<int32_t> part = lanes.subspan(begin, std::min(sum.size(), lanes.size() - begin));
        std::copy(part.begin(), part.end(), sum.begin());
        part_.make(static_cast<uint64_t>(draw), static_cast<uint64_t>(first) + begin,
                   std::span(sum).first(part.size()), part);
      }
    };
  }

 private:
  RootKey root_;
  RankContribution part_;
};

class CommBench {
 public:
  CommBench(Communicator& world, const Spec& spec)
      : world_(world),
        spec_(spec),
        layout_{static_cast<int>(spec.lane_bits), spec.elements},
        share_(share_of(spec, world.size())),
        lanes_(spec.elements),
        contribution_(share_),
        plain_(world, layout_.bits) {}

  std::vector<BenchResult> run() {
    if (spec_.mode != "plaintext") {
      const auto session = [&] { return agree(world_, static_cast<int>(spec_.colluding_ranks)); };
      keys_.emplace(session());
      masked_.emplace(world_, layout_.bits, session());
    }
    if (spec_.mode == "masked") {
      secure_sums("comm/masked", [&] { return contribution_.release(step_); });
      secure_sums("comm/masked-without-noise", [] { return Contribution::gradient; });
      beside_floats();
      masks_alone();
      ciphers();
    } else if (spec_.mode == "release") {
      release();
    } else {
      plain_sums();
    }
    return results_;
  }

 private:
  static constexpr int64_t kChunk = 3072;  // lanes or words that a thread works on at once, as in SecureSum

  std::string name(const std::string& kind) const {
    return kind + "/ranks" + std::to_string(world_.size()) + "/" + short_number(spec_.elements);
  }

  // All ranks work in turn on both; a piece of work ends when the last rank has ended.
  BenchResult in_turn(const std::string& case_name, const std::function<void()>& work,
                      const std::string& baseline, const std::function<void()>& baseline_work) {
    const auto together = [&](const std::function<void()>& piece) {
      return [&] {
        piece();
        world_.barrier();
      };
    };
    world_.barrier();
    return time_in_turn(case_name, together(work), baseline, together(baseline_work), spec_.repeats);
  }

  void add(BenchResult result) {
    const double ring = 2.0 * (world_.size() - 1) / world_.size();
    const int on_host = omp_get_max_threads() * world_.local_size();
    const double cores = std::min(static_cast<double>(on_host), 1.0 * std::thread::hardware_concurrency());
    result.details.update({{"ranks", world_.size()},
                           {"ns_per_element_and_core", 1e9 * result.seconds * cores / world_.local_size() /
                                                           static_cast<double>(spec_.elements)},
                           {"threads_per_rank", omp_get_max_threads()},
                           {"elements", spec_.elements},
                           {"share_sigma", share_.share_sigma},
                           {"dither_shift", share_.dither_shift},
                           {"peak_rss_mib_of_all_ranks", peak_mib_of_all_ranks()},
                           {"lane_bits", spec_.lane_bits},
                           {"word_bytes_per_rank", layout_.bytes()},
                           {"ring_bytes_per_rank", ring * static_cast<double>(layout_.bytes())}});
    results_.push_back(std::move(result));
  }

  int64_t peak_mib_of_all_ranks() {
    struct rusage usage {};
    getrusage(RUSAGE_SELF, &usage);
    int64_t kib = usage.ru_maxrss;
    world_.all_reduce_sum(std::span(&kib, 1));
    return kib / 1024;
  }

  void secure_sums(const std::string& kind, const std::function<SecureSum::Prepare()>& prepare) {
    BenchResult result = in_turn(
        name(kind), [&] { ++step_, masked_->sum(step_, 0, lanes_.span(), prepare()); },
        "plaintext: the same without masks and hash",
        [&] { ++step_, plain_.sum(step_, 0, lanes_.span(), prepare()); });
    const int64_t slices =
        (layout_.lanes + comm::secagg::LaneHash::kSlice - 1) / comm::secagg::LaneHash::kSlice;
    result.details["check_bytes_per_rank"] = 32 * slices + 32;
    result.details["colluding_ranks"] = spec_.colluding_ranks;
    add(std::move(result));
  }

  // What runs without privacy sum in its place.
  void beside_floats() {
    const auto masked = [&] { ++step_, masked_->sum(step_, 0, lanes_.span(), Contribution::gradient); };
    FlatBuffer<float> floats(layout_.lanes);
    add(in_turn(name("comm/masked-beside-fp32"), masked,
                "as many fp32 numbers, reduced on rank 0 and sent from there",
                [&] { world_.all_reduce_sum(floats.span()); }));
    // MPI has no bf16: the integers take its bytes, not the time of its additions.
    std::vector<uint32_t> halves(static_cast<size_t>(layout_.lanes + 1) / 2);
    add(in_turn(name("comm/masked-beside-bf16-bytes"), masked, "integers of as many bytes as bf16 numbers",
                [&] { world_.all_reduce_sum(std::span(halves)); }));
  }

  // All that a private step adds where ranks release by shares: beside the sum of a step without privacy.
  void release() {
    BenchResult result = in_turn(
        name("comm/release"),
        [&] { ++step_, masked_->sum(step_, 0, lanes_.span(), contribution_.release(step_)); },
        "a bare integer all-reduce of as many words", [&] { bare_sum(); });
    if (spec_.step_seconds) {
      result.details["step_seconds"] = *spec_.step_seconds;
      result.details["share_of_step"] = result.seconds / *spec_.step_seconds;
      // A step without privacy sums too.
      result.details["share_of_step_beside_the_sum"] =
          (result.seconds - result.baseline_seconds) / *spec_.step_seconds;
    }
    add(std::move(result));
    // Its parts, on all ranks at once.
    add(in_turn(
        name("comm/release/dither-and-noise"),
        [&] {
          const SecureSum::Prepare prepare = contribution_.release(++step_);
          by_chunks(
              [&](int64_t first, int64_t count) { prepare(first, lanes_.span().subspan(first, count)); });
        },
        "masks: " + std::to_string(mask_keys()) + " keys", [&] { mask_words(); }));
    const comm::secagg::LaneHash hash(RootKey::from_system().stream(Purpose::kMask), 0, 0);
    add(in_turn(
        name("comm/release/hash-twice"),
        [&] {
          for (int pass = 0; pass < 2; ++pass)
            by_chunks([&](int64_t first, int64_t count) {
              const auto part = hash.part(first, lanes_.span().subspan(first, count));
              asm volatile("" : : "r"(part.data()) : "memory");
            });
        },
        "a bare integer all-reduce of as many words", [&] { bare_sum(); }));
  }

  // Calls call(first, count) for the lanes of chunks as SecureSum has them, by all threads.
  template <typename Call>
  void by_chunks(const Call& call) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < layout_.lanes; first += kChunk)
      call(first, std::min(kChunk, layout_.lanes - first));
  }

  void plain_sums() {
    add(in_turn(
        name("comm/plaintext"),
        [&] { ++step_, plain_.sum(step_, 0, lanes_.span(), contribution_.release(step_)); },
        "a bare integer all-reduce of as many words", [&] { bare_sum(); }));
  }

  // Lanes of 32 bits are words: one buffer holds both.
  std::span<uint32_t> words() {
    if (layout_.bits == 32) return {reinterpret_cast<uint32_t*>(lanes_.data()), lanes_.span().size()};
    words_.resize(static_cast<size_t>(layout_.words()));
    return words_;
  }
  std::span<uint64_t> words64() {
    words64_.resize(static_cast<size_t>(layout_.words()));
    return words64_;
  }

  void bare_sum() {
    layout_.word_bits() == 64 ? world_.all_reduce_sum(words64()) : world_.all_reduce_sum(words());
  }

  void mask_words() {
    const uint64_t nonce = comm::secagg::nonce_of(++step_, 0);
    const auto apply = [&](const auto& all) {
      const auto size = static_cast<int64_t>(all.size());
#pragma omp parallel for schedule(static)
      for (int64_t first = 0; first < size; first += kChunk)
        keys_->lanes.apply(nonce, static_cast<uint64_t>(first),
                           all.subspan(first, std::min(kChunk, size - first)));
    };
    layout_.word_bits() == 64 ? apply(words64()) : apply(words());
  }

  int64_t mask_keys() const {
    return std::min<int64_t>(std::max<int64_t>(2, spec_.colluding_ranks + 1), world_.size() - 1);
  }

  void masks_alone() {
    add(in_turn(
        name("comm/masks-alone"),
        [&] {
          mask_words();
          bare_sum();
        },
        "a bare integer all-reduce of as many words", [&] { bare_sum(); }));
  }

  // On rank 0 while the others wait.
  void ciphers() {
    if (world_.rank() == 0) {
      const StreamKey key = RootKey::from_system().stream(Purpose::kMask);
      const int64_t keys = mask_keys();
      const int threads = omp_get_max_threads();
      omp_set_num_threads(1);  // ciphers are compared thread by thread
      BenchResult pass = time_in_turn(
          "comm/mask-pass/" + short_number(spec_.elements), [&] { mask_words(); },
          "the key stream of as many bytes",
          [&] {
            for (int64_t k = 0; k < keys; ++k) make_keystream(key, layout_.bytes());
          },
          spec_.repeats);
      pass.details.update(
          {{"keys", keys}, {"share_of_keystream_rate", pass.baseline_seconds / pass.seconds}});
      results_.push_back(pass);
      for (BenchResult& result : compare_keystreams(spec_.repeats)) results_.push_back(std::move(result));
      omp_set_num_threads(threads);
    }
    world_.barrier();
  }

  Communicator& world_;
  const Spec& spec_;
  const LaneLayout layout_;
  const RankShare share_;
  FlatBuffer<int32_t> lanes_;
  Contribution contribution_;
  SecureSum plain_;
  std::optional<SessionKeys> keys_;  // of masks alone
  std::optional<SecureSum> masked_;
  std::vector<uint32_t> words_;
  std::vector<uint64_t> words64_;
  std::vector<BenchResult> results_;
  int64_t step_ = 0;
};

}  // namespace

int bench_comm(const Arguments& arguments) {
  Spec spec;
  Options options("mpirun -np N dpfa bench comm --mode plaintext|masked|release [--elements N] [--json]",
                  "Times sums over ranks, and the masks and ciphers of secure ones. Rank 0 prints.");
  options
      .add("mode", &spec.mode,
           "masked (beside plaintext); plaintext, or the whole release of a step (both beside a bare "
           "all-reduce)")
      .add("elements", &spec.elements, "integers of each contribution")
      .add("lane_bits", &spec.lane_bits, "16, 21 or 32 bits for each")
      .add("colluding_ranks", &spec.colluding_ranks, "ranks that may collude: each rank shares one more keys")
      .add("noise_multiplier", &spec.noise_multiplier, "of the plan whose noise, dither and cuts are timed")
      .add(
          "step_seconds", &spec.step_seconds,
          "--mode release: of one rank's step on as many threads (dpfa bench step), to state the share of it")
      .add("threads", &spec.threads, "threads of each rank; 0: this rank's share of the host's cores")
      .add("repeats", &spec.repeats, "timed repeats of each, after one that is not timed")
      .flag("json", &spec.json, "one JSON object");
  if (!options.parse(arguments)) return 0;
  if (spec.mode != "masked" && spec.mode != "plaintext" && spec.mode != "release")
    throw ConfigError("--mode " + spec.mode + ": masked, plaintext or release");
  if (spec.elements < 1 || spec.repeats < 1) throw ConfigError("--elements and --repeats must be at least 1");
  LaneLayout{static_cast<int>(spec.lane_bits), spec.elements}.check();
  if (!(spec.noise_multiplier > 0) || spec.colluding_ranks < 0 || spec.threads < 0 ||
      !(spec.step_seconds.value_or(1) > 0))
    throw ConfigError(
        "--noise_multiplier and --step_seconds must be above 0, --colluding_ranks and --threads at least 0");
  const auto world = comm::make_mpi_communicator(std::nullopt);
  if (spec.mode != "plaintext" && (world->size() < 2 || spec.colluding_ranks >= world->size()))
    throw ConfigError(
        "masks need two ranks and one that does not collude: start with mpirun -np N, N >= 2 and "
        "more than --colluding_ranks");
  check_memory(spec, *world);
  train::set_threads(spec.threads, world->local_size());
  const std::vector<BenchResult> results = CommBench(*world, spec).run();
  if (world->rank() == 0) print_results(results, omp_get_max_threads(), spec.json);
  return 0;
}

}  // namespace dpfa::cli
