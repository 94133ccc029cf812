// The privacy ledger of one run: append-only, hash-chained, durable before a release exists.
//
// File: JSON Lines. Every line is one object with `seq` (0, 1, ...), `prev` (digest of the line before, 64
// zeros for the first), `kind`, the entry's own fields, and `digest` = BLAKE2b-256 in hex over the line's
// canonical JSON text (sorted keys, no spaces) without the field `digest`. Kinds:
//   open     first line: format, run id, dataset id, privacy unit, relation, plan (all public fields of the
//            PrivacyPlan), plan_digest, private (false: stamped NOT PRIVATE), stamps (list of reasons)
//   start    one process start: incarnation (0, 1, ...), id (random: two copies of a run folder that both go
//            on never write equal lines), world_size, noise placement, and what of the plan belongs to it
//   charge   one charged step: step, draw (a counter that never repeats, also across restarts), event
//   checkpoint  what a checkpoint restores: step, state (digest of weights and optimizer); on disk before the
//            checkpoint is there
//   torn     closes a line that was never completed: fragment_digest, fragment_bytes, draw, note. What there
//            was of that line stays in the file, ended by "!"
// There are no times, no counts drawn from data, and nothing else that is private: weights are released.
//
// Guarantee: charge() returns only after the line is on disk (write, fdatasync). What was charged is never
// lowered: nothing refunds, rewrites or resets. A torn last line (crash while writing) counts as one charge
// of the plan's event; resume() closes it by a line that says so. An I/O error is IoError and ends the run.
//
// The file lives on rank 0. The other ranks keep a replica in memory with the same digest, so that all ranks
// can agree on it before each release. Where ranks do not trust each other each of them keeps a copy of the
// file: charge() then returns only after the line is on disk in both.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

namespace dpfa::accounting {

class Ledger {
 public:
  // Creates `path` (StateError where it exists) with an `open` line made of `open_fields`, and makes both the
  // file and its directory entry durable.
  static Ledger create(const std::filesystem::path& path, const nlohmann::json& open_fields);
  // Reads an existing ledger, checks its chain (StateError says what is wrong) and appends to it from now on.
  // A ledger file is locked while its object lives: a second writer gets StateError.
  static Ledger resume(const std::filesystem::path& path);
  // The same, after the file was brought up to `longer`, the text of this ledger as somebody else has it.
  // Throws StateError, and changes nothing, where that text is not intact or does not begin with the file's.
  static Ledger resume(const std::filesystem::path& path, const std::string& longer);
  // The same entries in memory only, for ranks other than 0 (and for tests).
  static Ledger in_memory(const nlohmann::json& open_fields);
  // Replica of a ledger that rank 0 resumed, from its text.
  static Ledger in_memory_from_text(const std::string& text);

  Ledger(Ledger&&) noexcept;
  Ledger& operator=(Ledger&&) noexcept;
  ~Ledger();

  // Brings the file `path`, which may be new, up to this ledger's text, and writes there too from now on, as
  // durably and under the same lock. Throws StateError, and changes nothing, where the file holds anything
  // that this ledger does not begin with.
  void keep_copy(const std::filesystem::path& path);

  // Appends a `start` line; its incarnation is the number of start lines before it.
  void start(const nlohmann::json& fields);
  // Appends a `charge` line, durable when this returns. `draw` must be larger than every draw before
  // (InternalError). Where it throws, nothing may be released and the run must end.
  void charge(int64_t step, int64_t draw, const nlohmann::json& event);

  // Appends a `checkpoint` line, as durably. `state`: 64 hex digits.
  void checkpoint(int64_t step, const std::string& state);

  const std::string& digest() const;   // of the last line, 64 hex digits
  const nlohmann::json& open() const;  // fields of the first line
  int64_t lines() const;
  int64_t charges() const;  // charged steps, a torn line included
  int64_t starts() const;
  int64_t last_draw() const;  // -1 before the first charge
  std::string text() const;   // the whole ledger, to replicate it

 private:
  struct State;
  explicit Ledger(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace dpfa::accounting
