#include "accounting/case_parameters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <sstream>

namespace dpfa::accounting {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr size_t kMostOrders = 1000000;

double read_number(const nlohmann::json& json, const std::string& name) {
  if (json.is_number()) return json.get<double>();
  if (json == "inf") return kInfinity;
  throw NotUnderstood("parameter '" + name + "' is not a number");
}

double parse_order(const std::string& text) {
  double value = 0;
  const size_t begin = text.find_first_not_of(' ');
  const size_t end = text.find_last_not_of(' ') + 1;
  if (begin != std::string::npos) {
    if (text.substr(begin, end - begin) == "inf") return kInfinity;
    const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end, value);
    if (error == std::errc() && stop == text.data() + end) return value;
  }
  throw NotUnderstood("'" + text + "' in parameter 'orders' is not a number");
}

// "a", "a..b" (step 1) or "a..b step s", both ends included.
void parse_range(const std::string& text, std::vector<double>& orders) {
  const size_t dots = text.find("..");
  if (dots == std::string::npos) {
    orders.push_back(parse_order(text));
    return;
  }
  const size_t word = text.find("step");
  const double first = parse_order(text.substr(0, dots));
  const double last = parse_order(text.substr(dots + 2, word == std::string::npos ? word : word - dots - 2));
  const double step = word == std::string::npos ? 1 : parse_order(text.substr(word + 4));
  const double steps = std::round((last - first) / step * 1e6) / 1e6;
  if (!(step > 0) || !(steps >= 0) || steps > kMostOrders)
    throw NotUnderstood("'" + text + "' is not a range of orders");
  for (double i = 0; i <= steps; ++i) orders.push_back(first + i * step);
}

}  // namespace

CaseParameters::CaseParameters(const nlohmann::json& parameters, std::string check)
    : parameters_(parameters), check_(std::move(check)) {}

const nlohmann::json& CaseParameters::get(const std::string& name) {
  if (!parameters_.contains(name)) throw NotUnderstood("parameter '" + name + "' is missing");
  read_.insert(name);
  return parameters_.at(name);
}

double CaseParameters::number(const std::string& name) { return read_number(get(name), name); }

double CaseParameters::number(const std::string& name, double absent) {
  return has(name) ? number(name) : absent;
}

double CaseParameters::positive(const std::string& name) {
  const double value = number(name);
  if (!(value > 0)) throw NotUnderstood("parameter '" + name + "' is not positive");
  return value;
}

double CaseParameters::rate(const std::string& name) {
  const double value = number(name);
  if (!(value >= 0 && value <= 1)) throw NotUnderstood("parameter '" + name + "' is not between 0 and 1");
  return value;
}

int64_t CaseParameters::count(const std::string& name) {
  const double value = number(name);
  if (!(value >= 0 && value < 9e15) || value != std::floor(value)) {
    throw NotUnderstood("parameter '" + name + "' is not a count");
  }
  return static_cast<int64_t>(value);
}

int64_t CaseParameters::count(const std::string& name, int64_t absent) {
  return has(name) ? count(name) : absent;
}

double CaseParameters::order() {
  const double value = number("order");
  if (!(value >= 1)) throw NotUnderstood("parameter 'order' is below 1");
  return value;
}

std::string CaseParameters::word(const std::string& name, const std::string& absent) {
  if (!has(name)) return absent;
  const nlohmann::json& json = get(name);
  if (!json.is_string()) throw NotUnderstood("parameter '" + name + "' is not a text");
  return json;
}

std::vector<double> CaseParameters::numbers(const std::string& name) {
  const nlohmann::json& json = get(name);
  if (json.is_number()) return {json.get<double>()};
  if (!json.is_array()) throw NotUnderstood("parameter '" + name + "' is not a list");
  std::vector<double> values;
  for (const nlohmann::json& item : json) values.push_back(read_number(item, name));
  return values;
}

