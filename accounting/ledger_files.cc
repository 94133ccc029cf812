#include "accounting/ledger_files.h"

#include <algorithm>
#include <set>

#include "accounting/text_file.h"
#include "src/base/error.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

namespace fs = std::filesystem;

constexpr const char *kCopyBegin = "ledger.", *kCopyEnd = ".jsonl";

bool is_copy(const fs::path& file) {
  const std::string name = file.filename();
  return name != kLedgerFile && name.starts_with(kCopyBegin) && name.ends_with(kCopyEnd);
}

// The ledger and the copies of one folder.
std::vector<fs::path> ledgers_of(const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::is_directory(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder))
    // Whatever has the name of the ledger: what cannot be read as one must not go unseen.
    if (entry.path().filename() == kLedgerFile || (entry.is_regular_file() && is_copy(entry.path())))
      files.push_back(fs::canonical(entry.path()));
  return files;
}

void look_into(const fs::path& place, std::set<fs::path>& ledgers, std::vector<fs::path>& without_ledger) {
  bool found = false;
  const auto look_at = [&](const fs::path& folder) {
    const std::vector<fs::path> files = ledgers_of(folder);
    ledgers.insert(files.begin(), files.end());
    const bool lost = files.empty() && fs::is_directory(folder / "checkpoints");
    if (lost) without_ledger.push_back(folder);
    found = found || lost || !files.empty();
  };
  look_at(place);
  for (const auto& entry :
       fs::recursive_directory_iterator(place, fs::directory_options::follow_directory_symlink)) {
    if (entry.is_directory()) look_at(entry.path());
  }
  if (!found) {
    throw IoError("the folder '" + place.string() + "' holds no " + kLedgerFile +
                  ": name run folders, ledger files or folders above them");
  }
}

struct Candidate {
  fs::path file;
  bool is_copy_alone;  // in a folder that cannot go on by itself
  std::string text;    // empty where it cannot be read
};

Candidate read_candidate(const fs::path& file) {
  const fs::path folder = file.parent_path();
  std::error_code ignored;
  const bool goes_on =
      fs::exists(folder / kLedgerFile, ignored) || fs::is_directory(folder / "checkpoints", ignored);
  Candidate candidate = {file, is_copy(file) && !goes_on, ""};
  try {
    candidate.text = read_text_file(file);
  } catch (const IoError&) {  // whoever verifies it says so
  }
  return candidate;
}

// Whether one is how the other begins.
bool are_in_line(const Candidate& a, const Candidate& b) {
  if (a.text.empty() || b.text.empty()) return false;
  return a.text.size() <= b.text.size() ? b.text.starts_with(a.text) : a.text.starts_with(b.text);
}

}  // namespace

std::string ledger_copy_name(const std::string& id) { return kCopyBegin + id + kCopyEnd; }

LedgerSearch find_ledgers(const std::vector<fs::path>& places) {
  LedgerSearch search;
  std::set<fs::path> files;
  for (const fs::path& place : places) {
    try {
      if (fs::is_directory(place)) {
        look_into(place, files, search.without_ledger);
      } else {
        files.insert(fs::canonical(place));
      }
    } catch (const fs::filesystem_error& error) {
      throw IoError("cannot look for ledgers in '" + place.string() + "': " + error.code().message());
    }
  }
  std::vector<Candidate> candidates;
  for (const fs::path& file : files) {
    std::error_code unknown;
    // A copy that was being made when its process ended holds no charge.
    if (is_copy(file) && fs::file_size(file, unknown) == 0) continue;
    candidates.push_back(read_candidate(file));
  }
  // Ledgers that may go on first, then the longer ones, ledger.jsonl before an equal copy: what repeats
  // another comes after it.
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    if (a.is_copy_alone != b.is_copy_alone) return b.is_copy_alone;
    if (a.text.size() != b.text.size()) return a.text.size() > b.text.size();
    return is_copy(a.file) < is_copy(b.file);
  });
  std::vector<const Candidate*> kept;
  for (const Candidate& candidate : candidates) {
    bool says_more = true, may_go_on = true;
    for (const Candidate* before : kept) {
      if (!are_in_line(candidate, *before) && !DPFA_PLANT("copies_never_contradict")) continue;
      const bool same_folder = before->file.parent_path() == candidate.file.parent_path();
      if (!same_folder && !candidate.is_copy_alone) continue;  // a copied run folder is a run of its own
      may_go_on = false;
      if (is_copy(candidate.file) && before->text.size() >= candidate.text.size()) says_more = false;
    }
    if (!says_more) continue;
    kept.push_back(&candidate);
    search.ledgers.push_back({candidate.file, may_go_on});
  }
  std::sort(search.ledgers.begin(), search.ledgers.end(),
            [](const FoundLedger& a, const FoundLedger& b) { return a.file < b.file; });
  return search;
}

}  // namespace dpfa::accounting
