#include <iostream>

#include "src/base/error.h"
#include "src/cli/bench_account.h"
#include "src/cli/bench_report.h"
#include "src/cli/cli.h"

namespace dpfa::cli {

int run_bench(const Arguments& arguments) {
  const std::string usage =
      "dpfa bench step|norms|noise|comm|account [options]: times a training step, gradient norms, noise, "
      "sums over "
      "ranks or the accountant beside a baseline";
  if (!arguments.empty() && (arguments[0] == "--help" || arguments[0] == "help")) {
    std::cout << usage << "\n";
    return 0;
  }
  if (!arguments.empty() && arguments[0] == "account")
    return bench_account({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "norms")
    return bench_norms({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "comm")
    return bench_comm({arguments.begin() + 1, arguments.end()});
  if (!arguments.empty() && arguments[0] == "noise")
    return bench_noise({arguments.begin() + 1, arguments.end()});
  if (arguments.empty() || arguments[0] != "step")
    throw ConfigError((arguments.empty() ? "which benchmark?" : "unknown benchmark '" + arguments[0] + "'") +
                      std::string(": ") + usage);
  return bench_step({arguments.begin() + 1, arguments.end()});
}

}  // namespace dpfa::cli
