#include "src/plan/plan.h"

#include <cmath>
#include <limits>
#include <tuple>

#include <sodium.h>

#include "accounting/accountant.h"
#include "accounting/calibrate.h"
#include "src/base/check.h"
#include "src/base/error.h"
#include "src/base/plant.h"
#include "src/plan/share_layout.h"
#include "src/plan/value.h"

namespace dpfa::plan {
namespace {

using nlohmann::json;

// Beyond this the "probability of failure" reading of delta has become a likely event.
constexpr double kLargestDelta = 0.1;
// Rounded decimals in a configuration are not a contradiction; a different batch is.
constexpr double kRateTolerance = 1e-6;

const char kNotInThisBuild[] = " is not in this build; use ";

void require_value(const std::string& key, const std::string& given, const std::string& supported) {
  if (given != supported) throw Unsupported(key + " = " + given + kNotInThisBuild + supported);
}

void check_mechanism(const PrivacyConfig& privacy) {
  if (privacy.clipping != "automatic") require_value("privacy.clipping", privacy.clipping, "flat");
  require_value("privacy.privacy_unit", privacy.privacy_unit, "record");
  require_value("privacy.neighboring_relation", privacy.neighboring_relation, "add_or_remove_one");
  if (privacy.numerics == "auto") {
    throw ConfigError("privacy.numerics = auto: the plan needs the measured choice, exact or fp32");
  }
  if (privacy.numerics != "fp32") require_value("privacy.numerics", privacy.numerics, "exact");
  if (privacy.loss != "token_sum") require_value("privacy.loss", privacy.loss, "token_mean");
  if (privacy.generator != "philox") require_value("privacy.generator", privacy.generator, "chacha20");
}

// The comparisons are written so that NaN fails them.
void check_numbers(const PrivacyConfig& privacy, int64_t trainable_parameters) {
  if (trainable_parameters <= 0)
    throw ConfigError("the model has no trainable parameter: nothing would be trained");
  if (privacy.steps < 1) throw ConfigError("privacy.steps is missing: expected a whole number >= 1");
  constexpr int64_t kMostSteps = int64_t{1} << 53;
  if (privacy.reserve_steps < 0 || privacy.steps > kMostSteps || privacy.reserve_steps > kMostSteps) {
    throw ConfigError("privacy.steps and privacy.reserve_steps: expected whole numbers from 0 to 2^53");
  }
  const double norm = privacy.max_grad_norm;
  if (!(norm >= 1e-12 && norm <= 1e12)) {
    throw ConfigError("privacy.max_grad_norm = " + format_real(norm) +
                      ": expected a number in [1e-12, 1e12]");
  }
  if (!privacy.enabled) return;
  if (privacy.noise_multiplier.has_value() == privacy.target_epsilon.has_value()) {
    throw ConfigError(
        privacy.noise_multiplier
            ? "privacy.noise_multiplier and privacy.target_epsilon are both given: give one of them"
            : "privacy.noise_multiplier or privacy.target_epsilon is missing: give one of them");
  }
  const double sigma = privacy.noise_multiplier.value_or(1);
  if (!(sigma > 0 && sigma <= 1e6)) {
    throw ConfigError("privacy.noise_multiplier = " + format_real(sigma) + ": expected a number in (0, 1e6]");
  }
  const double epsilon = privacy.target_epsilon.value_or(1);
  if (!(epsilon > 0 && std::isfinite(epsilon))) {
    throw ConfigError("privacy.target_epsilon = " + format_real(epsilon) + ": expected a finite number > 0");
  }
  if (!(privacy.target_delta > 0 && privacy.target_delta <= kLargestDelta)) {
    throw ConfigError("privacy.target_delta = " + format_real(privacy.target_delta) +
                      ": expected a number in (0, 0.1], at most 1 / dataset_size is usual");
  }
}

struct Batch {
  double sample_rate;
  double expected_size;
};

// Of rate, expected batch and dataset size any two give the third; the actual number of records has no part
// in it.
Batch resolve_batch(const PrivacyConfig& privacy) {
  const auto& [rate, expected, size] =
      std::tie(privacy.sample_rate, privacy.expected_batch_size, privacy.dataset_size);
  if (size && *size < 1) throw ConfigError("privacy.dataset_size: expected a whole number >= 1");
  if (!rate && !(expected && size)) {
    throw ConfigError("privacy.sample_rate is missing: give it, or expected_batch_size and dataset_size");
  }
  if (!expected && !size) {
    throw ConfigError(
        "privacy.expected_batch_size is missing: give it, or dataset_size, as the public divisor");
  }
  const double records = size ? static_cast<double>(*size) : 0;
  const Batch batch = {rate ? *rate : *expected / records, expected ? *expected : *rate * records};
  if (!(batch.expected_size > 0 && std::isfinite(batch.expected_size))) {
    throw ConfigError("privacy.expected_batch_size = " + format_real(batch.expected_size) +
                      ": expected a number > 0");
  }
  if (!(batch.sample_rate > 0 && batch.sample_rate <= 1)) {
    throw ConfigError("privacy.sample_rate = " + format_real(batch.sample_rate) +
                      (rate ? "" : " (expected_batch_size / dataset_size)") +
                      ": expected a number in (0, 1]");
  }
  if (rate && expected && size && std::fabs(*rate * records - *expected) > kRateTolerance * *expected) {
    throw ConfigError("privacy.sample_rate x dataset_size = " + format_real(*rate * records) +
                      " contradicts privacy.expected_batch_size = " + format_real(*expected) +
                      ": give two of the three keys");
  }
  return batch;
}

// Everything that follows from the primary fields; from_json() compares, so no ledger can state a
// sensitivity, noise or grid of its own.
json with_derived(json fields, const PrivacyConfig& privacy, const AggregationConfig& aggregation,
                  int64_t parameters) {
  const double norm = privacy.max_grad_norm;
  const double rate = fields.at("sample_rate").get<double>();
  const double noise_multiplier = fields.at("noise_multiplier").get<double>();
  if (aggregation.noise == "shares") {
    const ShareLayout layout = share_layout(privacy, aggregation, parameters, noise_multiplier);
    const double ranks = static_cast<double>(aggregation.ranks);
    const auto event = share_event(layout, aggregation, parameters, rate);
    accounting::check_event(event);
    fields["grid_bits"] = layout.grid_bits;
    fields["grid_exponent"] = layout.contribution_exponent;
    fields["lane_exponent"] = layout.lane_exponent;
    fields["lane_clamp"] = layout.share.clamp;
    fields["slack"] = layout.slack;
    fields["sensitivity"] = norm * (1 + layout.slack);
    fields["noise_stddev"] = std::ldexp(layout.share.share_sigma * std::sqrt(ranks), layout.lane_exponent);
    fields["event"] = accounting::to_json(event);
    return fields;
  }
  const int grid_exponent = std::ilogb(norm) - kContributionGridBits;
  const double slack = contribution_slack(privacy, parameters, grid_exponent);
  const double sensitivity = norm * (1 + slack);
  fields["grid_exponent"] = grid_exponent;
  fields["slack"] = slack;
  fields["sensitivity"] = sensitivity;
  fields["noise_stddev"] = noise_multiplier * (DPFA_PLANT("no_C_in_noise") ? 1 + slack : sensitivity);
  if (privacy.enabled)
    fields["event"] = accounting::to_json(accounting::PoissonSampledGaussianEvent{rate, noise_multiplier});
  return fields;
}

// What of target_delta is left for noise that is calibrated for target_epsilon.
double delta_to_calibrate(const PrivacyConfig& privacy, double draw_overrun) {
  const double charges = static_cast<double>(privacy.steps + privacy.reserve_steps);
  const double left =
      accounting::delta_left(privacy.target_delta, *privacy.target_epsilon, charges * draw_overrun);
  if (left > 0) return left;
  throw ConfigError(
      "privacy.target_delta = " + format_real(privacy.target_delta) +
      ": with constant_step_slots (1 + e^target_epsilon) x charges x 2^-60 of it pays for draws "
      "beyond the room of a step, and nothing is left: raise target_delta, or lower "
      "target_epsilon, steps or reserve_steps");
}

json optional_field(const auto& value) { return value ? json(*value) : json(nullptr); }

}  // namespace

PrivacyPlan PrivacyPlan::derive(const PrivacyConfig& privacy, const AggregationConfig& given_aggregation,
                                int64_t trainable_parameters, bool constant_work) {
  AggregationConfig aggregation = given_aggregation;
  check_mechanism(privacy);
  check_aggregation(privacy, aggregation);
  check_numbers(privacy, trainable_parameters);
  const Batch batch = resolve_batch(privacy);
  json fields = {
      {"private", privacy.enabled},
      {"privacy_unit", privacy.privacy_unit},
      {"sampler", "poisson"},
      {"sample_rate", batch.sample_rate},
      {"expected_batch_size", batch.expected_size},
      {"dataset_size", optional_field(privacy.dataset_size)},
      {"steps", privacy.steps},
      {"reserve_steps", privacy.reserve_steps},
      {"max_grad_norm", privacy.max_grad_norm},
      {"clipping", privacy.clipping},
      {"loss", privacy.loss},
      {"numerics", privacy.numerics},
      {"generator", privacy.generator},
      {"aggregation", aggregation.mode},
      {"noise", aggregation.noise},
      {"colluding_ranks", aggregation.colluding_ranks},
      {"trainable_parameters", trainable_parameters},
      {"noise_multiplier", 0.0},
  };
  if (privacy.enabled) {
    fields["neighboring_relation"] = privacy.neighboring_relation;
    fields["target_epsilon"] = optional_field(privacy.target_epsilon);
    fields["target_delta"] = privacy.target_delta;
    const int64_t charges = privacy.steps + privacy.reserve_steps;
    const bool shares = aggregation.noise == "shares";
    if (constant_work) fields["draw_overrun"] = kOverrun;
    PrivacyConfig calibrated = privacy;
    if (!privacy.noise_multiplier)
      calibrated.target_delta = delta_to_calibrate(privacy, constant_work ? kOverrun : 0);
    fields["noise_multiplier"] =
        privacy.noise_multiplier ? *privacy.noise_multiplier
        : shares
            ? calibrated_shares(calibrated, aggregation, trainable_parameters, batch.sample_rate, charges)
            : accounting::noise_multiplier_for(*privacy.target_epsilon, calibrated.target_delta,
                                               batch.sample_rate, charges);
  }
  if (aggregation.noise == "shares") {
    fields["ranks"] = aggregation.ranks;
    fields["lane_bits"] = aggregation.lane_bits;
    fields["clamp_norms"] = aggregation.clamp_norms;
    fields["overflow_probability"] = aggregation.overflow_probability;
  }
  PrivacyPlan plan;
  plan.fields_ = with_derived(std::move(fields), privacy, aggregation, trainable_parameters);
  return plan;
}

PrivacyPlan PrivacyPlan::rederived(const json& fields) {
  PrivacyConfig privacy;
  AggregationConfig aggregation;
  privacy.enabled = fields.at("private").get<bool>();
  privacy.privacy_unit = fields.at("privacy_unit").get<std::string>();
  privacy.sample_rate = fields.at("sample_rate").get<double>();
  privacy.expected_batch_size = fields.at("expected_batch_size").get<double>();
  if (!fields.at("dataset_size").is_null()) privacy.dataset_size = fields.at("dataset_size").get<int64_t>();
  privacy.steps = fields.at("steps").get<int64_t>();
  privacy.reserve_steps = fields.at("reserve_steps").get<int64_t>();
  privacy.max_grad_norm = fields.at("max_grad_norm").get<double>();
  privacy.clipping = fields.at("clipping").get<std::string>();
  privacy.loss = fields.at("loss").get<std::string>();
  privacy.numerics = fields.at("numerics").get<std::string>();
  privacy.generator = fields.at("generator").get<std::string>();
  aggregation.mode = fields.at("aggregation").get<std::string>();
  aggregation.noise = fields.at("noise").get<std::string>();
  aggregation.colluding_ranks = fields.at("colluding_ranks").get<int64_t>();
  if (privacy.enabled) {
    privacy.neighboring_relation = fields.at("neighboring_relation").get<std::string>();
    privacy.target_delta = fields.at("target_delta").get<double>();
    // The recorded multiplier is what the run uses: a later calibration may give another one.
    privacy.noise_multiplier = fields.at("noise_multiplier").get<double>();
  }
  if (aggregation.noise == "shares") {
    aggregation.ranks = fields.at("ranks").get<int64_t>();
    aggregation.lane_bits = fields.at("lane_bits").get<int64_t>();
    aggregation.grid_bits = fields.at("grid_bits").get<int64_t>();
    aggregation.clamp_norms = fields.at("clamp_norms").get<double>();
    aggregation.overflow_probability = fields.at("overflow_probability").get<double>();
  }
  PrivacyPlan plan = derive(privacy, aggregation, fields.at("trainable_parameters").get<int64_t>(),
                            fields.contains("draw_overrun"));
  if (privacy.enabled && !fields.at("target_epsilon").is_null()) {
    plan.fields_["target_epsilon"] = fields.at("target_epsilon").get<double>();
  }
  return plan;
}

PrivacyPlan PrivacyPlan::for_ranks(int64_t ranks) const {
  if (!noise_shares()) return *this;
  json fields = fields_;
  fields["ranks"] = ranks;
  return rederived(fields);
}

PrivacyPlan PrivacyPlan::from_json(const json& fields) {
  PrivacyPlan plan;
  try {
    plan = rederived(fields);
  } catch (const json::exception& error) {
    throw StateError(std::string("the plan of this ledger is not readable: ") + error.what());
  } catch (const ConfigError& error) {
    throw StateError(std::string("the plan of this ledger is not valid: ") + error.what());
  }
  for (const auto& [key, value] : fields.items()) {
    if (plan.fields_.value(key, json()) == value) continue;
    throw StateError("the plan of this ledger does not fit this program: field " + key + " is " +
                     value.dump() + " and follows as " + plan.fields_.value(key, json()).dump());
  }
  if (plan.fields_.dump() != fields.dump()) {
    throw StateError("the plan of this ledger does not fit this program: a field is missing");
  }
  return plan;
}

bool PrivacyPlan::is_private() const { return fields_.at("private").get<bool>(); }
double PrivacyPlan::sample_rate() const { return fields_.at("sample_rate").get<double>(); }
double PrivacyPlan::expected_batch_size() const { return fields_.at("expected_batch_size").get<double>(); }
int64_t PrivacyPlan::steps() const { return fields_.at("steps").get<int64_t>(); }
int64_t PrivacyPlan::max_charges() const { return steps() + fields_.at("reserve_steps").get<int64_t>(); }
double PrivacyPlan::noise_multiplier() const { return fields_.at("noise_multiplier").get<double>(); }
double PrivacyPlan::max_grad_norm() const { return fields_.at("max_grad_norm").get<double>(); }
double PrivacyPlan::slack() const { return fields_.at("slack").get<double>(); }
double PrivacyPlan::sensitivity() const { return fields_.at("sensitivity").get<double>(); }
double PrivacyPlan::noise_stddev() const { return fields_.at("noise_stddev").get<double>(); }
int PrivacyPlan::grid_exponent() const { return fields_.at("grid_exponent").get<int>(); }
double PrivacyPlan::grid() const { return std::ldexp(1.0, grid_exponent()); }
const std::string& PrivacyPlan::clipping() const {
  return fields_.at("clipping").get_ref<const std::string&>();
}
const std::string& PrivacyPlan::numerics() const {
  return fields_.at("numerics").get_ref<const std::string&>();
}
const std::string& PrivacyPlan::generator() const {
  return fields_.at("generator").get_ref<const std::string&>();
}
double PrivacyPlan::lane_grid() const {
  return std::ldexp(1.0, fields_.value("lane_exponent", grid_exponent()));
}
const std::string& PrivacyPlan::aggregation_mode() const {
  return fields_.at("aggregation").get_ref<const std::string&>();
}

std::optional<NoiseShares> PrivacyPlan::noise_shares() const {
  if (fields_.at("noise") != "shares") return std::nullopt;
  const json& event = fields_.at("event");
  return NoiseShares{.ranks = event.at("ranks").get<int64_t>(),
                     .colluding_ranks = event.at("colluding_ranks").get<int64_t>(),
                     .lane_bits = fields_.at("lane_bits").get<int>(),
                     .share = {.dither_shift = fields_.at("lane_exponent").get<int>() - grid_exponent(),
                               .clamp = fields_.at("lane_clamp").get<int64_t>(),
                               .share_sigma = event.at("share_sigma").get<double>()}};
}

const std::string& PrivacyPlan::loss() const { return fields_.at("loss").get_ref<const std::string&>(); }
json PrivacyPlan::to_json() const { return fields_; }

double PrivacyPlan::target_delta() const {
  DPFA_CHECK(is_private(), "a run that is not private has no delta");
  return fields_.at("target_delta").get<double>();
}

double PrivacyPlan::target_epsilon() const {
  DPFA_CHECK(is_private(), "a run that is not private has no epsilon");
  const json& target = fields_.at("target_epsilon");
  return target.is_null() ? std::numeric_limits<double>::infinity() : target.get<double>();
}

double PrivacyPlan::draw_overrun() const { return fields_.value("draw_overrun", 0.0); }

accounting::Event PrivacyPlan::event() const {
  DPFA_CHECK(is_private(), "a run that is not private has no privacy event");
  return accounting::event_from_json(fields_.at("event"));
}

int64_t PrivacyPlan::allowed_charges() const {
  if (!is_private()) return std::numeric_limits<int64_t>::max();
  if (fields_.at("target_epsilon").is_null()) return max_charges();
  const int64_t most = steps_at(target_delta());
  if (draw_overrun() == 0) return most;
  // More than half of delta is not spent on draws that are left out.
  const double cost = -accounting::delta_left(0, target_epsilon(), draw_overrun());
  const double bounded = std::min(static_cast<double>(most), target_delta() / 2 / cost);
  const int64_t allowed = std::min(static_cast<int64_t>(bounded), steps_at(target_delta() - bounded * cost));
  // The planned ones may have been calibrated for what is left by fewer.
  const bool planned =
      allowed < max_charges() && epsilon_of(event(), max_charges()).epsilon <= target_epsilon();
  return planned ? max_charges() : allowed;
}

int64_t PrivacyPlan::steps_at(double delta) const {
  return accounting::steps_for(target_epsilon(), delta, event());
}

accounting::EpsilonReport PrivacyPlan::epsilon_of(const accounting::Event& event, int64_t charges) const {
  const accounting::Charge charge{event, charges};
  return accounting::epsilon_of(std::span(&charge, 1), target_delta(),
                                static_cast<double>(charges) * draw_overrun());
}

std::string PrivacyPlan::digest() const {
  DPFA_CHECK(sodium_init() >= 0, "libsodium does not start");
  const std::string text = fields_.dump();
  unsigned char hash[32];
  crypto_generichash(hash, sizeof hash, reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                     nullptr, 0);
  char hex[2 * sizeof hash + 1];
  sodium_bin2hex(hex, sizeof hex, hash, sizeof hash);
  return hex;
}

std::vector<std::string> PrivacyPlan::warnings() const {
  std::vector<std::string> result;
  if (!is_private()) return {"NOT PRIVATE: no noise is added and nothing about the records is protected"};
  const json& size = fields_.at("dataset_size");
  const double records = size.is_null() ? expected_batch_size() / sample_rate() : size.get<double>();
  if (target_delta() > 1 / records) {
    result.push_back("target_delta = " + format_real(target_delta()) + " is larger than 1 / dataset_size = " +
                     format_real(1 / records) + ": publishing one whole record at random would be within it");
  }
  if (generator() == "philox") {
    result.push_back("generator = philox makes no cryptographic claim: who can predict it removes the noise");
  }
  return result;
}

}  // namespace dpfa::plan
