#include <iostream>

#include <nlohmann/json.hpp>

#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"
#include "src/data/prepare.h"
#include "src/data/synthesis.h"

namespace dpfa::cli {

namespace {

constexpr const char* kUsage =
    "dpfa data prepare --input FILE --out DIR   text, CSV, TSV, JSONL -> record-indexed tokens\n"
    "dpfa data synth --out DIR                  synthetic personal records with canaries, for the quick "
    "start\n"
    "Each takes --help.\n";

void print(const data::PrepareOptions& options, const data::PrepareCounts& counts, bool json) {
  if (json) {
    std::cout << nlohmann::ordered_json{{"out", options.out.string()},
                                        {"records", counts.records},
                                        {"holdout_records", counts.holdout_records},
                                        {"dropped", counts.dropped},
                                        {"tokens", counts.tokens},
                                        {"longest", counts.longest},
                                        {"context", options.context},
                                        {"truncated", counts.truncated},
                                        {"vocab_size", counts.vocab_size}}
              << "\n";
    return;
  }
  std::cout << counts.records << " records in " << options.out.string() << "\n";
  if (options.holdout > 0) {
    std::cout << counts.holdout_records << " held-out records in " << options.holdout_out.string()
              << " (as private as the others)\n";
  }
  std::cout << counts.dropped << " records without text dropped\n"
            << counts.tokens << " tokens, the longest record has " << counts.longest << "\n"
            << counts.truncated << " records are longer than " << options.context
            << " tokens; training with context = " << options.context << " uses their first "
            << options.context << "\nThese counts describe private data.\n";
}

int run_prepare(const Arguments& arguments) {
  data::PrepareOptions prepare;
  std::vector<std::string> inputs;
  std::string out, record = "line", vocabulary, holdout_out;
  bool no_header = false, json = false;
  Options options(
      "dpfa data prepare --input FILE --out DIR",
      "Turns text into a dataset folder. A record (line, paragraph, document or row) is the unit of privacy: "
      "it becomes one example, never joined with another.");
  options.require("input", &inputs, ".txt, .csv, .tsv or .jsonl file; may be given several times")
      .require("out", &out, "dataset folder to write; must not exist")
      .add("field", &prepare.read.field,
           "column or JSON member that holds the text (default: the only one, or 'text')")
      .flag("no_header", &no_header,
            "the first row of a table is a record; --field is then a column number from 1")
      .add("record", &record, "what a record of a .txt file is: line, paragraph or document (the whole file)")
      .add("tokenizer", &prepare.tokenizer, "bytes or gpt2")
      .add("vocab", &vocabulary,
           "folder with vocab.json and merges.txt, or encoder.json and vocab.bpe (gpt2)")
      .add("context", &prepare.context,
           "tokens of an example in training: reports how many records are longer")
      .add("holdout", &prepare.holdout,
           "share of the records to hold out, chosen by a keyed hash of each record; held-out "
           "private records stay private")
      .add("holdout_out", &holdout_out, "dataset folder for the held-out records")
      .add("seed", &prepare.seed, "key of the hold-out split")
      .flag("json", &json, "print the counts as one JSON object");
  if (!options.parse(arguments)) return 0;
  prepare.inputs.assign(inputs.begin(), inputs.end());
  prepare.out = out;
  prepare.read.header = !no_header;
  prepare.read.unit = data::record_unit(record);
  prepare.vocabulary = vocabulary;
  prepare.holdout_out = holdout_out;
  print(prepare, data::prepare_dataset(prepare), json);
  return 0;
}

int run_synth(const Arguments& arguments) {
  std::string out;
  int64_t records = 4000, canaries = 24, seed = 1;
  bool json = false;
  Options options(
      "dpfa data synth --out DIR",
      "Writes synthetic personal records: DIR/train and DIR/eval (datasets), DIR/canaries.json and "
      "DIR/records.txt. All people are fictional; equal seeds give equal records.");
  options.require("out", &out, "folder to write; must not exist")
      .add("records", &records, "training records, canaries included; one eval record for each eight")
      .add("canaries", &canaries, "training records that hold a random secret of six digits")
      .add("seed", &seed, "which records")
      .flag("json", &json, "print the counts as one JSON object");
  if (!options.parse(arguments)) return 0;
  const data::SyntheticRecords synthetic = data::synthesize_records(records, canaries, seed);
  data::write_synthetic_records(synthetic, out);
  if (json) {
    std::cout << nlohmann::ordered_json{{"out", out},
                                        {"records", synthetic.train.size()},
                                        {"canaries", synthetic.canaries.size()},
                                        {"eval_records", synthetic.eval.size()}}
              << "\n";
  } else {
    std::cout << synthetic.train.size() << " records (" << synthetic.canaries.size() << " canaries) in "
              << out << "/train, " << synthetic.eval.size() << " in " << out << "/eval\n";
  }
  return 0;
}

}  // namespace

int run_data(const Arguments& arguments) {
  const std::string verb = arguments.empty() ? "--help" : arguments.front();
  const Arguments rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  if (verb == "prepare") return run_prepare(rest);
  if (verb == "synth") return run_synth(rest);
  if (verb != "--help") throw ConfigError("'dpfa data " + verb + "' does not exist; use prepare or synth");
  std::cout << kUsage;
  return 0;
}

}  // namespace dpfa::cli
