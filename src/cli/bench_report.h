// What the benchmarks print: the schema of `dpfa bench ... --json`, or a line for each
// case.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace dpfa::cli {

struct BenchResult {
  std::string name;      // as in "noise/chacha20"
  std::string baseline;  // what it is compared with, in words
  double seconds = 0, baseline_seconds = 0;
  int64_t repeats = 0;
  nlohmann::json details = nlohmann::json::object();  // further keys of the case
};

// Times two pieces of work in turn, `repeats` times after one round that is not timed, and takes medians. The
// detail "ratio_range" is the least and the largest ratio of one repeat: it holds the median ratio of repeats
// that are independent with probability 1 - 2^(1 - repeats) (the sign test's interval).
BenchResult time_in_turn(const std::string& name, const std::function<void()>& work,
                         const std::string& baseline, const std::function<void()>& baseline_work,
                         int64_t repeats);

double median(std::vector<double> values);  // of at least one

// Throws ConfigError where the host has fewer bytes available than `what` needs (as far as /proc/meminfo
// says).
void expect_memory(double bytes, const std::string& what);

// One object: the machine, and the cases as they are.
void print_json(const std::vector<nlohmann::json>& results, int64_t threads);
void print_results(const std::vector<BenchResult>& results, int64_t threads, bool json);

int bench_step(const std::vector<std::string>& arguments);
int bench_norms(const std::vector<std::string>& arguments);
int bench_comm(const std::vector<std::string>& arguments);
int bench_noise(const std::vector<std::string>& arguments);

}  // namespace dpfa::cli
