#include "src/cli/bench_report.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iomanip>
#include <iostream>

#include "src/base/error.h"
#include "src/base/processor.h"

namespace dpfa::cli {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

BenchResult time_in_turn(const std::string& name, const std::function<void()>& work,
                         const std::string& baseline, const std::function<void()>& baseline_work,
                         int64_t repeats) {
  std::vector<double> seconds, baseline_seconds, ratios;
  work();
  baseline_work();
  for (int64_t k = 0; k < repeats; ++k) {
    seconds.push_back(seconds_of(work));
    baseline_seconds.push_back(seconds_of(baseline_work));
    ratios.push_back(seconds.back() / baseline_seconds.back());
  }
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  BenchResult result{name, baseline, median(seconds), median(baseline_seconds), repeats};
  result.details["ratio_range"] = {*least, *most};
  return result;
}

void expect_memory(double bytes, const std::string& what) {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (double kib = 0; file >> key >> kib && std::getline(file, unit);)
    if (key == "MemAvailable:" && bytes > 1024 * kib)
      throw ConfigError(what + " need about " + std::to_string(static_cast<int64_t>(bytes / 0x1p20)) +
                        " MiB, and " + std::to_string(static_cast<int64_t>(kib / 1024)) +
                        " are available: take fewer");
}

void print_json(const std::vector<nlohmann::json>& results, int64_t threads) {
  std::cout << nlohmann::json{{"machine", {{"cpu", processor_name()}, {"threads", threads}}},
                              {"results", results}}
                   .dump()
            << '\n';
}

void print_results(const std::vector<BenchResult>& results, int64_t threads, bool json) {
  if (json) {
    std::vector<nlohmann::json> list;
    for (const BenchResult& r : results) {
      nlohmann::json entry = {{"case", r.name},
                              {"seconds", r.seconds},
                              {"baseline", r.baseline},
                              {"baseline_seconds", r.baseline_seconds},
                              {"ratio", r.seconds / r.baseline_seconds},
                              {"repeats", r.repeats}};
      entry.update(r.details);
      list.push_back(entry);
    }
    print_json(list, threads);
    return;
  }
  std::cout << processor_name() << ", " << threads << " threads, medians of repeats in turn\n" << std::fixed;
  for (const BenchResult& r : results) {
    nlohmann::json details = r.details;  // the times of all repeats are for programs to read
    details.erase("all_seconds");
    details.erase("all_baseline_seconds");
    std::cout << "  " << std::left << std::setw(44) << r.name << std::setprecision(5) << r.seconds << " s; "
              << r.baseline << ": " << r.baseline_seconds << " s; ratio " << std::setprecision(3)
              << r.seconds / r.baseline_seconds << ' ' << details << '\n';
  }
}

}  // namespace dpfa::cli
