#include "accounting/ledger_verify.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "accounting/accountant.h"
#include "accounting/event.h"
#include "accounting/ledger_chain.h"
#include "accounting/ledger_files.h"
#include "accounting/share_ledger.h"
#include "accounting/text_file.h"
#include "src/base/error.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Invalid {
  std::string reason;
};

// The fields of the open line that the epsilon rests on.
struct Terms {
  Event event;
  int64_t steps;
  double delta;
  double draw_overrun;  // of one step
};

Terms read_terms(const json& plan) {
  try {
    const json& steps = plan.at("steps");
    if (!steps.is_number_integer() || steps.get<int64_t>() < 0)
      throw Invalid{"the plan in line 1 has no whole steps"};
    const double overrun = plan.value("draw_overrun", 0.0);
    if (!(overrun >= 0 && overrun <= 1))
      throw Invalid{"the plan in line 1 has a draw_overrun outside [0, 1]"};
    return {event_from_json(plan.at("event")), steps.get<int64_t>(), plan.at("target_delta").get<double>(),
            overrun};
  } catch (const std::exception& error) {
    throw Invalid{std::string("the plan in line 1 gives no event, steps and target_delta: ") + error.what()};
  }
}

// Empty where the run is private.
std::string why_not_private(const json& open) {
  if (!open.contains("private") || !open.at("private").is_boolean())
    throw Invalid{"line 1 does not say whether the run is private"};
  if (!open.contains("stamps") || !open.at("stamps").is_array())
    throw Invalid{"line 1 has no list of stamps"};
  std::string reasons;
  for (const json& stamp : open.at("stamps")) {
    reasons += (reasons.empty() ? "" : ", ") + (stamp.is_string() ? stamp.get<std::string>() : stamp.dump());
  }
  if (!open.at("private").get<bool>() && reasons.empty()) reasons = "the run was trained without privacy";
  return reasons;
}

double outsiders_epsilon(std::vector<Charge> charges, const EpsilonReport& of_insiders, double deviation) {
  bool differs = false;
  for (Charge& charge : charges) {
    const Event seen = seen_by_outsiders(charge.event);
    differs = differs || to_json(seen) != to_json(charge.event);
    charge.event = seen;
  }
  if (!differs) return of_insiders.epsilon;
  return std::min(of_insiders.epsilon, epsilon_of(charges, of_insiders.delta, deviation).epsilon);
}

class Verifier {
 public:
  LedgerReport verify(const std::string& text, const std::vector<LedgerAnchor>& anchors) {
    report_.epsilon = report_.epsilon_charged = report_.epsilon_outsiders = kInfinity;
    try {
      read(text, anchors);
      judge();
      report_.valid = true;
    } catch (const Invalid& invalid) {
      report_.reason = invalid.reason;
    }
    return report_;
  }

 private:
  void read(const std::string& text, const std::vector<LedgerAnchor>& anchors) {
    std::set<std::string> wanted;
    for (const LedgerAnchor& anchor : anchors) wanted.insert(anchor.digest);
    std::map<std::string, int64_t> found;  // digest to 1-based line
    std::string problem;
    const Chain chain = read_chain(text, [&](const json& entry) {
      if (wanted.contains(entry.at("digest"))) found[entry.at("digest")] = entry.at("seq").get<int64_t>() + 1;
      if (problem.empty()) problem = take(entry);
    });
    report_.lines = chain.entries;
    report_.head = chain.digest;
    report_.open = chain.open;
    report_.steps = chain.charges;
    if (!chain.valid) throw Invalid{chain.reason};
    if (chain.torn_tail) add_torn();
    if (!problem.empty()) throw Invalid{problem};
    for (const LedgerAnchor& anchor : anchors) {
      const auto place = found.find(anchor.digest);
      if (place == found.end() || (anchor.lines != 0 && place->second != anchor.lines)) {
        throw Invalid{anchor.source + " names the digest " + anchor.digest.substr(0, 16) + "..." +
                      (anchor.lines != 0 ? " for line " + std::to_string(anchor.lines) : "") +
                      ", which this ledger does not have there: lines were removed from its end, or it is "
                      "another ledger"};
      }
    }
  }

  std::string take(const json& entry) {
    const std::string kind = entry.at("kind");
    if (kind == "open") plan_ = entry.value("plan", json());
    if (kind == "start") start_ = entry;
    if (kind == "start") ++starts_;
    if (kind == "torn") add_torn();
    if (kind != "charge") return {};
    const int64_t step = entry.at("step");
    if (starts_ == 0) return "step " + std::to_string(step) + " is charged before any start";
    const std::string problem = share_contradiction(plan_, start_, entry.at("event"));
    if (!problem.empty()) return "step " + std::to_string(step) + ": " + problem;
    add({starts_ - 1, entry.at("event"), step, step, 1});
    return {};
  }

