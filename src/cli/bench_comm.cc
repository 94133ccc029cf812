// `dpfa bench comm`: what secure sums cost beside plain ones, between the ranks that mpirun started.
#include <sodium.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "comm/secagg/secure_sum.h"
#include "src/base/error.h"
#include "src/base/flat_buffer.h"
#include "src/base/random/chacha20.h"
#include "src/base/random/discrete_gaussian.h"
#include "src/cli/bench_cipher.h"
#include "src/cli/bench_report.h"
#include "src/cli/options.h"

namespace dpfa::cli {
namespace {

using comm::Communicator;
using comm::secagg::LaneLayout;
using comm::secagg::SecureSum;
using comm::secagg::SessionKeys;

struct Spec {
  std::string mode = "masked";
  int64_t elements = 10000000, lane_bits = 32, colluding_ranks = 1, repeats = 3;
  std::optional<double> stddev;
  bool json = false;
};

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

// The contribution of a rank: integers of a gradient and a share of noise, made chunk by chunk.
class Contribution {
 public:
  Contribution(const Spec& spec, LaneLayout layout)
      : law_(*spec.stddev), key_(RootKey::from_system().stream(Purpose::kNoise)), source_(layout.lanes) {
    for (int64_t i = 0; i < layout.lanes; ++i) source_.data()[i] = static_cast<int32_t>(i % 17) - 8;
  }
  SecureSum::Prepare gradient() const {
    return [this](int64_t first, std::span<int32_t> lanes) {
      std::copy_n(source_.data() + first, lanes.size(), lanes.begin());
    };
  }
  SecureSum::Prepare gradient_and_noise() {
    return [this](int64_t first, std::span<int32_t> lanes) {
      noise_.resize(lanes.size());
      law_.fill(key_, 1, static_cast<uint64_t>(first), noise_);
      for (size_t i = 0; i < lanes.size(); ++i)
        lanes[i] = source_.data()[first + static_cast<int64_t>(i)] + static_cast<int32_t>(noise_[i]);
    };
  }

 private:
  DiscreteGaussian law_;
  StreamKey key_;
  FlatBuffer<int32_t> source_;
  std::vector<int64_t> noise_;
};

class CommBench {
 public:
  CommBench(Communicator& world, const Spec& spec)
      : world_(world),
        spec_(spec),
        layout_{static_cast<int>(spec.lane_bits), spec.elements},
        lanes_(spec.elements),
        contribution_(spec, layout_),
        plain_(world, layout_.bits) {}

  std::vector<BenchResult> run() {
    if (spec_.mode == "masked") {
      keys_.emplace(agree(world_, static_cast<int>(spec_.colluding_ranks)));
      masked_.emplace(world_, layout_.bits, *keys_);
      secure_sums("comm/masked", contribution_.gradient_and_noise());
      secure_sums("comm/masked-without-noise", contribution_.gradient());
      masks_alone();
      ciphers();
    } else {
      plain_sums();
    }
    return results_;
  }

 private:
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
    result.details.update({{"ranks", world_.size()},
                           {"elements", spec_.elements},
                           {"lane_bits", spec_.lane_bits},
                           {"word_bytes_per_rank", layout_.bytes()},
                           {"ring_bytes_per_rank", ring * static_cast<double>(layout_.bytes())}});
    results_.push_back(std::move(result));
  }

  void secure_sums(const std::string& kind, const SecureSum::Prepare& prepare) {
    BenchResult result = in_turn(
        name(kind), [&] { masked_->sum(++step_, 0, lanes_.span(), prepare); },
        "plaintext: the same without masks and hash",
        [&] { plain_.sum(++step_, 0, lanes_.span(), prepare); });
    const int64_t slices =
        (layout_.lanes + comm::secagg::LaneHash::kSlice - 1) / comm::secagg::LaneHash::kSlice;
    result.details["check_bytes_per_rank"] = 32 * slices + 32;
    result.details["colluding_ranks"] = spec_.colluding_ranks;
    add(std::move(result));
  }

  void plain_sums() {
    add(in_turn(
        name("comm/plaintext"),
        [&] { plain_.sum(++step_, 0, lanes_.span(), contribution_.gradient_and_noise()); },
        "a bare integer all-reduce of as many words", [&] { bare_sum(); }));
  }

  void bare_sum() {
    if (layout_.word_bits() == 64) {
      words64_.resize(static_cast<size_t>(layout_.words()));
      world_.all_reduce_sum(std::span<uint64_t>(words64_));
    } else {
      words_.resize(static_cast<size_t>(layout_.words()));
      world_.all_reduce_sum(std::span<uint32_t>(words_));
    }
  }

  void mask_words() {
    const uint64_t nonce = comm::secagg::nonce_of(++step_, 0);
    layout_.word_bits() == 64 ? keys_->lanes.apply(nonce, 0, std::span(words64_))
                              : keys_->lanes.apply(nonce, 0, std::span(words_));
  }

