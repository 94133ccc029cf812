// `dpfa debug gradients` against autograd in double, one example at a time, and against the golden gradients.
#include "src/train/gradient_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <span>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/model/gpt2_io.h"
#include "src/model/safetensors.h"
#include "tests/support/engine_oracle.h"
#include "tests/support/program.h"
#include "tests/support/temporary_folder.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;
using testing::run_program;
using testing::TemporaryFolder;

const plan::Gpt2Shape kShape = {2, 24, 3, 20, 31, true};

using IntegerTensors =
    std::map<std::string, std::pair<std::vector<int64_t>, std::vector<int64_t>>>;  // shape, values

void write_batch(const fs::path& path, const IntegerTensors& tensors) {
  std::vector<model::TensorToWrite> list;
  for (const auto& [name, tensor] : tensors)
    list.push_back({name, model::DType::kI64, tensor.first, std::as_bytes(std::span(tensor.second))});
  model::write_safetensors(path, list);
}

// (4, 9): a full example, a padded one, a prompt without targets, and no target at all.
IntegerTensors made_batch() {
  IntegerTensors batch;
  auto& [id_shape, ids] = batch["input_ids"];
  auto& [mask_shape, mask] = batch["attention_mask"];
  auto& [label_shape, labels] = batch["labels"];
  id_shape = mask_shape = label_shape = {4, 9};
  for (int64_t b = 0; b < 4; ++b) {
    for (int64_t t = 0; t < 9; ++t) {
      const bool padding = b == 1 && t >= 6;
      ids.push_back((5 * t + 11 * b + t * t) % kShape.vocab);
      mask.push_back(padding ? 0 : 1);
      labels.push_back(padding || b == 3 || (b == 2 && t < 4) ? -100 : ids.back());
    }
  }
  return batch;
}

double distance(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum);
}

std::vector<float> floats_of(const model::SafetensorsFile& file, const std::string& name) {
  std::vector<float> values(file.at(name).elements());
  file.read_floats(name, values);
  return values;
}

// The comparison of /golden/SCHEMA.md, tensor by tensor.
void expect_equal_reports(const fs::path& found_path, const fs::path& expected_path) {
  const auto found = model::SafetensorsFile::open(found_path),
             expected = model::SafetensorsFile::open(expected_path);
  EXPECT_EQ(found.tensors().size(), expected.tensors().size());
  double squares = 0;
  for (const auto& [name, view] : expected.tensors())
    if (name.starts_with("clipped_sum/"))
      squares += std::pow(test::l2(std::span<const float>(floats_of(expected, name))), 2);
  ASSERT_GT(squares, 0);
  for (const auto& [name, view] : expected.tensors()) {
    ASSERT_TRUE(found.contains(name)) << name;
    ASSERT_EQ(found.at(name).shape, view.shape) << name;
    ASSERT_EQ(found.at(name).dtype, model::DType::kF32) << name;
    const std::vector<float> a = floats_of(found, name), b = floats_of(expected, name);
    const double all = name.starts_with("clipped_sum/") ? std::sqrt(squares) : 0;
    EXPECT_LE(distance(a, b), 1e-4 * test::l2(std::span<const float>(b)) + 1e-5 * all) << name;
  }
}

// Expected values of made_batch() by the oracle.
void write_oracle_report(const fs::path& path, const plan::Gpt2Shape& shape,
                         const std::vector<float>& weights, double c, const std::string& clipping = "flat") {
  const IntegerTensors batch = made_batch();
  GradientReport report;
  std::vector<double> sum(shape.parameter_count());
  for (int64_t b = 0; b < 4; ++b) {
    test::Example example;
    for (int64_t t = 0; t < 9; ++t) {
      example.ids.push_back(batch.at("input_ids").second[b * 9 + t]);
      example.targets.push_back(t < 8 ? batch.at("labels").second[b * 9 + t + 1] : -100);
    }
    const bool empty = example.target_count() == 0;
    const auto oracle = empty ? test::OracleGradient{0, 0, std::vector<double>(sum.size())}
                              : test::oracle_gradient(shape, weights, example);
    const double factor = clipping == "automatic" ? c / (oracle.norm + 0.01)
                          : empty                 ? 1
                                                  : std::min(1.0, c / oracle.norm);
    report.losses.push_back(oracle.loss);
    report.norms.push_back(oracle.norm);
    report.factors.push_back(factor);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += factor * oracle.gradient[i];
  }
  report.clipped_sum.assign(sum.begin(), sum.end());
  write_gradient_report(path, shape, report);
}

