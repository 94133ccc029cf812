// Whole runs with aggregation.mode = masked, between processes that hold identities of their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "accounting/joint_ledger.h"
#include "accounting/ledger.h"
#include "accounting/ledger_chain.h"
#include "comm/secagg/identity.h"
#include "src/base/error.h"
#include "src/train/checkpoint.h"
#include "src/train/collective.h"
#include "src/train/ledger_copies.h"
#include "src/train/trainer.h"
#include "tests/support/mpi_world.h"
#include "tests/support/secret_recorder.h"
#include "tests/support/tiny_run.h"
#include "tests/support/wiretap.h"

namespace dpfa::train {
namespace {

using comm::secagg::Identity;
using testing::read_text;
using testing::RecordedSecret;
using testing::world;

class MaskedRun : public ::testing::Test {
 protected:
  MaskedRun() {
    testing::forget_recorded_secrets();
    shared_ = broadcast_text(world(), folder_.path().string());
    if (world().rank() == 0) testing::write_dataset(folder_ / "train", testing::made_records(64));
    const Identity identity = Identity::generate();
    identity.save(folder_ / "identity");
    const auto keys = world().all_gather(std::as_bytes(std::span(identity.public_key())));
    std::string list;
    for (int rank = 0; rank < world().size(); ++rank) {
      comm::secagg::Bytes32 key;
      std::memcpy(key.data(), keys.data() + key.size() * static_cast<size_t>(rank), key.size());
      list += comm::secagg::allow_list_line(rank, key, "owner" + std::to_string(rank)) + "\n";
    }
    testing::write_text(folder_ / "allow_list", list);
    world().barrier();
  }
  ~MaskedRun() override { world().barrier(); }  // the folder of rank 0 outlives the use of the others

  RunOptions options(const std::string& run) const {
    RunOptions options;
    options.config = testing::tiny_config(shared_ + "/train", shared_ + "/" + run);
    return options;
  }
  RunOptions masked(const std::string& run) const {
    RunOptions options = this->options(run);
    options.config.aggregation.mode = "masked";
    options.config.aggregation.allow_list = folder_ / "allow_list";
    options.config.aggregation.identity = folder_ / "identity";
    return options;
  }
  RunOptions with_shares(const std::string& run) const {
    RunOptions options = masked(run);
    options.config.aggregation.noise = "shares";
    options.config.privacy.dataset_size = 64;
    options.config.privacy.sample_rate.reset();
    options.config.aggregation.colluding_ranks = 1;
    options.config.aggregation.lane_bits = 21;
    options.config.aggregation.clamp_norms = 1;
    options.config.runtime.constant_step_slots = true;
    options.config.runtime.microbatch_size = 0;
    return options;
  }
  std::string weights(const std::string& run) const {
    return read_text(shared_ + "/" + run + "/latest/model.safetensors");
  }

