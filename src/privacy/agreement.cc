#include "src/privacy/agreement.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "src/base/check.h"
#include "src/base/error.h"

namespace dpfa::privacy {
namespace {

constexpr size_t kDigest = 64;  // hex digits

struct Wire {
  int64_t step, draw;
  std::array<char, kDigest> plan, ledger;
};

std::array<char, kDigest> fixed(const std::string& digest) {
  DPFA_CHECK(digest.size() == kDigest, digest);
  std::array<char, kDigest> result;
  std::copy(digest.begin(), digest.end(), result.begin());
  return result;
}

}  // namespace

void agree(comm::Communicator& communicator, const Standing& mine) {
  const Wire wire{mine.step, mine.draw, fixed(mine.plan_digest), fixed(mine.ledger_digest)};
  const auto gathered = communicator.all_gather(std::as_bytes(std::span(&wire, 1)));
  std::string problems;
  for (int r = 1; r < communicator.size(); ++r) {
    Wire first, other;
    std::memcpy(&first, gathered.data(), sizeof(Wire));
    std::memcpy(&other, gathered.data() + r * sizeof(Wire), sizeof(Wire));
    const auto note = [&](bool equal, const char* what) {
      if (!equal)
        problems += (problems.empty() ? "" : ", ") + std::string(what) + " on rank " + std::to_string(r);
    };
    note(first.step == other.step, "step");
    note(first.draw == other.draw, "draw");
    note(first.plan == other.plan, "privacy plan");
    note(first.ledger == other.ledger, "ledger");
  }
  if (!problems.empty())
    throw StateError("the ranks do not agree with rank 0 (" + problems +
                     "): nothing was released for this step; start the run again from its last checkpoint");
}

}  // namespace dpfa::privacy
