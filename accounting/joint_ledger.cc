#include "accounting/joint_ledger.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "accounting/accountant.h"
#include "accounting/ledger_chain.h"
#include "accounting/ledger_files.h"
#include "accounting/text_file.h"
#include "src/base/error.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string text_field(const json& object, const char* name) {
  return object.is_object() && object.contains(name) && object.at(name).is_string()
             ? object.at(name).get<std::string>()
             : std::string();
}

// The charges of all ledgers of one data set, each line once.
class Charges {
 public:
  // Counts what is new in this ledger, and what it has still to charge.
  void add(JointRun& run) {
    const json& planned = run.report.open.at("plan").at("event");
    bool named = true;  // every start so far has a random id
    const auto count = [&](const std::string& digest, const json& event) {
      // Without ids equal lines may stand for different releases.
      const std::string key = named ? digest : run.ledger.string() + digest;
      if (!charged_lines_.insert(key).second) return;
      ++run.own_charges;
      ++charged_[event.dump()];
    };
    const Chain chain = read_chain(read_text_file(run.ledger), [&](const json& entry) {
      const std::string kind = entry.at("kind");
      if (kind == "start" && text_field(entry, "id").empty() && !DPFA_PLANT("forks_share_their_tails"))
        named = false;
      if (kind == "charge") count(entry.at("digest"), entry.at("event"));
      if (kind == "torn") count(entry.at("digest"), planned);
    });
    named = false;
    if (chain.torn_tail) count("tail", planned);
    if (run.may_go_on) run.planned_rest = std::max<int64_t>(0, run.report.planned_steps - run.report.steps);
    planned_[planned.dump()] += run.planned_rest;
    const double overrun = run.report.open.at("plan").value("draw_overrun", 0.0);
    charged_deviation_ += static_cast<double>(run.own_charges) * overrun;
    deviation_ += static_cast<double>(run.own_charges + run.planned_rest) * overrun;
  }

  // Most probability with which some run left a drawn record out.
  double charged_deviation() const { return charged_deviation_; }
  double planned_deviation() const { return deviation_; }

  std::vector<Charge> charged() const { return list(charged_); }
  std::vector<Charge> planned() const {
    std::vector<Charge> all = list(charged_), rest = list(planned_);
    all.insert(all.end(), rest.begin(), rest.end());
    return all;
  }

 private:
  static std::vector<Charge> list(const std::map<std::string, int64_t>& counts) {
    std::vector<Charge> charges;
    for (const auto& [event, count] : counts) charges.push_back({event_from_json(json::parse(event)), count});
    return charges;
  }

  std::set<std::string> charged_lines_;
  std::map<std::string, int64_t> charged_, planned_;  // canonical event text to count
  double charged_deviation_ = 0, deviation_ = 0;
};

// Empty where the ledger is intact and says which data set it belongs to.
std::string read_run(const FoundLedger& found, JointRun& run) {
  const fs::path& ledger = run.ledger = found.file;
  run.may_go_on = found.may_go_on;
  try {
    run.report = verify_ledger(ledger.filename() == kLedgerFile ? ledger.parent_path() : ledger);
  } catch (const IoError& error) {
    return error.what();
  }
  if (!run.report.valid) return "the ledger '" + ledger.string() + "' is not intact: " + run.report.reason;
  run.run_id = text_field(run.report.open, "run_id");
  run.dataset_id = text_field(run.report.open, "dataset_id");
  return run.dataset_id.empty() ? "the ledger '" + ledger.string() + "' names no data set" : "";
}

std::string refusal_of(const JointReport& joint) {
  for (const JointRun& run : joint.runs) {
    if (!run.report.is_private)
      return "the run '" + run.ledger.string() + "' is NOT PRIVATE: " + run.report.not_private_because;
    if (run.report.relation != joint.runs.front().report.relation)
      return "the runs have different neighbouring relations (" + run.report.relation + " and " +
             joint.runs.front().report.relation + "), which do not compose";
  }
  return {};
}

void compute(JointReport& joint, double delta) {
  joint.relation = joint.runs.front().report.relation;
  joint.delta = delta;
  Charges charges;
  for (JointRun& run : joint.runs) {
    charges.add(run);
    if (delta == 0)
      joint.delta = joint.delta == 0 ? run.report.delta : std::min(joint.delta, run.report.delta);
  }
  try {
    const EpsilonReport whole = epsilon_of(charges.planned(), joint.delta, charges.planned_deviation());
    const EpsilonReport charged = epsilon_of(charges.charged(), joint.delta, charges.charged_deviation());
    joint.epsilon_charged = std::min(whole.epsilon, charged.epsilon);
    joint.epsilon = whole.epsilon;
    joint.lower_bound = whole.lower_bound;
    joint.accountant = whole.accountant;
  } catch (const Error& error) {
    joint.refusal = std::string("what was charged has no joint epsilon: ") + error.what();
  }
}

// A run whose ranks hold records of their own names all their data sets, joined by '+'.
bool names(const std::string& run_ids, const std::string& dataset_id) {
  return ("+" + run_ids + "+").find("+" + dataset_id + "+") != std::string::npos;
}

}  // namespace

JointReport joint_ledgers(const std::string& dataset_id, const std::vector<fs::path>& places, double delta) {
  JointReport joint;
  joint.dataset_id = dataset_id;
  joint.epsilon = joint.epsilon_charged = std::numeric_limits<double>::infinity();
  const LedgerSearch found = find_ledgers(places);
  if (!found.without_ledger.empty()) {
    joint.refusal = "the folder '" + found.without_ledger.front().string() +
                    "' has checkpoints and no ledger: what was released from there is not known";
  }
  for (const FoundLedger& ledger : found.ledgers) {
    JointRun run;
    const std::string problem = read_run(ledger, run);
    if (!problem.empty()) {
      if (joint.refusal.empty()) joint.refusal = problem;
    } else {
      (names(run.dataset_id, dataset_id) ? joint.runs : joint.others).push_back(std::move(run));
    }
  }
  if (joint.refusal.empty()) joint.refusal = refusal_of(joint);
  if (!joint.refusal.empty()) return joint;
  if (joint.runs.empty()) {
    joint.epsilon = joint.epsilon_charged = 0;
    return joint;
  }
  compute(joint, delta);
  return joint;
}

std::string dataset_id_of(const std::string& text) {
  if (!fs::is_directory(text)) return text;
  const fs::path index = fs::path(text) / "dataset.json";
  const std::string id = text_field(json::parse(read_text_file(index), nullptr, false), "id");
  if (id.empty()) throw IoError("the file '" + index.string() + "' holds no id of a data set");
  return id;
}

}  // namespace dpfa::accounting
