// Events as JSON objects, and back.
#include <limits>
#include <set>

#include "accounting/event_fields.h"

namespace dpfa::accounting {
namespace {

using internal::Range;
using nlohmann::json;

constexpr int kMostNesting = 16;  // of compositions: a file cannot exhaust the stack

// In the order of the alternatives of Event.
constexpr const char* kNames[] = {"gaussian",
                                  "poisson_subsampled_gaussian",
                                  "truncated_poisson_subsampled_gaussian",
                                  "sampled_without_replacement_gaussian",
                                  "same_sample_gaussian",
                                  "shuffled_epoch_gaussian",
                                  "tree_aggregation",
                                  "banded_matrix_cyclic_poisson",
                                  "laplace",
                                  "discrete_gaussian",
                                  "poisson_subsampled_discrete_gaussian",
                                  "poisson_subsampled_noise_shares",
                                  "discrete_laplace",
                                  "skellam",
                                  "randomized_response",
                                  "exponential_mechanism",
                                  "zero_concentrated",
                                  "approximate_dp",
                                  "composed"};
static_assert(std::size(kNames) == std::variant_size_v<Event>);

class Writer {
 public:
  explicit Writer(json& object) : object_(object) {}
  void real(const char* name, double value, Range) { object_[name] = value; }
  void real_or(const char* name, double value, Range) {
    if (value != 1) object_[name] = value;
  }
  void reals(const char* name, const std::vector<double>& values, Range) { object_[name] = values; }
  void whole(const char* name, int64_t value, int64_t) { object_[name] = value; }
  void relation(Relation relation, std::initializer_list<Relation> = {}) {
    object_["relation"] = relation_name(relation);
  }
  void relation_or(Relation value) {
    if (value != Relation::kAddOrRemoveOne) relation(value);
  }
  void parts(const std::vector<Charge>& charges) {
    json list = json::array();
    for (const Charge& charge : charges)
      list.push_back({{"event", to_json(charge.event)}, {"count", charge.count}});
    object_["parts"] = std::move(list);
  }

 private:
  json& object_;
};

[[noreturn]] void refuse(const json& object, const std::string& why) {
  throw UnsupportedEvent("event " + object.dump() + " " + why);
}

Event read(const json& object, int nesting);

// Every field must be read: one that nobody reads could have changed the meaning of the event.
class Reader {
 public:
  Reader(const json& object, int nesting) : object_(object), nesting_(nesting) {}
  void real(const char* name, double& value, Range) { value = number(get(name), name); }
  void real_or(const char* name, double& value, Range range) {
    if (object_.contains(name)) real(name, value, range);
  }
  void reals(const char* name, std::vector<double>& values, Range) {
    if (!get(name).is_array()) refuse(object_, std::string("has no list '") + name + "'");
    for (const json& item : get(name)) values.push_back(number(item, name));
  }
  void whole(const char* name, int64_t& value, int64_t) { value = whole_number(object_, name); }
  void relation(Relation& value, std::initializer_list<Relation> = {}) {
    for (Relation candidate : {Relation::kAddOrRemoveOne, Relation::kReplaceOne, Relation::kZeroOut}) {
      if (get("relation") == relation_name(candidate)) {
        value = candidate;
        return;
      }
    }
    refuse(object_, "has a relation that this program does not know");
  }
  void relation_or(Relation& value) {
    if (object_.contains("relation")) relation(value);
  }
  void parts(std::vector<Charge>& charges) {
    if (!get("parts").is_array()) refuse(object_, "has no list 'parts'");
    for (const json& part : get("parts")) {
      if (!part.is_object() || part.size() != 2 || !part.contains("event"))
        refuse(object_, "has a part that is not {\"event\": ..., \"count\": ...}");
      charges.push_back({read(part.at("event"), nesting_ + 1), whole_number(part, "count")});
    }
  }
  void require_all_read() const {
    if (read_.size() + 1 != object_.size()) refuse(object_, "has fields that this program does not know");
  }

 private:
  const json& get(const char* name) {
    if (!object_.contains(name)) refuse(object_, std::string("lacks the field '") + name + "'");
    read_.insert(name);
    return object_.at(name);
  }
  double number(const json& value, const char* name) const {
    if (!value.is_number()) refuse(object_, std::string("lacks the number '") + name + "'");
    return value.get<double>();
  }
  int64_t whole_number(const json& object, const char* name) {
    if (&object == &object_) get(name);
    if (!object.contains(name) || !object.at(name).is_number_integer() ||
        (object.at(name).is_number_unsigned() &&
         object.at(name).get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))) {
      refuse(object_, std::string("lacks the whole number '") + name + "'");
    }
    return object.at(name).get<int64_t>();
  }

  const json& object_;
  int nesting_;
  std::set<std::string> read_;
};

template <size_t kIndex = 0>
Event read_as(size_t index, const json& object, int nesting) {
  if constexpr (kIndex < std::variant_size_v<Event>) {
    if (index != kIndex) return read_as<kIndex + 1>(index, object, nesting);
    std::variant_alternative_t<kIndex, Event> event;
    Reader reader(object, nesting);
    internal::fields(reader, event);
    reader.require_all_read();
    return event;
  }
  throw InternalError("no event has the index " + std::to_string(index));
}

Event read(const json& object, int nesting) {
  if (nesting > kMostNesting)
    throw UnsupportedEvent("compositions are nested more than " + std::to_string(kMostNesting) +
                           " deep: write their parts as one list");
  if (!object.is_object() || !object.contains("mechanism") || !object.at("mechanism").is_string()) {
    refuse(object, "names no mechanism");
  }
  const std::string mechanism = object.at("mechanism");
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (mechanism == kNames[i]) return read_as(i, object, nesting);
  }
  refuse(object, "has a mechanism without an accountant in this program");
}

}  // namespace

json to_json(const Event& event) {
  json object = {{"mechanism", kNames[event.index()]}};
  Writer writer(object);
  std::visit([&writer](auto copy) { internal::fields(writer, copy); }, event);
  return object;
}

Event event_from_json(const json& object) {
  Event event = read(object, 0);
  check_event(event);
  return event;
}

}  // namespace dpfa::accounting
