#include "src/train/ledger_copies.h"

#include <algorithm>
#include <cstring>
#include <iostream>
#include <vector>

#include "accounting/ledger_chain.h"
#include "accounting/ledger_files.h"
#include "accounting/text_file.h"
#include "comm/secagg/identity.h"
#include "src/base/plant.h"
#include "src/train/collective.h"

namespace dpfa::train {
namespace {

namespace fs = std::filesystem;

constexpr size_t kNameDigits = 16;  // of a public key

struct NamedText {
  std::string name, text;  // empty: there is none
};

// A file whose first line was never completed was being made when its process ended: it holds no charge.
NamedText read_ledger(const fs::path& file, int rank) {
  if (!fs::exists(file)) return {};
  // Not "'" + ...: g++ 12 warns of an overlap that is not there.
  NamedText found = {std::string("'") + file.string() + "' of rank " + std::to_string(rank),
                     accounting::read_text_file(file)};
  if (found.text.find('\n') == std::string::npos) return {};
  const accounting::Chain chain = accounting::read_chain(found.text, [](const nlohmann::json&) {});
  if (!chain.valid)
    throw StateError(
        "the ledger " + found.name + " is not intact: " + chain.reason +
        "; restore it, or put the ledger of another rank in its place where the owner of this one "
        "trusts that");
  return found;
}

std::string run_id_of(const std::string& text) {
  const auto open = nlohmann::json::parse(text.substr(0, text.find('\n')), nullptr, false);
  return open.is_object() ? open.value("run_id", "") : "";
}

// Throws where `shorter` is not how `longer` begins.
void expect_beginning(const NamedText& shorter, const NamedText& longer) {
  if (longer.text.starts_with(shorter.text)) return;
  const std::string own = run_id_of(shorter.text), other = run_id_of(longer.text);
  if (own != other)
    throw StateError("the ledger " + shorter.name + " is of the run " + own + " and " + longer.name +
                     " of the run " + other + ": every owner must resume the same run");
  const std::string &a = shorter.text, &b = longer.text;
  const auto differs = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  const auto line = 1 + std::count(a.begin(), differs, '\n');
  throw StateError("the ledger " + shorter.name + " and " + longer.name +
                   " contradict each other from line " + std::to_string(line) +
                   " on: the run went on without one of them, or one was altered; compare them with 'dpfa "
                   "ledger show', and restore or move away the one that its owner gives up");
}

const NamedText& longer_of(const NamedText& a, const NamedText& b) {
  const bool second = a.text.size() < b.text.size();
  expect_beginning(second ? a : b, second ? b : a);
  return second ? b : a;
}

// The rank with the longest text; the first of them.
int holder_of_longest(comm::Communicator& communicator, const std::string& text) {
  const auto size = static_cast<int64_t>(text.size());
  const auto bytes = communicator.all_gather(std::as_bytes(std::span(&size, 1)));
  std::vector<int64_t> sizes(static_cast<size_t>(communicator.size()));
  std::memcpy(sizes.data(), bytes.data(), bytes.size());
  return static_cast<int>(std::max_element(sizes.begin(), sizes.end()) - sizes.begin());
}

}  // namespace

std::optional<fs::path> ledger_copy_of(const plan::Config& config, int rank) {
  if (config.aggregation.mode != "masked") return std::nullopt;
  const auto list = comm::secagg::AllowList::load(config.aggregation.allow_list);
  const std::string id = comm::secagg::to_hex(list.entry(rank).public_key).substr(0, kNameDigits);
  return fs::path(config.output.dir) / accounting::ledger_copy_name(id);
}

void refuse_existing_copy(const fs::path& copy) {
  if (fs::exists(copy))
    throw ConfigError("'" + copy.string() +
                      "' exists, the ledger of an earlier run: choose another output.dir, or continue that "
                      "run with --resume " +
                      copy.parent_path().string());
}

std::string longest_ledger(comm::Communicator& communicator, const fs::path& copy) {
  if (DPFA_PLANT("ledger_of_rank_0_alone")) return {};
  NamedText mine, ledger;  // the latter on rank 0
  on_every_rank(communicator, [&] {
    const int rank = communicator.rank();
    mine = read_ledger(copy, rank);
    if (mine.text.empty())
      std::cerr << "warning: rank " << rank << " has no copy '" << copy.string()
                << "' of this run's ledger: it cannot vouch for what was charged before this start\n";
    if (rank == 0) ledger = read_ledger(copy.parent_path() / accounting::kLedgerFile, rank);
    if (rank == 0) mine = longer_of(ledger, mine);
  });
  const int holder = holder_of_longest(communicator, mine.text);
  NamedText longest;
  longest.name = broadcast_text(communicator, mine.name, holder);
  longest.text = broadcast_text(communicator, mine.text, holder);
  on_every_rank(communicator, [&] { expect_beginning(mine, longest); });
  if (ledger.text.size() > 0 && ledger.text.size() < longest.text.size())
    std::cerr << "warning: the ledger " << ledger.name << " is behind " << longest.name << " by "
              << std::count(longest.text.begin() + static_cast<std::ptrdiff_t>(ledger.text.size()),
                            longest.text.end(), '\n')
              << " complete lines, and is brought up to it\n";
  return longest.text;
}

void share_ledger(comm::Communicator& communicator, const std::optional<fs::path>& copy,
                  std::optional<accounting::Ledger>& ledger, const std::function<void()>& accept) {
  const bool first = communicator.rank() == 0;
  const std::string text = broadcast_text(communicator, first ? ledger->text() : "");
  on_every_rank(communicator, [&] {
    if (!first) ledger = accounting::Ledger::in_memory_from_text(text);
    if (accept) accept();
  });
  on_every_rank(communicator, [&] {
    if (!copy) return;
    std::error_code error;
    fs::create_directories(copy->parent_path(), error);
    if (error) throw IoError("cannot create '" + copy->parent_path().string() + "': " + error.message());
    ledger->keep_copy(*copy);
  });
}

}  // namespace dpfa::train
