// The parameters of one accounting case, and the table of quantities that can be evaluated.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "accounting/hockey_stick.h"

namespace dpfa::accounting {

// Thrown where a case cannot be evaluated soundly; the text says why.
struct NotUnderstood : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Reads parameters by name and notes which were read: one that nobody read (a step count, a relation) could
// change the value, so the case is then not understood. Every getter throws NotUnderstood on a missing or
// wrong value.
class CaseParameters {
 public:
  // `check` is the kind of comparison: it decides whether a bound may stand for the exact value.
  CaseParameters(const nlohmann::json& parameters, std::string check);

  bool has(const std::string& name) const { return parameters_.contains(name); }
  double number(const std::string& name);  // the text "inf" is infinity
  double number(const std::string& name, double absent);
  double positive(const std::string& name);
  double rate(const std::string& name);    // in [0, 1]
  int64_t count(const std::string& name);  // whole number >= 0
  int64_t count(const std::string& name, int64_t absent);
  double order();  // >= 1
  std::string word(const std::string& name, const std::string& absent);
  std::vector<double> numbers(const std::string& name);
  // A list, or a text such as "1.1..10.9 step 0.1, 12..63".
  std::vector<double> orders();
  // Rows of "events", by the column names of "fields"; columns that `names` does not list are not understood.
  std::vector<std::map<std::string, double>> rows(const std::vector<std::string>& names);
  const nlohmann::json& list(const std::string& name);
  // Rows of numbers without column names.
  std::vector<std::vector<double>> rows();
  void ignore(const std::string& name) { read_.insert(name); }

  const std::string& check() const { return check_; }
  void require_all_read() const;

 private:
  const nlohmann::json& get(const std::string& name);

  const nlohmann::json& parameters_;
  std::string check_;
  std::set<std::string> read_;
};

struct CaseValue {
  double value;
  // For the check "calibration": whether the target is met with the noise of `value` times `factor`; else
  // empty.
  std::function<bool(double factor)> meets;
  // Of a discretised loss, {"pmf": {"index": mass, ...}, "infinity_mass": m}; else null.
  nlohmann::json masses = nullptr;
};

// Keyed by "mechanism/quantity".
using CaseTable = std::map<std::string, std::function<CaseValue(CaseParameters&)>>;
void add_gaussian_cases(CaseTable& table);
void add_composed_cases(CaseTable& table);
void add_discrete_cases(CaseTable& table);
void add_renyi_cases(CaseTable& table);

// The smallest scale up to 1e12 that meets a target, within 1e-12 relative, rounded to the side that meets
// it; 0 where every scale does, infinity where none does.
CaseValue smallest_scale(const std::function<bool(double)>& meets);

// The directions that `adjacency` or `neighboring` of the case ask for; without both, add and remove.
struct Adjacency {
  bool remove, add, replace;
};
Adjacency read_adjacency(CaseParameters& parameters);

}  // namespace dpfa::accounting