TEST(GradientReport, EqualsAutogradInDoubleForEveryRouteAndMicrobatch) {
  for (const bool tied : {true, false}) {
    plan::Gpt2Shape shape = kShape;
    shape.tied_head = tied;
    const std::vector<float> weights = test::made_parameters(shape);
    const TemporaryFolder dir;
    model::write_gpt2(dir.path(), shape, weights);
    write_batch(dir / "batch.safetensors", made_batch());
    for (const auto& [c, clipping] : {std::pair{0.5, "flat"}, {1e6, "flat"}, {0.5, "automatic"}}) {
      write_oracle_report(dir / "expected.safetensors", shape, weights, c, clipping);
      for (const char* numerics : {"exact", "fp32"}) {
        for (const int64_t microbatch : {0, 1, 3}) {
          SCOPED_TRACE(std::string(numerics) + ", microbatch " + std::to_string(microbatch) + ", " +
                       clipping);
          report_gradients(dir.path(), dir / "batch.safetensors", {c, clipping, numerics, "fp32", microbatch},
                           dir / "found.safetensors");
          expect_equal_reports(dir / "found.safetensors", dir / "expected.safetensors");
        }
      }
    }
  }
}

TEST(GradientReport, EqualsTheGoldenGradientsThroughLibraryAndProgram) {
  const char* shared = std::getenv("DPFA_SHARED");
  if (shared == nullptr || !fs::exists(fs::path(shared) / "golden/gradients"))
    GTEST_SKIP() << "not run: no golden gradients (DPFA_SHARED names no folder that has them)";
  for (const std::string name : {"gpt2-tied", "gpt2-untied", "gpt2-no-clip"}) {
    const fs::path golden = fs::path(shared) / "golden/gradients" / name;
    const double c = nlohmann::json::parse(testing::read_text(golden / "case.json")).at("max_grad_norm");
    for (const std::string numerics : {"exact", "fp32"}) {
      SCOPED_TRACE(name + ", " + numerics);
      const TemporaryFolder dir;
      report_gradients(golden / "model", golden / "batch.safetensors", {c, "flat", numerics, "fp32", 2},
                       dir / "library.safetensors");
      expect_equal_reports(dir / "library.safetensors", golden / "expected.safetensors");
      const auto outcome = run_program("debug gradients --model " + (golden / "model").string() +
                                       " --batch " + (golden / "batch.safetensors").string() +
                                       " --max-grad-norm " + std::to_string(c) + " --numerics " + numerics +
                                       " --out " + (dir / "program.safetensors").string() + " 2>&1");
      ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
      EXPECT_NE(outcome.output.find("NOT PRIVATE"), std::string::npos);
      expect_equal_reports(dir / "program.safetensors", golden / "expected.safetensors");
    }
  }
}

