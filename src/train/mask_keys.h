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

// The text of what all ranks must be given alike: not [runtime], and not where the key files lie.
std::string shared_configuration(const plan::Config& config);

// Collective; nothing where the plan sums in plain text. Throws AgreedError on every rank: files that cannot
// be read, identities that do not fit the allow-list, configurations that differ; IntegrityError where keys
// cannot be confirmed.
std::optional<comm::secagg::SessionKeys> make_mask_keys(comm::Communicator& communicator,
                                                        const plan::PrivacyPlan& plan,
                                                        const plan::Config& config, int64_t parameters);

}  // namespace dpfa::train
