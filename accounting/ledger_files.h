// The ledgers of run folders: their file names, and those below given places that say something of their own.
//
// A run folder holds ledger.jsonl. In a run between owners every rank keeps a copy of it as well,
// ledger.ID.jsonl, in the same folder or in one of its own host (src/train/ledger_copies.h). After a crash
// one may be behind another; owners whose run went on without one of them leave files that contradict each
// other.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace dpfa::accounting {

inline constexpr const char* kLedgerFile = "ledger.jsonl";
// Name of the copy that the owner with this id keeps.
std::string ledger_copy_name(const std::string& id);

struct FoundLedger {
  std::filesystem::path file;
  // Whether the steps that its plan has left are its own, not those of a longer ledger of its folder or, for
  // a copy in a folder that cannot go on by itself (no ledger.jsonl, no checkpoints), of one found elsewhere.
  bool may_go_on = true;
};

struct LedgerSearch {
  // In the order of paths, each file once. A copy that is how another of its folder begins is left out: it
  // says nothing more. So is one in a folder that cannot go on, of a ledger that was found elsewhere.
  std::vector<FoundLedger> ledgers;
  std::vector<std::filesystem::path> without_ledger;  // folders with checkpoints and no ledger
};

// `places`: ledger files, run folders, or folders with run folders anywhere below them. A file that cannot be
// read is found like any other. Throws IoError where a place does not exist or holds neither ledger nor
// checkpoints.
LedgerSearch find_ledgers(const std::vector<std::filesystem::path>& places);

}  // namespace dpfa::accounting