TEST(GradientReport, ProgramWritesTheReportAndRefusesOtherModels) {
  const TemporaryFolder dir;
  const std::vector<float> weights = test::made_parameters(kShape);
  model::write_gpt2(dir.path(), kShape, weights);
  write_batch(dir / "batch.safetensors", made_batch());
  write_oracle_report(dir / "expected.safetensors", kShape, weights, 0.5);
  const std::string words = "debug gradients --model " + dir.path().string() + " --batch " +
                            (dir / "batch.safetensors").string() + " --out " +
                            (dir / "found.safetensors").string();
  const auto outcome = run_program(words + " --max_grad_norm 0.5 --microbatch_size 2 2>&1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("NOT PRIVATE"), std::string::npos);
  expect_equal_reports(dir / "found.safetensors", dir / "expected.safetensors");

  write_oracle_report(dir / "expected.safetensors", kShape, weights, 0.5, "automatic");
  const auto automatic = run_program(words + " --max_grad_norm 0.5 --clipping automatic 2>&1");
  ASSERT_EQ(automatic.exit_code, 0) << automatic.output;
  expect_equal_reports(dir / "found.safetensors", dir / "expected.safetensors");

  EXPECT_EQ(run_program(words + " 2>/dev/null").exit_code, 2);
  for (const char* wrong : {"0", "-1", "nan", "many"})
    EXPECT_EQ(run_program(words + " --max_grad_norm " + wrong + " 2>/dev/null").exit_code, 2) << wrong;
  EXPECT_EQ(run_program(words + " --max_grad_norm 1 --compute fp8 2>/dev/null").exit_code, 2);
  EXPECT_EQ(run_program(words + " --max_grad_norm 1 --clipping per_layer 2>/dev/null").exit_code, 6);
  for (const char* other : {"llama", "bert"}) {
    testing::write_text(dir / "config.json", R"({"model_type": ")" + std::string(other) + "\"}");
    EXPECT_EQ(run_program(words + " --max_grad_norm 1 2>/dev/null").exit_code, 6) << other;
  }
}

TEST(GradientReport, Bf16ComputesTheSameGradientsRoughly) {
  const TemporaryFolder dir;
  const std::vector<float> weights = test::made_parameters(kShape, 1);
  model::write_gpt2(dir.path(), kShape, weights);
  write_batch(dir / "batch.safetensors", made_batch());
  report_gradients(dir.path(), dir / "batch.safetensors", {1, "flat", "exact", "bf16", 0},
                   dir / "found.safetensors");
  write_oracle_report(dir / "expected.safetensors", kShape, weights, 1);
  const auto found = model::SafetensorsFile::open(dir / "found.safetensors");
  const auto expected = model::SafetensorsFile::open(dir / "expected.safetensors");
  for (const char* name :
       {"per_example_loss", "per_example_grad_norm", "clipped_sum/transformer.wte.weight"}) {
    const std::vector<float> a = floats_of(found, name), b = floats_of(expected, name);
    EXPECT_LE(distance(a, b), 0.05 * test::l2(std::span<const float>(b))) << name;
  }
}

TEST(GradientReport, AnEmptyBatchHasAnEmptyReport) {
  const TemporaryFolder dir;
  model::write_gpt2(dir.path(), kShape, test::made_parameters(kShape));
  for (const auto& [b, t] : std::vector<std::pair<int64_t, int64_t>>{{0, 9}, {2, 0}, {0, 0}}) {
    write_batch(dir / "batch.safetensors", {{"input_ids", {{b, t}, {}}}, {"labels", {{b, t}, {}}}});
    report_gradients(dir.path(), dir / "batch.safetensors", {}, dir / "found.safetensors");
    const auto found = model::SafetensorsFile::open(dir / "found.safetensors");
    EXPECT_EQ(found.at("per_example_loss").shape, (std::vector<int64_t>{b}));
    for (const float norm : floats_of(found, "per_example_grad_norm")) EXPECT_EQ(norm, 0);
    for (const float x : floats_of(found, "clipped_sum/transformer.wte.weight")) ASSERT_EQ(x, 0);
  }
}

TEST(GradientReport, AnExampleThatIsNotFiniteIsLeftOut) {
  std::vector<float> weights = test::made_parameters(kShape);
  IntegerTensors tensors = made_batch();
  // Token 30 is poisoned; only example 0 holds it, and with an untied head no other example's logits see the
  // table.
  plan::Gpt2Shape shape = kShape;
  shape.tied_head = false;
  weights = test::made_parameters(shape);
  std::fill_n(weights.begin() + 30 * shape.width, shape.width, std::numeric_limits<float>::quiet_NaN());
  for (int64_t& id : tensors["input_ids"].second) id %= 30;
  for (int64_t& id : tensors["labels"].second) id = id == -100 ? id : id % 30;
  tensors["input_ids"].second[3] = 30;
  const TemporaryFolder dir;
  model::write_gpt2(dir.path(), shape, weights);
  write_batch(dir / "batch.safetensors", tensors);
  for (const char* numerics : {"exact", "fp32"}) {
    report_gradients(dir.path(), dir / "batch.safetensors", {1, "flat", numerics, "fp32", 0},
                     dir / "found.safetensors");
    const auto found = model::SafetensorsFile::open(dir / "found.safetensors");
    EXPECT_TRUE(std::isnan(floats_of(found, "per_example_grad_norm")[0]));
    EXPECT_EQ(floats_of(found, "clip_factor")[0], 0);
    EXPECT_GT(floats_of(found, "clip_factor")[1], 0);
    for (const auto& p : model::gpt2_parameters(shape))
      for (const float x : floats_of(found, "clipped_sum/" + p.name)) ASSERT_TRUE(std::isfinite(x)) << p.name;
  }
}