  void masks_alone() {
    bare_sum();  // makes the words
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
      const size_t bytes = static_cast<size_t>(layout_.bytes());
      const int64_t keys =
          std::min<int64_t>(std::max<int64_t>(2, spec_.colluding_ranks + 1), world_.size() - 1);
      const StreamKey key = RootKey::from_system().stream(Purpose::kMask);
      std::vector<uint32_t> stream(1 << 14);
      const auto ours = [&](size_t count) {
        for (size_t word = 0; word < count / 4; word += stream.size())
          fill_words(key, 1, word, std::span(stream).first(std::min(stream.size(), count / 4 - word)));
      };
      BenchResult pass = time_in_turn(
          "comm/mask-pass/" + short_number(spec_.elements), [&] { mask_words(); },
          "the key stream of as many bytes",
          [&] {
            for (int64_t k = 0; k < keys; ++k) ours(bytes);
          },
          spec_.repeats);
      pass.details = {{"keys", keys}, {"share_of_keystream_rate", pass.baseline_seconds / pass.seconds}};
      results_.push_back(pass);

      const std::span<unsigned char> out(reinterpret_cast<unsigned char*>(stream.data()), 4 * stream.size());
      OpensslKeystream openssl;
      keystream("keystream/chacha20", "OpenSSL " + OpensslKeystream::version(), ours,
                [&] { openssl.fill(out); });
      const unsigned char sodium_key[32] = {1, 2, 3}, nonce[12] = {};
      keystream("keystream/chacha20/libsodium", std::string("libsodium ") + sodium_version_string(), ours,
                [&] { crypto_stream_chacha20_ietf(out.data(), out.size(), nonce, sodium_key); });
    }
    world_.barrier();
  }

  template <typename Ours>
  void keystream(const std::string& case_name, const std::string& baseline, const Ours& ours,
                 const std::function<void()>& part_of_theirs) {
    constexpr size_t kBytes = size_t{1} << 28, kPart = size_t{1} << 16;
    BenchResult result = time_in_turn(
        case_name, [&] { ours(kBytes); }, baseline,
        [&] {
          for (size_t begin = 0; begin < kBytes; begin += kPart) part_of_theirs();
        },
        spec_.repeats);
    result.details = {{"gigabytes_per_second", kBytes / result.seconds / 1e9},
                      {"baseline_gigabytes_per_second", kBytes / result.baseline_seconds / 1e9}};
    results_.push_back(result);
  }

  Communicator& world_;
  const Spec& spec_;
  const LaneLayout layout_;
  FlatBuffer<int32_t> lanes_;
  Contribution contribution_;
  SecureSum plain_;
  std::optional<SessionKeys> keys_;
  std::optional<SecureSum> masked_;
  std::vector<uint32_t> words_;
  std::vector<uint64_t> words64_;
  std::vector<BenchResult> results_;
  int64_t step_ = 0;
};

}  // namespace

int bench_comm(const Arguments& arguments) {
  Spec spec;
  Options options("mpirun -np N dpfa bench comm --mode plaintext|masked [--elements N] [--json]",
                  "Times sums over ranks, and the masks and ciphers of secure ones. Rank 0 prints.");
  options.add("mode", &spec.mode, "masked (beside plaintext) or plaintext (beside a bare all-reduce)")
      .add("elements", &spec.elements, "integers of each contribution")
      .add("lane_bits", &spec.lane_bits, "16, 21 or 32 bits for each")
      .add("colluding_ranks", &spec.colluding_ranks, "ranks that may collude: each rank shares one more keys")
      .add("stddev", &spec.stddev, "standard deviation of the noise; default 2^(lane_bits - 8)")
      .add("repeats", &spec.repeats, "timed repeats of each, after one that is not timed")
      .flag("json", &spec.json, "one JSON object");
  if (!options.parse(arguments)) return 0;
  if (spec.mode != "masked" && spec.mode != "plaintext")
    throw ConfigError("--mode " + spec.mode + ": masked or plaintext");
  if (spec.elements < 1 || spec.repeats < 1) throw ConfigError("--elements and --repeats must be at least 1");
  LaneLayout{static_cast<int>(spec.lane_bits), spec.elements}.check();
  if (!spec.stddev) spec.stddev = std::ldexp(1.0, static_cast<int>(spec.lane_bits) - 8);
  if (!(*spec.stddev >= DiscreteGaussian::kSmallest && *spec.stddev <= std::ldexp(1.0, 24)))
    throw ConfigError("--stddev must lie between 1 and 2^24");
  const auto world = comm::make_mpi_communicator(std::nullopt);
  if (spec.mode == "masked" && (world->size() < 2 || spec.colluding_ranks >= world->size()))
    throw ConfigError(
        "masks need two ranks and one that does not collude: start with mpirun -np N, N >= 2 and "
        "more than --colluding_ranks");
  const std::vector<BenchResult> results = CommBench(*world, spec).run();
  if (world->rank() == 0) print_results(results, 1, spec.json);
  return 0;
}

}  // namespace dpfa::cli
