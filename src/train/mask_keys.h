// Mask keys of a run with aggregation.mode = masked, made at each process start from the identities of its
// ranks.
#pragma once

#include <optional>
#include <string>

#include "comm/communicator.h"
#include "comm/secagg/key_agreement.h"
#include "src/plan/config.h"
#include "src/plan/plan.h"

namespace dpfa::train {

// The text of what all ranks must be given alike: of [runtime] constant_step_slots alone, and not where the
// key files lie.
std::string shared_configuration(const plan::Config& config);

// Collective; nothing where the plan sums in plain text. `terms`: what all ranks must have alike beside the
// plan and the configuration. Throws AgreedError on every rank: files that cannot be read, identities that do
// not fit the allow-list, an owner with more ranks than may collude, terms that differ; IntegrityError where
// keys cannot be confirmed.
std::optional<comm::secagg::SessionKeys> make_mask_keys(comm::Communicator& communicator,
                                                        const plan::PrivacyPlan& plan,
                                                        const plan::Config& config,
                                                        comm::secagg::Terms terms);

}  // namespace dpfa::train
