// Copies of the ledger in runs between owners: a rank remembers by itself what was charged.
//
// In a run with aggregation.mode = masked every rank, also rank 0, keeps the whole ledger in
// RUN/ledger.ID.jsonl of its own host, line by line as it is charged and as durable as rank 0's ledger.jsonl.
// ID is the beginning of the rank's public key: numbers change when a job is formed anew, identities do not.
//
// Guarantee: a rank with a copy takes part in nothing that does not go on from every line of it. So a rank 0
// that lies, or whose folder was set back, can make no such rank release again what its copy has charged. A
// rank without a copy vouches for nothing before this start. Whoever can write a rank's folder can set its
// copy back: owners who share a folder have no more than rank 0's word.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "accounting/ledger.h"
#include "comm/communicator.h"
#include "src/plan/config.h"

namespace dpfa::train {

// The copy of `rank`, by its line of the allow-list; nothing where the sum is in plain text. Throws what
// reading the list throws.
std::optional<std::filesystem::path> ledger_copy_of(const plan::Config& config, int rank);

// At a start without --resume. Throws ConfigError where the copy exists.
void refuse_existing_copy(const std::filesystem::path& copy);

// Collective, at --resume: the longest of all ranks' texts, which begins with every other; rank 0 brings two,
// its ledger and its copy. A crash may have left each rank a line, or a part of one, behind another. Throws
// AgreedError (StateError's code) on every rank, naming the file and the rank, where a text is not intact, is
// of another run, or is neither the beginning of the longest nor continues it. Ranks without a copy, which
// may be new or of a run that kept none, warn that they cannot vouch.
std::string longest_ledger(comm::Communicator& communicator, const std::filesystem::path& copy);

// Collective, at every start: what rank 0 goes on with, in `ledger` on every rank, and with a copy that is
// kept up from now on. Throws AgreedError on every rank where one's copy holds anything that rank 0's ledger
// does not begin with, or cannot be written, or where `accept` throws, which is called on all ranks before
// any of them writes.
void share_ledger(comm::Communicator& communicator, const std::optional<std::filesystem::path>& copy,
                  std::optional<accounting::Ledger>& ledger, const std::function<void()>& accept = {});

}  // namespace dpfa::train
