// dpfa doctor: what was found, what will be used and why.
#include <unistd.h>

#include <cstdlib>
#include <iomanip>
#include <iostream>

#include "src/base/random/cpu_dispatch.h"
#include "src/cli/build_facts.h"
#include "src/cli/cli.h"
#include "src/cli/facts.h"
#include "src/cli/options.h"
#include "src/plan/config.h"

namespace dpfa::cli {
namespace {

using nlohmann::ordered_json;

// Below this, the shared-memory transports of MPI fail or fall back to slow paths (containers default to 64).
constexpr int64_t kEnoughSharedMemory = 256;
constexpr int64_t kLittleDisk = 1024;

// Each entry: what, what will be used, and because of what.
ordered_json choices() {
  const std::string path(to_string(active_cpu_path()));
  const auto ranks = announced_ranks();
  return {{{"what", "device"}, {"use", "cpu"}, {"because", "this build has no CUDA path"}},
          {{"what", "random streams"},
           {"use", "chacha20, " + path},
           {"because", "the widest instruction set of this processor; every path gives the same bits"}},
          {{"what", "ranks"},
           {"use", ranks ? std::to_string(*ranks) : "1"},
           {"because", ranks ? "the launcher's environment announces them" : "no launcher announces any"}}};
}

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

std::vector<std::string> hints(const ordered_json& host, const ordered_json& libraries) {
  std::vector<std::string> result;
  const bool open_mpi = libraries.at("mpi").get<std::string>().find("Open MPI") != std::string::npos;
  const bool allowed = is_set("OMPI_ALLOW_RUN_AS_ROOT") && is_set("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
  if (open_mpi && geteuid() == 0 && !allowed) {
    result.push_back(
        "mpirun refuses to run as root: use another user, or set OMPI_ALLOW_RUN_AS_ROOT=1 and "
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
  }
  const ordered_json& shared = host.at("shared_memory_mib");
  if (shared.is_null()) {
    result.push_back("/dev/shm is missing: ranks of one host need it");
  } else if (shared < kEnoughSharedMemory) {
    result.push_back("/dev/shm is small: give the container --shm-size=1g or --ipc=host");
  }
  const ordered_json& disk = host.at("disk_free_mib");
  if (!disk.is_null() && disk < kLittleDisk) {
    result.push_back("less than 1 GiB is free in the current folder: checkpoints may not fit");
  }
  return result;
}

void print_section(const std::string& title, const ordered_json& entries) {
  std::cout << title << "\n";
  for (const auto& [name, value] : entries.items()) {
    std::cout << "  " << std::left << std::setw(22) << name
              << (value.is_string() ? value.get<std::string>()
                  : value.is_null() ? "unknown or none"
                                    : value.dump())
              << "\n";
  }
}

void print_report(const ordered_json& report) {
  print_section("program", report.at("program"));
  print_section("libraries", report.at("libraries"));
  print_section("host", report.at("host"));
  std::cout << "will be used\n";
  for (const ordered_json& choice : report.at("choices")) {
    std::cout << "  " << std::left << std::setw(22) << choice.at("what").get<std::string>()
              << choice.at("use").get<std::string>() << ": " << choice.at("because").get<std::string>()
              << "\n";
  }
  for (const ordered_json& hint : report.at("hints"))
    std::cout << "hint: " << hint.get<std::string>() << "\n";
}

}  // namespace

int run_doctor(const Arguments& arguments) {
  bool json = false, reference = false;
  Options options("dpfa doctor [--json]", "Prints versions and devices found, what will be used and why.");
  options.flag("json", &json, "one JSON object")
      .flag("configuration_reference", &reference, "prints docs/configuration.md instead");
  if (!options.parse(arguments)) return 0;
  if (reference) {
    std::cout << plan::configuration_reference();
    return 0;
  }
  ordered_json report;
  report["program"] = {{"version", kVersion}, {"revision", kRevision}, {"compiler", kCompiler}};
  report["libraries"] = library_facts();
  report["host"] = host_facts();
  report["choices"] = choices();
  report["hints"] = hints(report["host"], report["libraries"]);
  if (json) {
    std::cout << report.dump(2) << "\n";
  } else {
    print_report(report);
  }
  return 0;
}

}  // namespace dpfa::cli
