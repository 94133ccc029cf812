#include "src/plan/claims.h"

#include "src/base/error.h"

namespace dpfa::plan {
namespace {

// What voids every claim.
std::string void_because(const PrivacyPlan& plan, const RunFacts& facts) {
  if (!plan.is_private()) return "privacy.enabled = false: floating-point sums without noise";
  if (facts.raw_values_shown)
    return "--debug-nonprivate shows private values beside the noisy sum, which no epsilon accounts for";
  if (facts.shared_sampling_key)
    return "--insecure-seed: noise and draws of all ranks can be computed from the seed";
  return {};
}

std::string no_network_claim(const PrivacyPlan& plan) {
  const bool masked = plan.aggregation_mode() == "masked";
  if (!plan.noise_shares())
    return masked ? "noise = after_sum: the sum is unmasked before noise is added to it"
                  : "mode = plaintext: sums without noise pass in the clear";
  if (!masked) return "mode = plaintext: partial sums pass with less than the whole noise";
  if (plan.draw_overrun() == 0)
    return "runtime.constant_step_slots = false: the time at which a rank sends tells the network and the "
           "other ranks how much was drawn, and then sampling hides nothing from them";
  return {};
}

std::string no_insider_claim(const PrivacyPlan& plan) {
  if (!plan.noise_shares()) return "noise = after_sum: every rank knows the noise";
  const std::string network = no_network_claim(plan);
  if (!network.empty()) return network;
  if (plan.noise_shares()->colluding_ranks == 0)
    return "colluding_ranks = 0: every rank knows its own share of the noise, which is part of the claimed "
           "noise";
  return {};
}

Claim claim(const std::string& refusal, const accounting::Event& event) {
  return refusal.empty() ? Claim{event, {}} : Claim{std::nullopt, refusal};
}

// What is given about norms and would do nothing, or cost noise for nothing.
void check_norms(const std::string& numerics, const RuntimeConfig& runtime) {
  const bool recomputes = runtime.recompute == "layer", gives_method = runtime.norm_method != "auto";
  if (numerics == "fp32" && recomputes)
    throw ConfigError(
        "privacy.numerics = fp32 with runtime.recompute = layer: layers that are recomputed are measured as "
        "exact does, and fp32 would add its slack to the noise for nothing; set numerics = exact or "
        "recompute = none");
  const bool is_exact = numerics == "exact" || recomputes;  // auto has no choice where layers are recomputed
  if (is_exact && (gives_method || runtime.norm_memory_mib > 0))
    throw ConfigError((gives_method
                           ? "runtime.norm_method = " + runtime.norm_method
                           : "runtime.norm_memory_mib = " + std::to_string(runtime.norm_memory_mib)) +
                      " is of numerics = fp32 alone and does nothing with privacy.numerics = " + numerics +
                      (recomputes ? " and runtime.recompute = layer" : "") +
                      ": take it out, or set numerics = fp32" + (recomputes ? " and recompute = none" : ""));
  if (gives_method && runtime.norm_memory_mib > 0)
    throw ConfigError("runtime.norm_memory_mib = " + std::to_string(runtime.norm_memory_mib) +
                      " is of norm_method = auto alone and does nothing with runtime.norm_method = " +
                      runtime.norm_method + ": take one of them out");
}

}  // namespace

Claims claims_of(const PrivacyPlan& plan, const RunFacts& facts) {
  const std::string none = void_because(plan, facts);
  if (!none.empty()) return {{std::nullopt, none}, {std::nullopt, none}, {std::nullopt, none}};
  const accounting::Event event = plan.event(), outside = accounting::seen_by_outsiders(event);
  return {claim({}, outside), claim(no_network_claim(plan), outside), claim(no_insider_claim(plan), event)};
}

void check_job(const Config& config, int64_t ranks, bool dry_run) {
  const AggregationConfig& aggregation = config.aggregation;
  if (config.runtime.constant_step_slots && !(config.privacy.enabled && config.privacy.dataset_size))
    throw ConfigError(
        "runtime.constant_step_slots = true needs privacy.enabled and privacy.dataset_size: the passes of a "
        "private step follow from it");
  if (config.runtime.constant_step_slots && config.runtime.microbatch_size > 1)
    throw ConfigError(
        "runtime.microbatch_size = " + std::to_string(config.runtime.microbatch_size) +
        " does nothing with runtime.constant_step_slots = true, whose passes hold one record or "
        "none: set it to 0 or 1");
  check_norms(config.privacy.numerics, config.runtime);
  if (config.runtime.constant_step_slots && config.runtime.norm_method == "gram")
    throw ConfigError(
        "runtime.constant_step_slots = true with runtime.norm_method = gram and privacy.numerics = " +
        config.privacy.numerics +
        ": a Gram norm that is not accurate enough is measured again, which takes time that depends on the "
        "record; set norm_method to auto, direct or materialise");
  if (aggregation.mode == "masked" && !dry_run &&
      (aggregation.allow_list.empty() || aggregation.identity.empty()))
    throw ConfigError(
        "aggregation.mode = masked needs aggregation.allow_list and aggregation.identity: make them with "
        "`dpfa "
        "keys new`");
  if (aggregation.noise != "shares") return;
  if (aggregation.ranks != 0 && aggregation.ranks != ranks && !dry_run)
    throw ConfigError("aggregation.ranks = " + std::to_string(aggregation.ranks) + " and " +
                      std::to_string(ranks) +
                      " ranks were started: the noise of a rank follows from their number");
  if (aggregation.colluding_ranks > 0 && !config.runtime.constant_step_slots)
    throw Unsupported("aggregation.colluding_ranks = " + std::to_string(aggregation.colluding_ranks) +
                      " with runtime.constant_step_slots = false: the time of a step would tell those ranks "
                      "what the others drew; set constant_step_slots = true");
}

}  // namespace dpfa::plan
