// `dpfa bench account`: times the accountant; `arguments` are the words after `account`.
#pragma once

#include "src/cli/cli.h"

namespace dpfa::cli {

int bench_account(const Arguments& arguments);

}  // namespace dpfa::cli
