#include "src/train/collective.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace dpfa::train {
namespace {

struct Report {
  int32_t code = 0;
  char text[1020] = {};
};

}  // namespace

void on_every_rank(comm::Communicator& communicator, const std::function<void()>& work) {
  Report mine;
  const auto note = [&](ExitCode code, const char* text) {
    mine.code = static_cast<int32_t>(code);
    std::strncpy(mine.text, text, sizeof(mine.text) - 1);
  };
  try {
    work();
  } catch (const Error& error) {
    note(error.code(), error.what());
  } catch (const std::exception& error) {
    note(ExitCode::kInternal, error.what());
  }
  const auto reports = communicator.all_gather(std::as_bytes(std::span(&mine, 1)));
  for (int r = 0; r < communicator.size(); ++r) {
    Report report;
    std::memcpy(&report, reports.data() + r * sizeof(Report), sizeof(Report));
    if (report.code == 0) continue;
    const std::string where = r == 0 ? "" : "rank " + std::to_string(r) + ": ";
    throw AgreedError(static_cast<ExitCode>(report.code), where + report.text);
  }
  // Its own failure counts whatever the others sent back.
  if (mine.code != 0) throw AgreedError(static_cast<ExitCode>(mine.code), mine.text);
}

void on_rank_0(comm::Communicator& communicator, const std::function<void()>& work) {
  on_every_rank(communicator, [&] {
    if (communicator.rank() == 0) work();
  });
}

void state_agreed(const std::function<void()>& work) {
  try {
    work();
  } catch (const StateError& error) {
    throw AgreedError(error.code(), error.what());
  }
}

std::string broadcast_text(comm::Communicator& communicator, const std::string& text, int root) {
  int64_t size = static_cast<int64_t>(text.size());
  communicator.broadcast(std::as_writable_bytes(std::span(&size, 1)), root);
  std::string result = text;
  result.resize(size);
  communicator.broadcast(std::as_writable_bytes(std::span(result.data(), result.size())), root);
  return result;
}

}  // namespace dpfa::train
