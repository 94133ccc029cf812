#include "accounting/ledger.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <vector>

#include "accounting/ledger_chain.h"
#include "accounting/text_file.h"
#include "src/base/check.h"
#include "src/base/file.h"
#include "src/base/plant.h"

namespace dpfa::accounting {
namespace {

// Appends to one file, and lets no second process do so at the same time: an orphan of an earlier incarnation
// must not interleave its lines with ours.
class AppendFile {
 public:
  AppendFile(const std::filesystem::path& path, int flags) : path_(path) {
    descriptor_ = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | flags, 0644);
    if (descriptor_ < 0) internal::throw_io_error("open the ledger", path);
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      ::close(descriptor_);
      if (error == EWOULDBLOCK) {
        throw StateError("the ledger '" + path.string() +
                         "' is in use by another process: end that run first");
      }
      errno = error;
      internal::throw_io_error("lock the ledger", path);
    }
  }
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  ~AppendFile() { ::close(descriptor_); }

  // Returns only after all of `text` is on disk. After a failure nothing more is written: what is there may
  // be a part of a line, which the next resume() counts as one charge.
  void append(std::string_view text) {
    if (failed_) throw IoError("the ledger '" + path_.string() + "' failed before; the run must end");
    failed_ = true;
    while (!text.empty()) {
      const ssize_t written = ::write(descriptor_, text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) internal::throw_io_error("write the ledger", path_);
      text.remove_prefix(static_cast<size_t>(written));
    }
    if (::fdatasync(descriptor_) != 0) internal::throw_io_error("sync the ledger", path_);
    failed_ = false;
  }

  // Appends what `text`, which must begin with what is there, has more.
  void catch_up(std::string_view text) {
    const std::string present = read_text_file(path_);
    if (!text.starts_with(present))
      throw StateError("the ledger '" + path_.string() +
                       "' holds what the ledger of this run does not: it is of another run or a fork, or "
                       "lines were altered or taken back elsewhere; restore the one that is wrong");
    if (text.size() > present.size()) append(text.substr(present.size()));
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  bool failed_ = false;
};

void sync_folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.parent_path();
  sync_to_disk(folder.empty() ? std::filesystem::path(".") : folder);
}

}  // namespace

struct Ledger::State {
  std::vector<std::unique_ptr<AppendFile>> files;  // the ledger's, and a copy
  std::string replica;                             // the text where there is no file
  Chain chain;

  void append_text(const std::string& text) {
    if (files.empty()) replica += text;
    for (const auto& file : files) file->append(text);
  }

  void append(const std::string& kind, const nlohmann::json& fields) {
    std::string digest;
    const std::string prev = chain.entries == 0 ? kNoDigest : chain.digest;
    const std::string line = chained_line(chain.entries, prev, kind, fields, &digest);
    append_text(line + "\n");
    // Only what is on disk counts as written.
    chain.digest = digest;
    ++chain.entries;
    if (kind == "open") chain.open = nlohmann::json::parse(line);
  }

  void open(const nlohmann::json& open_fields) {
    nlohmann::json fields = open_fields;
    fields["format"] = kLedgerFormat;
    append("open", fields);
  }

  void read(const std::string& text, const std::string& name) {
    chain = read_chain(text, [](const nlohmann::json&) {});
    if (!chain.valid) {
      throw StateError("the ledger " + name + " is not intact: " + chain.reason +
                       "; restore it from a copy, or start a new run");
    }
  }

  // Takes over an existing text and closes a torn last line.
  void take(const std::string& text, const std::string& name) {
    read(text, name);
    if (chain.torn_tail) {
      append_text(chain.to_close);
      chain = read_chain(text + chain.to_close, [](const nlohmann::json&) {});
      DPFA_CHECK(chain.valid && !chain.torn_tail, chain.reason);
    }
    if (DPFA_PLANT("accountant_reset_on_resume")) chain.charges = 0;
  }
};

Ledger::Ledger(std::unique_ptr<State> state) : state_(std::move(state)) {}
Ledger::Ledger(Ledger&&) noexcept = default;
Ledger& Ledger::operator=(Ledger&&) noexcept = default;
Ledger::~Ledger() = default;

Ledger Ledger::create(const std::filesystem::path& path, const nlohmann::json& open_fields) {
  if (std::filesystem::exists(path)) {
    throw StateError("the ledger '" + path.string() +
                     "' exists already: resume that run or choose another folder");
  }
  auto state = std::make_unique<State>();
  state->files.push_back(std::make_unique<AppendFile>(path, O_CREAT | O_EXCL));
  state->open(open_fields);
  sync_folder_of(path);
  return Ledger(std::move(state));
}

Ledger Ledger::resume(const std::filesystem::path& path) {
  auto state = std::make_unique<State>();
  state->files.push_back(std::make_unique<AppendFile>(path, 0));
  state->take(read_text_file(path), path.string());
  return Ledger(std::move(state));
}

Ledger Ledger::resume(const std::filesystem::path& path, const std::string& longer) {
  auto state = std::make_unique<State>();
  state->files.push_back(std::make_unique<AppendFile>(path, 0));
  state->read(longer, "of another rank");  // before a file is changed for it
  state->files.front()->catch_up(longer);
  state->take(longer, path.string());
  return Ledger(std::move(state));
}

Ledger Ledger::in_memory(const nlohmann::json& open_fields) {
  auto state = std::make_unique<State>();
  state->open(open_fields);
  return Ledger(std::move(state));
}

Ledger Ledger::in_memory_from_text(const std::string& text) {
  auto state = std::make_unique<State>();
  state->replica = text;
  state->take(text, "replica");
  return Ledger(std::move(state));
}

void Ledger::keep_copy(const std::filesystem::path& path) {
  auto copy = std::make_unique<AppendFile>(path, O_CREAT);
  copy->catch_up(text());
  sync_folder_of(path);
  state_->files.push_back(std::move(copy));
  state_->replica.clear();
}

void Ledger::start(const nlohmann::json& fields) {
  nlohmann::json entry = fields;
  DPFA_CHECK(!entry.contains("incarnation"), "the ledger numbers the incarnations");
  entry["incarnation"] = state_->chain.starts;
  state_->append("start", entry);
  ++state_->chain.starts;
}

void Ledger::charge(int64_t step, int64_t draw, const nlohmann::json& event) {
  DPFA_CHECK(step >= 0, step);
  DPFA_CHECK(draw > state_->chain.last_draw, "draw ", draw, " was charged before");
  state_->append("charge", {{"step", step}, {"draw", draw}, {"event", event}});
  state_->chain.last_draw = draw;
  ++state_->chain.charges;
}

void Ledger::checkpoint(int64_t step, const std::string& state) {
  DPFA_CHECK(step >= 0, step);
  state_->append("checkpoint", {{"step", step}, {"state", state}});
}

const std::string& Ledger::digest() const { return state_->chain.digest; }
const nlohmann::json& Ledger::open() const { return state_->chain.open; }
int64_t Ledger::lines() const { return state_->chain.entries; }
int64_t Ledger::charges() const { return state_->chain.charges; }
int64_t Ledger::starts() const { return state_->chain.starts; }
int64_t Ledger::last_draw() const { return state_->chain.last_draw; }
std::string Ledger::text() const {
  return state_->files.empty() ? state_->replica : read_text_file(state_->files.front()->path());
}

}  // namespace dpfa::accounting
