#include "accounting/cases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "accounting/case_losses.h"
#include "accounting/case_parameters.h"
#include "accounting/text_file.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;

constexpr double kCalibrationWidth = 0.01;  // a calibrated value this much smaller must miss the target

const CaseTable& table() {
  static const CaseTable result = [] {
    CaseTable entries;
    add_gaussian_cases(entries);
    add_composed_cases(entries);
    add_discrete_cases(entries);
    add_renyi_cases(entries);
    add_loss_cases(entries);
    return entries;
  }();
  return result;
}

double read_expected(const json& expected) {
  if (expected == "inf") return std::numeric_limits<double>::infinity();
  if (!expected.is_number()) throw NotUnderstood("the expected value is not a number");
  return expected.get<double>();
}

double read_tolerance(const json& test_case, double expected) {
  const double tolerance = test_case.value("tolerance", 0.0);
  const std::string kind = test_case.value("tolerance_kind", "abs");
  if (kind == "abs") return tolerance;
  if (kind == "rel") return std::isinf(expected) ? 0 : tolerance * std::abs(expected);
  throw NotUnderstood("the tolerance kind '" + kind + "' is not understood");
}

bool passes(const std::string& check, double value, double expected, double tolerance) {
  const bool same = value == expected;  // infinities too, which have no difference
  if (check == "near") return same || std::abs(value - expected) <= tolerance;
  if (check == "equal") return same;
  if (check == "at_most") return value <= expected + tolerance;
  if (check == "at_least") return value >= expected - tolerance;
  if (check == "greater_than") return value > expected;
  if (check == "upper_bound_tight") {
    return same || (value >= expected - tolerance && value <= expected + 0.02 * std::max(1.0, expected));
  }
  throw NotUnderstood("the check '" + check + "' is not understood");
}

std::string format(double value) { return json(value).dump(); }

// Every mass of either side against the other one's, absent ones being 0.
void compare_masses(const json& test_case, const json& masses, CaseResult& result) {
  const json& expected = result.expected;
  if (!expected.is_object() || !expected.contains("pmf") || !expected.at("pmf").is_object())
    throw NotUnderstood("the expected value is no discretised loss");
  std::set<std::string> indices;
  for (const json* one : {&expected, &masses}) {
    for (const auto& [index, mass] : one->at("pmf").items()) indices.insert(index);
  }
  const auto near = [&](double value, double other) {
    return passes(test_case.value("check", "near"), value, other, read_tolerance(test_case, other));
  };
  result.pass = !expected.contains("infinity_mass") ||
                near(masses.at("infinity_mass"), expected.at("infinity_mass").get<double>());
  for (const std::string& index : indices)
    result.pass =
        result.pass && near(masses.at("pmf").value(index, 0.0), expected.at("pmf").value(index, 0.0));
  if (!result.pass) result.message = "a mass differs by more than the tolerance";
}

void evaluate(const json& test_case, CaseResult& result) {
  const std::string key =
      test_case.at("mechanism").get<std::string>() + "/" + test_case.at("quantity").get<std::string>();
  const auto entry = table().find(key);
  if (entry == table().end()) throw NotUnderstood("there is no evaluation of " + key);
  const std::string check = test_case.value("check", "near");
  CaseParameters parameters(test_case.at("params"), check);
  const CaseValue value = entry->second(parameters);
  parameters.require_all_read();
  if (!value.masses.is_null()) {
    result.value = value.masses;
    compare_masses(test_case, value.masses, result);
    return;
  }
  if (std::isnan(value.value)) throw NotUnderstood("the value could not be computed");
  if (check == "calibration") {
    if (!value.meets) throw NotUnderstood("this quantity is not a calibration");
    result.pass = value.meets(1) && !value.meets(1 - kCalibrationWidth);
    if (!result.pass) result.message = "misses the target, or a value 1 % smaller meets it too";
  } else {
    const double expected = read_expected(result.expected);
    const double tolerance = read_tolerance(test_case, expected);
    result.pass = passes(check, value.value, expected, tolerance);
    if (!result.pass) result.message = check + " with tolerance " + format(tolerance) + " does not hold";
  }
  result.value = std::isinf(value.value) ? json(value.value > 0 ? "inf" : "-inf") : json(value.value);
}

}  // namespace

CaseResult evaluate_case(const json& test_case) {
  CaseResult result;
  try {
    if (!test_case.is_object()) throw NotUnderstood("the case is not an object");
    if (test_case.contains("id")) {
      result.id =
          test_case.at("id").is_string() ? test_case.at("id").get<std::string>() : test_case.at("id").dump();
    }
    if (test_case.contains("expected")) result.expected = test_case.at("expected");
    evaluate(test_case, result);
  } catch (const std::exception& error) {
    // Whatever a case trips over, the other cases are still evaluated; the text names the reason.
    result.value = nullptr;
    result.pass = false;
    result.message = std::string("not understood: ") + error.what();
  }
  return result;
}

std::vector<json> read_cases(const std::filesystem::path& file) {
  const json cases = json::parse(read_text_file(file), nullptr, false);
  if (!cases.is_array()) throw IoError("'" + file.string() + "' is not a JSON array of cases");
  return cases.get<std::vector<json>>();
}

}  // namespace dpfa::accounting
