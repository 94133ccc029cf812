// Whatever is done to a ledger's text shows, with a reason; epsilon comes from the charges alone.
#include "accounting/ledger_verify.h"

#include <gtest/gtest.h>

#include <sstream>

#include "accounting/accountant.h"
#include "accounting/ledger.h"
#include "src/base/error.h"
#include "tests/accounting/ledger_fixture.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::accounting {
namespace {

using dpfa::testing::TemporaryFolder;
using dpfa::testing::write_text;
using nlohmann::json;
using testing::event;
using testing::open_fields;

// 1 open, 2 start, 3..6 charges, 7 start, 8..9 charges.
Ledger sample_ledger(bool is_private = true) {
  Ledger ledger = Ledger::in_memory(open_fields(is_private));
  ledger.start({{"world_size", 1}});
  for (int i = 0; i < 4; ++i) ledger.charge(i, i, event());
  ledger.start({{"world_size", 2}});
  for (int i = 2; i < 4; ++i) ledger.charge(i, i + 2, event());
  return ledger;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

void expect_invalid(const std::string& text, const std::string& reason) {
  const LedgerReport report = verify_ledger_text(text);
  EXPECT_FALSE(report.valid);
  EXPECT_NE(report.reason.find(reason), std::string::npos) << report.reason;
}

TEST(LedgerVerify, EpsilonIsThatOfThePlanUntilMoreIsCharged) {
  const LedgerReport report = verify_ledger_text(sample_ledger().text());
  ASSERT_TRUE(report.valid) << report.reason;
  const Event step = event_from_json(event());
  EXPECT_EQ(report.steps, 6);
  EXPECT_EQ(report.planned_steps, 10);
  EXPECT_EQ(report.delta, 1e-5);
  EXPECT_EQ(report.epsilon, epsilon_of(step, 10, 1e-5).epsilon);
  EXPECT_EQ(report.epsilon_charged, epsilon_of(step, 6, 1e-5).epsilon);
  EXPECT_EQ(report.epsilon_outsiders, report.epsilon);
  Ledger longer = sample_ledger();
  for (int i = 0; i < 9; ++i) longer.charge(4 + i, 6 + i, event());
  EXPECT_EQ(verify_ledger_text(longer.text()).epsilon, epsilon_of(step, 15, 1e-5).epsilon);
}

// A run of four ranks that goes on with three: every charge names its own ranks and shares.
TEST(LedgerVerify, NoiseSharesHaveAnEpsilonForColludingRanksAndOneForEverybodyElse) {
  const testing::ShareRun four, three{.ranks = 3};
  const Ledger ledger = testing::ledger_of(four, 6, three, 4);
  const LedgerReport report = verify_ledger_text(ledger.text());
  ASSERT_TRUE(report.valid) << report.reason;
  const std::vector<Charge> inside = {{four.event(), 6}, {three.event(), 4}},
                            outside = {{seen_by_outsiders(four.event()), 6},
                                       {seen_by_outsiders(three.event()), 4}};
  EXPECT_EQ(report.epsilon, epsilon_of(inside, 1e-5).epsilon);
  EXPECT_EQ(report.epsilon_outsiders, epsilon_of(outside, 1e-5).epsilon);
  EXPECT_LT(report.epsilon_outsiders, report.epsilon);
  ASSERT_EQ(report.spending.size(), 2u);
  EXPECT_EQ(report.spending[0].event.at("ranks"), 4);
  EXPECT_EQ(report.spending[1].event.at("ranks"), 3);
  EXPECT_EQ(report.spending[1].event.at("share_sigma"), three.event().share_sigma);
}

// Whole ledgers written anew, with a chain that is intact, in which one number claims less epsilon.
TEST(LedgerVerify, NoiseSharesThatDoNotFitThePlanOrTheirStartShow) {
  const testing::ShareRun run;
  const json event = to_json(run.event());
  ASSERT_TRUE(verify_ledger_text(testing::ledger_of(run).text()).valid);
  const std::vector<std::pair<std::string, json>> alterations = {
      {"share_sigma", run.event().share_sigma * 1.001},
      {"ranks", 5},
      {"ranks", 3},
      {"colluding_ranks", 0},
      {"dimension", 999},
      {"rounded_dimension", 0},
      {"sensitivity", run.event().sensitivity * 0.999},
      {"sample_rate", 0.049}};
  for (const auto& [field, value] : alterations) {
    json altered = event;
    altered[field] = value;
    if (field == "dimension") altered["rounded_dimension"] = value;
    expect_invalid(testing::ledger_of(run.plan(), run.start(), altered).text(), "noise shares has ");
    // The plan's own event too, with starts that agree to it.
    json plan = run.plan(), start = run.start();
    plan["event"] = altered;
    for (const char* name : {"share_sigma", "colluding_ranks"}) start[name] = altered.at(name);
    start["world_size"] = altered.at("ranks");
    expect_invalid(testing::ledger_of(plan, start, altered).text(), "noise shares has ");
  }
}

TEST(LedgerVerify, APlanOfNoiseSharesWithASmallerSensitivityThanItsClippingNormShows) {
  testing::ShareRun run;
  json plan = run.plan(), event = to_json(run.event());
  event["sensitivity"] = run.event().sensitivity * 0.5;
  event["share_sigma"] = run.event().share_sigma * 0.5;
  plan["sensitivity"] = plan.at("sensitivity").get<double>() * 0.5;
  plan["event"] = event;
  json start = run.start();
  start["share_sigma"] = event.at("share_sigma");
  expect_invalid(testing::ledger_of(plan, start, event).text(), "sensitivity");
  for (const char* field : {"noise_multiplier", "lane_exponent", "trainable_parameters", "sensitivity"}) {
    json incomplete = run.plan();
    incomplete.erase(field);
    expect_invalid(testing::ledger_of(incomplete, run.start(), to_json(run.event())).text(), "not complete");
  }
}

TEST(LedgerVerify, ChargesOfOtherEventsAreComposedAsWhatTheyAre) {
  Ledger ledger = sample_ledger();
  const Event other = PoissonSampledGaussianEvent{0.5, 1};
  ledger.charge(4, 6, to_json(other));
  const std::vector<Charge> charges = {{event_from_json(event()), 6 + 3}, {other, 1}};
  const LedgerReport report = verify_ledger_text(ledger.text());
  EXPECT_EQ(report.epsilon, epsilon_of(charges, 1e-5).epsilon);
  ledger.charge(5, 7, {{"mechanism", "magic"}});
  expect_invalid(ledger.text(), "without an accountant");
}

TEST(LedgerVerify, SpendingIsListedByStartAndRangeOfSteps) {
  const LedgerReport report = verify_ledger_text(sample_ledger().text());
  ASSERT_EQ(report.spending.size(), 2u);
  EXPECT_EQ(report.spending[0].charges, 4);
  EXPECT_EQ(report.spending[0].first_step, 0);
  EXPECT_EQ(report.spending[0].last_step, 3);
  EXPECT_EQ(report.spending[1].incarnation, 1);
  EXPECT_EQ(report.spending[1].first_step, 2);
}

TEST(LedgerVerify, EveryAlteredByteShows) {
  const std::string text = sample_ledger().text();
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    std::string altered = text;
    altered[i] = altered[i] == '1' ? '2' : '1';
    EXPECT_FALSE(verify_ledger_text(altered).valid) << "byte " << i;
  }
  expect_invalid(std::string(text).replace(text.find("\"step\":1"), 8, "\"step\":9"), "altered");
}

TEST(LedgerVerify, EveryRemovedLineShows) {
  const std::vector<std::string> lines = lines_of(sample_ledger().text());
  for (size_t i = 0; i + 1 < lines.size(); ++i) {
    std::vector<std::string> fewer = lines;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    expect_invalid(joined(fewer), i == 0 ? "seq" : "removed");
  }
}

TEST(LedgerVerify, EveryExchangeOfNeighboursAndEveryDoubledLineShows) {
  const std::vector<std::string> lines = lines_of(sample_ledger().text());
  for (size_t i = 0; i + 1 < lines.size(); ++i) {
    std::vector<std::string> exchanged = lines;
    std::swap(exchanged[i], exchanged[i + 1]);
    expect_invalid(joined(exchanged), "seq");
    std::vector<std::string> doubled = lines;
    doubled.insert(doubled.begin() + static_cast<std::ptrdiff_t>(i), lines[i]);
    expect_invalid(joined(doubled), "seq");
  }
}

TEST(LedgerVerify, LinesAddedByHandShow) {
  const std::string text = sample_ledger().text();
  expect_invalid(text + "{\"kind\":\"charge\"}\n", "not an entry");
  expect_invalid(text + "\n", "not an entry");
  std::string digest;
  expect_invalid(
      text + chained_line(9, kNoDigest, "charge", {{"step", 9}, {"draw", 9}, {"event", event()}}, &digest) +
          "\n",
      "does not follow");
  const std::string head = sample_ledger().digest();
  expect_invalid(text + chained_line(9, head, "refund", {{"steps", 3}}, &digest) + "\n", "unknown");
  expect_invalid(
      text + chained_line(9, head, "charge", {{"step", 9}, {"draw", 5}, {"event", event()}}, &digest) + "\n",
      "two releases on one draw");
  expect_invalid(text + torn_line(9, head, 6, "nothing", &digest) + "\n", "not there");
}

TEST(LedgerVerify, TwoLedgersJoinedInOneFileShow) {
  const std::string text = sample_ledger().text();
  expect_invalid(text + text, "seq");
}

TEST(LedgerVerify, LinesRemovedFromTheEndShowAgainstANotedDigest) {
  const Ledger ledger = sample_ledger();
  std::vector<std::string> lines = lines_of(ledger.text());
  const std::vector<LedgerAnchor> anchors = {{ledger.lines(), ledger.digest(), "the checkpoint"}};
  EXPECT_TRUE(verify_ledger_text(ledger.text(), anchors).valid);
  EXPECT_TRUE(verify_ledger_text(ledger.text(), {{0, ledger.digest(), "--head"}}).valid);
  EXPECT_FALSE(verify_ledger_text(ledger.text(), {{3, ledger.digest(), "the checkpoint"}}).valid);
  lines.pop_back();
  EXPECT_TRUE(verify_ledger_text(joined(lines)).valid) << "the chain alone cannot show it";
  const LedgerReport report = verify_ledger_text(joined(lines), anchors);
  EXPECT_FALSE(report.valid);
  EXPECT_NE(report.reason.find("the checkpoint"), std::string::npos);
}

TEST(LedgerVerify, CheckpointsOfTheRunAreAnchors) {
  TemporaryFolder folder;
  const Ledger ledger = sample_ledger();
  write_text(folder / "ledger.jsonl", ledger.text());
  const std::filesystem::path checkpoint = folder / "checkpoints/step_00000004";
  std::filesystem::create_directories(checkpoint);
  EXPECT_FALSE(verify_ledger(folder.path()).valid) << "a checkpoint without manifest";
  write_text(checkpoint / "manifest.json",
             nlohmann::json{{"ledger", {{"lines", ledger.lines()}, {"digest", ledger.digest()}}}}.dump());
  EXPECT_TRUE(verify_ledger(folder.path()).valid);
  std::vector<std::string> lines = lines_of(ledger.text());
  lines.pop_back();
  write_text(folder / "ledger.jsonl", joined(lines));
  EXPECT_FALSE(verify_ledger(folder.path()).valid);
  EXPECT_THROW(verify_ledger(folder / "absent"), IoError);
}

TEST(LedgerVerify, PlanThatDoesNotFitItsDigestShows) {
  nlohmann::json fields = open_fields();
  fields["plan"]["steps"] = 3;
  expect_invalid(Ledger::in_memory(fields).text(), "plan_digest");
  fields.erase("plan");
  expect_invalid(Ledger::in_memory(fields).text(), "no plan");
}

TEST(LedgerVerify, ChargeBeforeAnyStartShows) {
  Ledger ledger = Ledger::in_memory(open_fields());
  ledger.charge(0, 0, event());
  expect_invalid(ledger.text(), "before any start");
}

TEST(LedgerVerify, RunWithoutPrivacyHasAnIntactChainAndNoEpsilon) {
  const LedgerReport report = verify_ledger_text(sample_ledger(false).text());
  EXPECT_TRUE(report.valid) << report.reason;
  EXPECT_FALSE(report.is_private);
  EXPECT_EQ(report.not_private_because, "insecure seed 7");
  EXPECT_TRUE(std::isinf(report.epsilon));
  EXPECT_EQ(report.steps, 6);
}

TEST(LedgerVerify, StampOnAPrivateRunTakesItsEpsilonAway) {
  nlohmann::json fields = open_fields();
  fields["stamps"] = {"debug-nonprivate"};
  EXPECT_FALSE(verify_ledger_text(Ledger::in_memory(fields).text()).is_private);
}

}  // namespace
}  // namespace dpfa::accounting
