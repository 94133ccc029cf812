#include <cmath>
#include <iostream>
#include <optional>

#include <nlohmann/json.hpp>

#include "accounting/ledger_files.h"
#include "accounting/ledger_verify.h"
#include "src/base/error.h"
#include "src/base/file.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/data/staging_folder.h"
#include "src/model/gpt2_io.h"
#include "src/train/frozen_model.h"

namespace dpfa::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrivacyFile = "PRIVACY.json";

// The run folder of RUN/checkpoints/step_X or RUN/latest; empty where no ledger is near the checkpoint.
fs::path run_of(const fs::path& checkpoint) {
  fs::path folder = fs::weakly_canonical(checkpoint);
  for (int level = 0; level < 3; ++level, folder = folder.parent_path())
    if (fs::exists(folder / accounting::kLedgerFile)) return folder;
  return {};
}

// What the ledger says about the whole run, in the words of its verifier.
nlohmann::ordered_json privacy_facts(const accounting::LedgerReport& report) {
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json("inf");
  };
  nlohmann::ordered_json facts = {{"private", report.valid && report.is_private}};
  if (!report.valid || !report.is_private) {
    facts["note"] = "NOT PRIVATE: " +
                    (report.valid ? report.not_private_because : "the ledger is not valid: " + report.reason);
  }
  facts["epsilon"] = number(report.valid && report.is_private ? report.epsilon : INFINITY);
  facts["delta"] = report.delta;
  facts["relation"] = report.relation;
  facts["accountant"] = report.accountant;
  facts["steps_charged"] = report.steps;
  facts["steps_planned"] = report.planned_steps;
  facts["ledger_valid"] = report.valid;
  facts["ledger_lines"] = report.lines;
  facts["ledger_digest"] = report.head;
  return facts;
}

std::optional<nlohmann::ordered_json> facts_beside(const fs::path& checkpoint) {
  const fs::path run = run_of(checkpoint);
  if (run.empty()) return std::nullopt;
  return privacy_facts(accounting::verify_ledger(run));
}

}  // namespace

int run_export(const Arguments& arguments) {
  std::string checkpoint, out;
  Options options(
      "dpfa export --checkpoint DIR --out DIR",
      "Writes a Hugging Face folder with weights, config.json and tokenizer, and PRIVACY.json with what the "
      "run's ledger says of it.");
  options.require("checkpoint", &checkpoint, "folder with config.json and model.safetensors, e.g. RUN/latest")
      .require("out", &out, "folder to write; must not exist");
  if (!options.parse(arguments)) return 0;
  data::StagingFolder folder(out);
  const train::FrozenModel frozen(checkpoint);
  std::optional<int64_t> end_of_text;
  if (fs::exists(fs::path(checkpoint) / data::kTokenizerFile) ||
      fs::exists(fs::path(checkpoint) / "merges.txt")) {
    const auto tokenizer = train::tokenizer_of(checkpoint, frozen.shape());
    tokenizer->save(folder.path());
    end_of_text = tokenizer->end_of_text();
  }
  model::write_gpt2(folder.path(), frozen.shape(), frozen.weights(), end_of_text);
  const auto facts = facts_beside(checkpoint);
  if (facts) write_file_atomically(folder.path() / kPrivacyFile, facts->dump(2) + "\n");
  folder.commit();
  std::cout << out << ": model and " << (end_of_text ? "tokenizer" : "no tokenizer (the checkpoint has none)")
            << "\n";
  if (!facts) {
    std::cerr << "dpfa: no ledger was found beside '" << checkpoint
              << "': nothing says whether this model is private\n";
  } else if (facts->contains("note")) {
    std::cerr << "dpfa: " << facts->at("note").get<std::string>() << "\n";
  }
  return 0;
}

}  // namespace dpfa::cli
