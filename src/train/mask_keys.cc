#include "src/train/mask_keys.h"

#include "src/base/error.h"
#include "src/train/collective.h"

namespace dpfa::train {

using comm::secagg::AllowList;
using comm::secagg::Identity;
using comm::secagg::SessionKeys;

std::string shared_configuration(const plan::Config& config) {
  plan::Config shared = config;
  shared.runtime = {};
  shared.runtime.constant_step_slots = config.runtime.constant_step_slots;  // of all ranks, or of none
  shared.aggregation.allow_list.clear();  // its content is compared when keys are agreed on
  shared.aggregation.identity.clear();
  return plan::to_ini(shared);
}

std::optional<SessionKeys> make_mask_keys(comm::Communicator& communicator, const plan::PrivacyPlan& plan,
                                          const plan::Config& config, int64_t parameters) {
  const plan::AggregationConfig& aggregation = config.aggregation;
  if (plan.aggregation_mode() != "masked") return std::nullopt;
  std::optional<Identity> identity;
  std::optional<AllowList> allow_list;
  on_every_rank(communicator, [&] {
    allow_list = AllowList::load(aggregation.allow_list);
    identity = Identity::load(aggregation.identity);
  });
  const auto shares = plan.noise_shares();
  const comm::secagg::Terms terms = {{"the privacy plan", plan.digest()},
                                     {"the configuration", shared_configuration(config)},
                                     {"the number of parameters", std::to_string(parameters)},
                                     {"lane_bits", std::to_string(shares ? shares->lane_bits : 32)}};
  std::optional<SessionKeys> keys;
  try {
    keys = agree_on_keys(communicator, *identity, *allow_list, static_cast<int>(aggregation.colluding_ranks),
                         terms);
  } catch (const ConfigError& error) {  // on every rank, in the same words
    throw AgreedError(error.code(), error.what());
  }
  return keys;
}

}  // namespace dpfa::train
