// gpu_suite [NAME...]: runs the cases whose names contain one of the words, all without words, and prints one
// line each. Exit code 0: all passed; 1: some failed; 77: there is no GPU and nothing ran.
#include <cstdio>
#include <exception>

#include "kernels/cuda/device.h"
#include "tests/kernels/cuda/suite.h"

int main(int argc, char** argv) {
  using namespace dpfa::kernels::cuda;
  const auto cases = suite::all_cases();
  if (device_count() == 0) {
    std::printf("no GPU is present: %zu cases did not run\n", cases.size());
    return 77;
  }
  int passed = 0, failed = 0;
  for (const suite::Case& one : cases) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || one.name.find(argv[i]) != std::string::npos;
    if (!wanted) continue;
    suite::Failures failures;
    std::string text;
    try {
      one.run(failures);
      text = failures.text();
    } catch (const std::exception& error) {
      text = std::string(error.what()) + "\n";
    }
    std::printf("%s %s\n%s", text.empty() ? "passed" : "FAILED", one.name.c_str(), text.c_str());
    std::fflush(stdout);
    ++(text.empty() ? passed : failed);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
