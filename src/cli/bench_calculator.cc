// `dpfa bench` of the calculator, which has no training steps to time.
#include <iostream>

#include "src/base/error.h"
#include "src/cli/bench_account.h"

namespace dpfa::cli {

int run_bench(const Arguments& arguments) {
  const std::string usage = "dpfa bench account [options]: times the accountant (this build trains nothing)";
  if (!arguments.empty() && arguments[0] == "--help") {
    std::cout << usage << "\n";
    return 0;
  }
  if (arguments.empty() || arguments[0] != "account")
    throw ConfigError((arguments.empty() ? "which benchmark?" : "no benchmark '" + arguments[0] + "'") +
                      std::string(": ") + usage);
  return bench_account({arguments.begin() + 1, arguments.end()});
}

}  // namespace dpfa::cli
