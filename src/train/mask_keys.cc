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
                                          const plan::Config& config, comm::secagg::Terms terms) {
  const plan::AggregationConfig& aggregation = config.aggregation;
  if (plan.aggregation_mode() != "masked") return std::nullopt;
  std::optional<Identity> identity;
  std::optional<AllowList> allow_list;
  on_every_rank(communicator, [&] {
    allow_list = AllowList::load(aggregation.allow_list);
    identity = Identity::load(aggregation.identity);
    // Ranks of one owner pool what they know whether they want to or not.
    const int most = allow_list->most_ranks_of_an_owner();
    if (aggregation.colluding_ranks > 0 && most > aggregation.colluding_ranks)
      throw Unsupported("an owner of the allow-list '" + aggregation.allow_list + "' has " +
                        std::to_string(most) + " ranks and aggregation.colluding_ranks is " +
                        std::to_string(aggregation.colluding_ranks) +
                        ": the claim against colluding ranks would not cover that owner alone; give every "
                        "owner fewer ranks, or raise colluding_ranks");
  });
  const auto shares = plan.noise_shares();
  terms.emplace_back("the privacy plan", plan.digest());
  terms.emplace_back("the configuration", shared_configuration(config));
  terms.emplace_back("lane_bits", std::to_string(shares ? shares->lane_bits : 32));
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
