// `dpfa ledger show --dataset`: what all runs on one data set cost together.
#include <iostream>

#include "accounting/joint_ledger.h"
#include "src/base/error.h"
#include "src/cli/ledger_dataset.h"
#include "src/cli/ledger_text.h"
#include "src/cli/options.h"

namespace dpfa::cli {
namespace {

using accounting::JointReport;
using accounting::JointRun;
using nlohmann::json;

json runs_json(const std::vector<JointRun>& runs) {
  json list = json::array();
  for (const JointRun& run : runs) {
    list.push_back({{"ledger", run.ledger.string()},
                    {"run_id", run.run_id},
                    {"dataset_id", run.dataset_id},
                    {"private", run.report.is_private},
                    {"relation", run.report.relation},
                    {"charges", run.report.steps},
                    {"own_charges", run.own_charges},
                    {"planned_rest", run.planned_rest},
                    {"head", run.report.head}});
  }
  return list;
}

json joint_json(const JointReport& joint) {
  const bool stands = joint.refusal.empty();
  return {{"dataset_id", joint.dataset_id},
          {"epsilon", stands ? finite_or_text(joint.epsilon) : json()},
          {"epsilon_charged", stands ? finite_or_text(joint.epsilon_charged) : json()},
          {"lower_bound", stands ? finite_or_text(joint.lower_bound) : json()},
          {"delta", stands ? json(joint.delta) : json()},
          {"accountant", stands ? json(joint.accountant) : json()},
          {"relation", stands ? json(joint.relation) : json()},
          {"refused", joint.refusal},
          {"runs", runs_json(joint.runs)},
          {"other_data_sets", runs_json(joint.others)}};
}

void print_joint(const JointReport& joint) {
  std::cout << "data set " << joint.dataset_id << ": " << joint.runs.size() << " ledger(s)\n";
  for (const JointRun& run : joint.runs) {
    std::cout << "  " << run.ledger.string() << ": run " << run.run_id << ", " << run.report.steps
              << " charges";
    if (joint.refusal.empty() && run.own_charges < run.report.steps)
      std::cout << ", " << run.report.steps - run.own_charges << " of them also in a ledger above";
    if (run.planned_rest > 0) std::cout << ", " << run.planned_rest << " more planned";
    std::cout << "\n";
  }
  for (const JointRun& run : joint.others)
    std::cout << "not counted: " << run.ledger.string() << " is on data set " << run.dataset_id << "\n";
  if (!joint.refusal.empty()) {
    std::cout << "REFUSED: there is no joint epsilon: " << joint.refusal << "\n";
    return;
  }
  std::cout
      << "joint epsilon " << short_text(joint.epsilon) << " at delta " << short_text(joint.delta)
      << " with all planned steps, " << short_text(joint.epsilon_charged) << " charged so far\n"
      << "accountant " << joint.accountant << ", relation " << joint.relation << "; no analysis can go below "
      << short_text(joint.lower_bound)
      << "\nIt holds for runs that were fixed in advance, and covers the ledgers above and no other run.\n";
}

}  // namespace

int show_dataset(const Arguments& arguments) {
  std::string dataset;
  std::vector<std::string> runs, more;
  double delta = 0;
  bool as_json = false;
  Options options(
      "dpfa ledger show --dataset DIR|ID --runs DIR... [--delta D] [--json]",
      "Prints the joint epsilon of all runs, sweeps and forks on one data set. The common beginning of a "
      "run and its\nforks is charged once, every tail is charged. A ledger that cannot be read refuses "
      "the number.");
  options.require("dataset", &dataset, "folder of `dpfa data prepare`, or the id in its dataset.json")
      .add("runs", &runs, "run folders, ledger files, or folders above them")
      .positional_rest("folders", &more, "more of them")
      .add("delta", &delta, "delta of the joint epsilon; 0: the smallest target_delta of the runs")
      .flag("json", &as_json, "prints one JSON object");
  if (!options.parse(arguments)) return 0;
  runs.insert(runs.end(), more.begin(), more.end());
  if (runs.empty()) throw ConfigError("--runs is missing: name the run folders, or a folder above them");
  if (!(delta >= 0 && delta < 1)) throw ConfigError("--delta must lie between 0 and 1");
  const JointReport joint =
      accounting::joint_ledgers(accounting::dataset_id_of(dataset), {runs.begin(), runs.end()}, delta);
  if (as_json) {
    std::cout << joint_json(joint).dump() << "\n";
  } else {
    print_joint(joint);
  }
  return joint.refusal.empty() ? 0 : static_cast<int>(ExitCode::kState);
}

}  // namespace dpfa::cli
