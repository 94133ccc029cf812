#include <sched.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>

#include "src/base/random/cpu_dispatch.h"
#include "src/cli/facts.h"
#include "src/plan/value.h"

namespace dpfa::cli {
namespace {

using nlohmann::ordered_json;

// Value after the colon of the first line that starts with `name`; empty where the file or the line is
// absent.
std::string field_of(const char* file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name, 0) != 0 || line.find(':') == std::string::npos) continue;
    const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
    return start == std::string::npos ? std::string() : line.substr(start);
  }
  return {};
}

ordered_json mebibytes_of(const std::string& meminfo_name) {
  std::istringstream in(field_of("/proc/meminfo", meminfo_name));
  int64_t kibibytes = 0;
  return in >> kibibytes ? ordered_json(kibibytes / 1024) : ordered_json(nullptr);
}

// Inside a container the control group, not /proc/meminfo, says what may be used; "max" is no limit.
ordered_json memory_limit() {
  for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream in(file);
    uint64_t bytes = 0;
    if (in >> bytes && bytes < (uint64_t{1} << 62)) return bytes >> 20;
  }
  return nullptr;
}

// Adds NAME_mib and NAME_free_mib for the file system that holds `folder`.
void add_space(const std::string& name, const char* folder, ordered_json& facts) {
  struct statvfs info = {};
  const bool found = statvfs(folder, &info) == 0;
  const uint64_t block = info.f_frsize;
  facts[name + "_mib"] = found ? ordered_json((info.f_blocks * block) >> 20) : ordered_json(nullptr);
  facts[name + "_free_mib"] = found ? ordered_json((info.f_bavail * block) >> 20) : ordered_json(nullptr);
}

}  // namespace

double usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  double cores = std::max(1u, std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (quota_file >> quota >> period && quota > 0 && period > 0) cores = std::min(cores, quota / period);
  return cores;
}

ordered_json host_facts() {
  utsname system = {};
  uname(&system);
  std::string available;
  for (const CpuPath path : available_cpu_paths()) {
    if (!available.empty()) available += ' ';
    available += to_string(path);
  }
  ordered_json facts = {{"system", std::string(system.sysname) + " " + system.release + " " + system.machine},
                        {"processor", field_of("/proc/cpuinfo", "model name")},
                        {"instruction_sets", available},
                        {"cores", std::thread::hardware_concurrency()},
                        {"usable_cores", usable_cores()},
                        {"memory_mib", mebibytes_of("MemTotal")},
                        {"available_memory_mib", mebibytes_of("MemAvailable")},
                        {"memory_limit_mib", memory_limit()}};
  add_space("shared_memory", "/dev/shm", facts);
  add_space("disk", ".", facts);
  return facts;
}

}  // namespace dpfa::cli
