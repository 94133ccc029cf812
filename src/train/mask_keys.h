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

// Collective; nothing where the plan sums in plain text. `shared_configuration`: the text of everything that
// all ranks must be given alike. Throws AgreedError on every rank: files that cannot be read, identities that
// do not fit the allow-list, configurations that differ; IntegrityError where keys cannot be confirmed.
std::optional<comm::secagg::SessionKeys> make_mask_keys(comm::Communicator& communicator,
                                                        const plan::PrivacyPlan& plan,
                                                        const plan::AggregationConfig& aggregation,
                                                        int64_t parameters,
                                                        const std::string& shared_configuration);

}  // namespace dpfa::train
