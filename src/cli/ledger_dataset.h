// `dpfa ledger show --dataset DIR|ID --runs DIR...`; `arguments` are the words after `show`.
#pragma once

#include "src/cli/cli.h"

namespace dpfa::cli {

int show_dataset(const Arguments& arguments);

}  // namespace dpfa::cli