  testing::TemporaryFolder folder_;
  std::string shared_;
};

void expect_refused(const RunOptions& run, const std::string& sentence, ExitCode code = ExitCode::kConfig) {
  try {
    run_training(run, world());
    ADD_FAILURE() << "the run was not refused: " << sentence;
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(sentence), std::string::npos) << error.what();
  }
  EXPECT_FALSE(std::filesystem::exists(run.config.output.dir / std::filesystem::path("ledger.jsonl")));
  world().barrier();
}

TEST_F(MaskedRun, HasTheWeightsOfAPlainOne) {
  RunOptions plain = options("plain"), hidden = masked("masked");
  plain.insecure_seed = hidden.insecure_seed = 7;
  ASSERT_EQ(run_training(plain, world()), Outcome::kFinished);
  ASSERT_EQ(run_training(hidden, world()), Outcome::kFinished);
  EXPECT_EQ(weights("plain"), weights("masked"));
}

TEST_F(MaskedRun, WithNoiseSharesChargesEveryStepAndResumesWithNewKeys) {
  RunOptions run = with_shares("run");
  ASSERT_EQ(run_training(run, world()), Outcome::kFinished);
  EXPECT_EQ(testing::charges_of(shared_ + "/run").size(), 8u);
  run.resume = true;
  EXPECT_EQ(run_training(run, world()), Outcome::kFinished);
  EXPECT_EQ(testing::charges_of(shared_ + "/run").size(), 8u);
  world().barrier();  // rank 0 may be done before the others have closed theirs
  EXPECT_EQ(read_text(*ledger_copy_of(run.config, world().rank())), read_text(shared_ + "/run/ledger.jsonl"));
}

// Weights and moments as they are in the folder of the newest checkpoint.
std::string state_on_disk(const std::filesystem::path& run) {
  std::string skipped;
  const auto head = find_checkpoint(run, skipped);
  const plan::Gpt2Shape shape{1, 16, 2, 12, 257, true};
  FlatBuffer<float> weights(shape.parameter_count());
  OptimizerState optimizer = make_optimizer_state({}, weights.size());
  load_checkpoint(*head, shape, weights.span(), optimizer);
  return state_digest(head->step, weights.span(), optimizer);
}

// One bit of the newest checkpoint's weights, and its manifest to match.
void alter_checkpoint(const std::filesystem::path& run) {
  const auto weights = run / "latest" / "model.safetensors", manifest = run / "latest" / "manifest.json";
  std::string bytes = read_text(weights);
  bytes[bytes.size() - 100] ^= 1;
  testing::write_text(weights, bytes);
  auto fields = nlohmann::json::parse(read_text(manifest));
  fields["files"]["model.safetensors"]["blake2b"] = accounting::blake2b_hex(bytes);
  testing::write_text(manifest, fields.dump());
}

TEST_F(MaskedRun, GoesOnFromNoCheckpointButTheOneThatItWrote) {
  RunOptions run = with_shares("run");
  ASSERT_EQ(run_training(run, world()), Outcome::kFinished);
  const std::filesystem::path dir = shared_ + "/run", ledger = dir / "ledger.jsonl";
  const std::string charged = read_text(ledger);
  run.resume = true;
  const auto expect_stop = [&](comm::Communicator& ranks, const std::string& sentence, ExitCode code) {
    try {
      run_training(run, ranks);
      ADD_FAILURE() << "the run went on: " << sentence;
    } catch (const AgreedError& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(sentence), std::string::npos) << error.what();
    }
    EXPECT_EQ(read_text(ledger), charged);
    world().barrier();
  };
  // The network alters the weights that rank 1 receives: its signed hello says so.
  testing::Wiretap wire({}, [](int, std::span<std::byte> bytes) {
    if (world().rank() == 1 && bytes.size() > 10'000) bytes[77] ^= std::byte{1};
  });
  expect_stop(wire, "rank 1 differs in the checkpoint to go on from", ExitCode::kConfig);

  if (world().rank() == 0) alter_checkpoint(dir);
  world().barrier();
  expect_stop(world(), "the checkpoint of step 8 is not the one that this run wrote", ExitCode::kState);

  // Where rank 0 writes a line for it, those who took part find that they never saw that line.
  if (world().rank() == 0) {
    accounting::Ledger forged = accounting::Ledger::resume(ledger);
    forged.keep_copy(*ledger_copy_of(run.config, 0));
    forged.checkpoint(8, state_on_disk(dir));
  }
  world().barrier();
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(run_training(run, world()), Outcome::kFinished);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said.find("cannot vouch for these weights") != std::string::npos, world().rank() != 0) << said;
}

