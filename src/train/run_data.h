// The data sets that a run reads, and the name under which its ledger counts them.
#pragma once

#include <optional>
#include <string>

#include "comm/communicator.h"
#include "src/data/dataset.h"
#include "src/plan/config.h"

namespace dpfa::train {

// Opens data.train of this rank, and data.eval where it is given. Throws ConfigError where a folder is
// missing from the configuration or held-out records are not declared public, StateError for different
// tokenizers.
void open_data(const plan::DataConfig& config, int rank, std::optional<data::Dataset>& train,
               std::optional<data::Dataset>& eval);

// Collective: the id of the data set, or those of all ranks joined by '+' where each has its own. Throws
// AgreedError on every rank where tokenizers differ, or where one data set is given to two ranks that should
// have their own: its records would count twice in the sum.
std::string name_data(const plan::DataConfig& config, const data::Dataset& train,
                      comm::Communicator& communicator);

// Whether a ledger under the name `counted` counts every data set of the name `present`: a run may go on
// where ranks with records of their own have left.
bool counts_all_of(const std::string& counted, const std::string& present);

}  // namespace dpfa::train