std::vector<double> CaseParameters::orders() {
  std::vector<double> orders;
  if (get("orders").is_string()) {
    std::istringstream text(word("orders", ""));
    for (std::string range; std::getline(text, range, ',');) parse_range(range, orders);
  } else {
    orders = numbers("orders");
  }
  for (double order : orders) {
    if (!(order >= 1)) throw NotUnderstood("an order is below 1");
  }
  if (orders.empty()) throw NotUnderstood("there are no orders");
  return orders;
}

const nlohmann::json& CaseParameters::list(const std::string& name) {
  const nlohmann::json& json = get(name);
  if (!json.is_array()) throw NotUnderstood("parameter '" + name + "' is not a list");
  return json;
}

std::vector<std::vector<double>> CaseParameters::rows() {
  const nlohmann::json& json = get("events");
  if (!json.is_array()) throw NotUnderstood("parameter 'events' is not a list");
  std::vector<std::vector<double>> rows;
  for (const nlohmann::json& row : json) {
    if (!row.is_array()) throw NotUnderstood("a row of 'events' is not a list of numbers");
    rows.emplace_back();
    for (const nlohmann::json& item : row) rows.back().push_back(read_number(item, "events"));
  }
  return rows;
}

std::vector<std::map<std::string, double>> CaseParameters::rows(const std::vector<std::string>& names) {
  std::vector<std::string> columns = names;
  if (has("fields")) {
    const nlohmann::json& fields = get("fields");
    columns.clear();
    if (fields.is_string()) {
      std::string spaced = fields.get<std::string>();
      for (char& c : spaced) c = std::isalnum(static_cast<unsigned char>(c)) || c == '_' ? c : ' ';
      std::istringstream text(spaced);
      for (std::string name; text >> name;) columns.push_back(name);
    } else if (fields.is_array()) {
      for (const nlohmann::json& field : fields)
        columns.push_back(field.is_string() ? field.get<std::string>() : "");
    }
  }
  std::vector<std::map<std::string, double>> result;
  for (const std::string& column : columns) {
    if (std::find(names.begin(), names.end(), column) == names.end()) {
      throw NotUnderstood("column '" + column + "' of the events is not understood");
    }
  }
  for (const std::vector<double>& row : rows()) {
    if (row.size() > columns.size()) throw NotUnderstood("a row of 'events' has more numbers than columns");
    result.emplace_back();
    for (size_t i = 0; i < row.size(); ++i) result.back()[columns[i]] = row[i];
  }
  return result;
}

void CaseParameters::require_all_read() const {
  for (const auto& [name, value] : parameters_.items()) {
    if (!read_.contains(name))
      throw NotUnderstood("parameter '" + name + "' is not understood for this quantity");
  }
}

CaseValue smallest_scale(const std::function<bool(double)>& meets) {
  double high = 1;
  while (!meets(high)) {
    if (high > 1e12) return {kInfinity, {}};
    high *= 2;
  }
  double low = high / 2;
  while (meets(low)) {
    if (low < 1e-12) return {0, {}};  // no noise is needed
    high = low;
    low /= 2;
  }
  while (high - low > 1e-12 * high) {
    const double middle = low + (high - low) / 2;
    (meets(middle) ? high : low) = middle;
  }
  return {high, [meets, high](double factor) { return meets(high * factor); }};
}

Adjacency read_adjacency(CaseParameters& parameters) {
  const std::string adjacency = parameters.word("adjacency", "");
  const std::string neighboring = parameters.word("neighboring", "");
  if (!adjacency.empty() && !neighboring.empty())
    throw NotUnderstood("both adjacency and neighboring are given");
  if (adjacency == "remove") return {true, false, false};
  if (adjacency == "add") return {false, true, false};
  if (adjacency == "replace" || neighboring == "replace_one") return {false, false, true};
  const std::string both = adjacency + neighboring;
  if (both.empty() || both == "zero_out" || both == "add_or_remove_one" || both == "replace_special") {
    return {true, true, false};
  }
  throw NotUnderstood("the relation '" + both + "' is not understood");
}

}  // namespace dpfa::accounting