  void add_torn() {
    ++report_.torn;
    add({starts_ - 1, nullptr, -1, -1, 1});
  }

  void add(const Spending& charge) {
    if (!report_.spending.empty()) {
      Spending& last = report_.spending.back();
      if (last.incarnation == charge.incarnation && last.event == charge.event &&
          (charge.first_step == -1 || charge.first_step == last.last_step + 1)) {
        last.last_step = charge.last_step;
        ++last.charges;
        return;
      }
    }
    report_.spending.push_back(charge);
  }

  void judge() {
    const json& open = report_.open;
    if (!open.contains("plan") || !open.contains("plan_digest"))
      throw Invalid{"line 1 has no plan or no plan_digest"};
    if (blake2b_hex(open.at("plan").dump()) != open.at("plan_digest")) {
      throw Invalid{"the plan in line 1 does not fit its plan_digest"};
    }
    const json& plan = open.at("plan");
    const std::string problem =
        share_contradiction(plan, json(), plan.is_object() ? plan.value("event", json()) : json());
    if (!problem.empty()) throw Invalid{"the plan in line 1: " + problem};
    report_.not_private_because = why_not_private(open);
    report_.is_private = report_.not_private_because.empty();
    if (report_.is_private) compute(read_terms(open.at("plan")));
  }

  void compute(const Terms& terms) {
    report_.delta = terms.delta;
    report_.planned_steps = terms.steps;
    report_.relation = relation_of(terms.event);
    std::vector<Charge> charges;
    try {
      for (const Spending& part : report_.spending) {
        charges.push_back({part.event.is_null() ? terms.event : event_from_json(part.event), part.charges});
      }
      const double charged = static_cast<double>(report_.steps) * terms.draw_overrun;
      report_.epsilon_charged = epsilon_of(charges, terms.delta, charged).epsilon;
      charges.push_back({terms.event, std::max<int64_t>(0, terms.steps - report_.steps)});
      report_.deviation =
          static_cast<double>(std::max(report_.steps, report_.planned_steps)) * terms.draw_overrun;
      const EpsilonReport whole = epsilon_of(charges, terms.delta, report_.deviation);
      report_.epsilon = whole.epsilon;
      report_.lower_bound = whole.lower_bound;
      report_.accountant = whole.accountant;
      report_.epsilon_outsiders = outsiders_epsilon(charges, whole, report_.deviation);
    } catch (const Error& error) {
      throw Invalid{std::string("what was charged has no epsilon: ") + error.what()};
    }
  }

  LedgerReport report_;
  json plan_, start_;  // of the open line; of the last process start
  int64_t starts_ = 0;
};

std::vector<LedgerAnchor> checkpoint_anchors(const std::filesystem::path& run) {
  std::vector<LedgerAnchor> anchors;
  const std::filesystem::path folder = run / "checkpoints";
  if (!std::filesystem::is_directory(folder)) return anchors;
  for (const auto& checkpoint : std::filesystem::directory_iterator(folder)) {
    if (checkpoint.path().filename().string().rfind("step_", 0) != 0) continue;
    const std::string source = "the checkpoint " + checkpoint.path().filename().string();
    const json manifest = json::parse(read_text_file(checkpoint.path() / "manifest.json"), nullptr, false);
    const json ledger = manifest.is_object() ? manifest.value("ledger", json()) : json();
    if (!ledger.is_object() || !ledger.value("lines", json()).is_number_integer() ||
        !ledger.value("digest", json()).is_string()) {
      throw Invalid{source + " does not say which ledger it belongs to (manifest.json, field \"ledger\")"};
    }
    anchors.push_back({ledger.at("lines"), ledger.at("digest"), source});
  }
  return anchors;
}

}  // namespace

LedgerReport verify_ledger_text(const std::string& text, const std::vector<LedgerAnchor>& anchors) {
  return Verifier().verify(text, anchors);
}

LedgerReport verify_ledger(const std::filesystem::path& run, std::vector<LedgerAnchor> anchors) {
  if (!std::filesystem::is_directory(run)) return verify_ledger_text(read_text_file(run), anchors);
  const std::string text = read_text_file(run / kLedgerFile);
  std::string problem;
  try {
    for (LedgerAnchor& anchor : checkpoint_anchors(run)) anchors.push_back(std::move(anchor));
  } catch (const Invalid& invalid) {
    problem = invalid.reason;
  } catch (const IoError& error) {
    problem = error.what();
  }
  LedgerReport report = verify_ledger_text(text, anchors);
  if (report.valid && !problem.empty()) {
    report.valid = false;
    report.reason = problem;
    report.epsilon = report.epsilon_charged = report.epsilon_outsiders = kInfinity;
  }
  return report;
}

}  // namespace dpfa::accounting