TEST(LabelledBatch, LabelsAreShiftedAndDefaultToTheIdsThatAreNotMasked) {
  const TemporaryFolder dir;
  IntegerTensors tensors = {{"input_ids", {{2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}}},
                            {"attention_mask", {{2, 4}, {1, 1, 1, 1, 1, 1, 0, 0}}}};
  write_batch(dir / "b", tensors);
  data::Microbatch batch = read_labelled_batch(dir / "b", kShape);
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{2, 3, 4, -100, 6, -100, -100, -100}));
  EXPECT_EQ(batch.target_counts, (std::vector<int64_t>{3, 1}));
  tensors["labels"] = {{2, 4}, {9, -100, 8, 7, -100, -100, 6, -100}};  // a label right after the text counts
  write_batch(dir / "b", tensors);
  batch = read_labelled_batch(dir / "b", kShape);
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{-100, 8, 7, -100, -100, 6, -100, -100}));
  EXPECT_EQ(batch.target_counts, (std::vector<int64_t>{2, 1}));
}

template <typename Expected>
void expect_batch_refused(const IntegerTensors& tensors) {
  const TemporaryFolder dir;
  write_batch(dir / "b", tensors);
  EXPECT_THROW(read_labelled_batch(dir / "b", kShape), Expected) << tensors.begin()->first;
}

TEST(LabelledBatch, WhatTheModelCannotMeanIsRefused) {
  const std::pair<std::vector<int64_t>, std::vector<int64_t>> ids = {{1, 3}, {1, 2, 3}};
  for (const std::vector<int64_t>& mask :
       std::vector<std::vector<int64_t>>{{0, 1, 1}, {1, 0, 1}, {1, 2, 0}, {-1, 0, 0}})
    expect_batch_refused<Unsupported>({{"input_ids", ids}, {"attention_mask", {{1, 3}, mask}}});
  expect_batch_refused<Unsupported>(
      {{"input_ids", ids}, {"attention_mask", {{1, 3}, {1, 0, 0}}}, {"labels", {{1, 3}, {-100, 2, 3}}}});
  expect_batch_refused<Unsupported>({{"input_ids", ids}, {"token_type_ids", ids}});
  expect_batch_refused<Unsupported>({{"input_ids", ids}, {"labels", {{1}, {0}}}});
  expect_batch_refused<IoError>({{"input_ids", ids}, {"labels", {{3, 1}, {1, 2, 3}}}});
  expect_batch_refused<IoError>({{"input_ids", ids}, {"attention_mask", {{1, 2}, {1, 1}}}});
  expect_batch_refused<IoError>({{"input_ids", {{3}, {1, 2, 3}}}});
  expect_batch_refused<IoError>({{"labels", ids}});
  expect_batch_refused<StateError>({{"input_ids", {{1, 1}, {31}}}});
  expect_batch_refused<StateError>({{"input_ids", {{1, 1}, {-1}}}});
  expect_batch_refused<StateError>({{"input_ids", ids}, {"labels", {{1, 3}, {0, 31, 0}}}});
  expect_batch_refused<StateError>({{"input_ids", ids}, {"labels", {{1, 3}, {0, -1, 0}}}});
  expect_batch_refused<StateError>({{"input_ids", {{1, 21}, std::vector<int64_t>(21)}}});
  EXPECT_THROW(read_labelled_batch("/absent.safetensors", kShape), IoError);
}

}  // namespace
}  // namespace dpfa::train