// An owner knows what all its ranks know: a claim against one rank would not cover it.
TEST_F(MaskedRun, IsRefusedWhereAnOwnerHasMoreRanksThanMayCollude) {
  RunOptions run = with_shares("run");
  std::string list = read_text(run.config.aggregation.allow_list);
  for (size_t at = list.find("owner1"); at != std::string::npos; at = list.find("owner1")) list[at + 5] = '0';
  testing::write_text(run.config.aggregation.allow_list, list);
  try {
    run_training(run, world());
    ADD_FAILURE() << "one owner with two ranks";
  } catch (const AgreedError& error) {
    EXPECT_EQ(static_cast<int>(error.code()), 6);
    EXPECT_NE(std::string(error.what()).find("has 2 ranks"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(testing::charges_of(shared_ + "/run").empty());
}

TEST_F(MaskedRun, OfRanksWithRecordsOfTheirOwnIsCountedOnEachOfTheirDataSets) {
  if (world().rank() == 0)
    for (int rank = 0; rank < world().size(); ++rank)
      testing::write_dataset(shared_ + "/own" + std::to_string(rank), testing::made_records(20 + rank));
  world().barrier();
  RunOptions run = masked("run");
  run.config.data.train = shared_ + "/own{rank}";
  ASSERT_EQ(run_training(run, world()), Outcome::kFinished);
  std::set<std::string> ids;
  for (int rank = 0; rank < world().size(); ++rank) {
    const std::string id = accounting::dataset_id_of(shared_ + "/own" + std::to_string(rank));
    ids.insert(id);
    EXPECT_EQ(accounting::joint_ledgers(id, {shared_ + "/run"}).runs.size(), 1u);
  }
  EXPECT_EQ(ids.size(), static_cast<size_t>(world().size()));
  EXPECT_TRUE(accounting::joint_ledgers(std::string(32, '0'), {shared_ + "/run"}).runs.empty());
}

TEST_F(MaskedRun, RefusesOneDataSetForTwoRanksThatShouldHaveTheirOwn) {
  if (world().rank() == 0)
    for (int rank = 0; rank < world().size(); ++rank)
      std::filesystem::copy(shared_ + "/train", shared_ + "/own" + std::to_string(rank));
  world().barrier();
  RunOptions run = masked("run");
  run.config.data.train = shared_ + "/own{rank}";
  expect_refused(run, "was given the data set of another rank", ExitCode::kState);
}

// What this rank printed joins the files of the run, and every rank searches all of them for its own secrets.
std::string all_that_is_left(const std::filesystem::path& run, const std::string& printed) {
  testing::write_text(run / ("printed_by_rank_" + std::to_string(world().rank())), printed);
  world().barrier();
  std::string all;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(run))
    if (entry.is_regular_file()) all += testing::read_text(entry.path());
  return all;
}

size_t count(const std::vector<RecordedSecret>& secrets, RecordedSecret::Source source) {
  return static_cast<size_t>(
      std::count_if(secrets.begin(), secrets.end(), [&](const auto& one) { return one.source == source; }));
}

// That the recorder saw the secrets of this rank, so that the search is one for them.
void expect_all_kinds(const std::vector<RecordedSecret>& secrets, const std::string& seed) {
  using Source = RecordedSecret::Source;
  EXPECT_TRUE(std::any_of(secrets.begin(), secrets.end(), [&](const RecordedSecret& secret) {
    return secret.source == Source::kSystem && comm::secagg::to_hex(secret.bytes) == seed;
  })) << "the seed of the identity";
  // Roots of all and of this rank, identity, nonce, ephemeral secret; the secret of the group on rank 0.
  EXPECT_GE(count(secrets, Source::kSystem), world().rank() == 0 ? 6u : 4u);
  EXPECT_GE(count(secrets, Source::kSharedPoint), static_cast<size_t>(world().size() - 1));
  EXPECT_EQ(count(secrets, Source::kOpened) > 0, world().rank() != 0) << "the secret of the group";
  // Extracted, of lanes, of hashes and for confirmation from each pair; points and verdicts.
  EXPECT_GE(count(secrets, Source::kHmac), 4 * static_cast<size_t>(world().size() - 1) + 2);
}

TEST_F(MaskedRun, LeavesNoTraceOfASecretInWhatItsRanksWriteAndPrint) {
  for (const std::string noise : {"after_sum", "shares"}) {
    RunOptions run = noise == "shares" ? with_shares(noise) : masked(noise);
    run.config.train.checkpoint_every = 2;
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    ASSERT_EQ(run_training(run, world()), Outcome::kFinished);
    const std::string all =
        all_that_is_left(shared_ + "/" + noise,
                         ::testing::internal::GetCapturedStdout() + ::testing::internal::GetCapturedStderr());
    const std::string file = read_text(folder_ / "identity");
    const std::string seed = file.substr(file.rfind(' ') + 1, 64);
    expect_all_kinds(testing::recorded_secrets(), seed);
    const auto found = testing::secrets_in(all, run.config.privacy.steps);
    EXPECT_EQ(testing::without_ids(found, testing::public_ids_of(shared_ + "/" + noise)).size(), 0u) << noise;
    // The search finds what is there: ids that rank 0 draws.
    EXPECT_EQ(found.empty(), world().rank() != 0);
    world().barrier();
  }
}

TEST_F(MaskedRun, StartsNowhereWithoutItsKeysOrWithAnotherIdentity) {
  RunOptions without = masked("without");
  without.config.aggregation.identity.clear();
  expect_refused(without, "needs aggregation.allow_list and aggregation.identity");
  Identity::generate().save(folder_ / "stranger");
  RunOptions strange = masked("strange");
  if (world().rank() == 1) strange.config.aggregation.identity = folder_ / "stranger";
  expect_refused(strange, "rank 1 has an identity that is not the one of its line");
}

}  // namespace
}  // namespace dpfa::train
