#include "accounting/ledger_chain.h"

#include <array>

#include <sodium.h>

#include "accounting/event.h"
#include "src/base/check.h"

namespace dpfa::accounting {
namespace {

using nlohmann::json;

bool is_natural(const json& entry, const char* name) {
  return entry.contains(name) && entry.at(name).is_number_integer() && entry.at(name).get<int64_t>() >= 0;
}

bool is_text(const json& entry, const char* name) {
  return entry.contains(name) && entry.at(name).is_string();
}

// Ends the physical line of a fragment: a fragment that lacks nothing but its line feed must not become an
// entry.
constexpr char kTornMark = '!';

// Reads one chain; every method returns the reason of a failure, empty where there is none.
class Reader {
 public:
  Reader(const std::function<void(const json&)>& visit) : visit_(visit) {}

  Chain read(std::string_view text) {
    size_t begin = 0;
    while (begin < text.size() && chain_.reason.empty()) {
      const size_t end = text.find('\n', begin);
      if (end == std::string_view::npos) {
        end_in_torn_line(text.substr(begin));
        break;
      }
      ++line_;
      chain_.reason = complete_line(text.substr(begin, end - begin));
      begin = end + 1;
    }
    if (chain_.reason.empty() && chain_.entries == 0) chain_.reason = "the ledger has no complete first line";
    if (chain_.reason.empty() && has_fragment_) interrupted_closing("");
    chain_.valid = chain_.reason.empty();
    return chain_;
  }

 private:
  std::string where() const { return "line " + std::to_string(line_) + ": "; }

  std::string complete_line(std::string_view line) {
    json entry = json::parse(line, nullptr, false);
    std::string reason = check_digest(entry, line);
    // Only a torn line may be unreadable, and then the next one must close it.
    if (!reason.empty() && !has_fragment_ && chain_.entries > 0) {
      fragment_ = line;
      fragment_reason_ = where() + reason;
      has_fragment_ = true;
      return {};
    }
    if (!reason.empty()) return has_fragment_ ? fragment_reason_ : where() + reason;
    if (has_fragment_ && entry.at("kind") != "torn") return fragment_reason_;
    reason = check_links(entry);
    if (reason.empty()) reason = take(entry, line);
    if (!reason.empty()) return where() + reason;
    ++chain_.entries;
    chain_.digest = entry.at("digest");
    visit_(entry);
    return {};
  }

  static std::string check_digest(const json& entry, std::string_view line) {
    if (!entry.is_object() || !is_text(entry, "digest")) return "it is not an entry of a ledger";
    json content = entry;
    content.erase("digest");
    if (blake2b_hex(content.dump()) != entry.at("digest"))
      return "it was altered: its digest does not fit its content";
    if (entry.dump() != line) return "it was altered: it is not in canonical form";
    if (!is_text(entry, "kind") || !is_text(entry, "prev") || !is_natural(entry, "seq"))
      return "it lacks seq, prev or kind";
    return {};
  }

  std::string check_links(const json& entry) const {
    const int64_t seq = entry.at("seq");
    const std::string expected = chain_.entries == 0 ? kNoDigest : chain_.digest;
    if (seq != chain_.entries) {
      return "it has seq " + std::to_string(seq) + " where " + std::to_string(chain_.entries) +
             " belongs: lines were removed, added or reordered";
    }
    if (entry.at("prev") != expected)
      return "it does not follow the line before: lines were exchanged or removed";
    return {};
  }

  std::string take(const json& entry, std::string_view line) {
    const std::string kind = entry.at("kind");
    if ((kind == "open") != (chain_.entries == 0)) return "the kind 'open' belongs to the first line only";
    if (kind == "open") return take_open(entry);
    if (kind == "start") {
      if (!is_natural(entry, "incarnation") || entry.at("incarnation") != chain_.starts) {
        return "its incarnation is not " + std::to_string(chain_.starts);
      }
      ++chain_.starts;
      return {};
    }
    if (kind == "charge") return take_charge(entry);
    if (kind == "checkpoint")
      return is_natural(entry, "step") && is_text(entry, "state") ? "" : "a checkpoint needs step and state";
    if (kind != "torn") return "its kind '" + kind + "' is unknown";
    std::string digest;
    if (!has_fragment_ || !fragment_.ends_with(kTornMark) ||
        line != torn_line(chain_.entries, chain_.digest, chain_.last_draw + 1, fragment_, &digest)) {
      return "it closes a torn line that is not there";
    }
    has_fragment_ = false;
    ++chain_.charges;
    ++chain_.last_draw;
    return {};
  }

  std::string take_open(const json& entry) {
    if (!entry.contains("format") || entry.at("format") != kLedgerFormat) return "its format is not known";
    chain_.open = entry;
    return {};
  }

  std::string take_charge(const json& entry) {
    if (!is_natural(entry, "step") || !is_natural(entry, "draw") || !entry.contains("event")) {
      return "a charge needs step, draw and event";
    }
    const int64_t draw = entry.at("draw");
    if (draw <= chain_.last_draw) {
      return "draw " + std::to_string(draw) + " comes after draw " + std::to_string(chain_.last_draw) +
             ": two releases on one draw";
    }
    chain_.last_draw = draw;
    ++chain_.charges;
    return {};
  }

  void end_in_torn_line(std::string_view rest) {
    if (has_fragment_) return interrupted_closing(rest);
    if (chain_.entries == 0) return;
    std::string digest;
    chain_.torn_tail = true;
    const std::string fragment = std::string(rest) + kTornMark;
    chain_.to_close =
        kTornMark +
        ("\n" + torn_line(chain_.entries, chain_.digest, chain_.last_draw + 1, fragment, &digest) + "\n");
    ++chain_.charges;
  }

  // A marked fragment and the beginning of the line that closes it: the process that closed it was itself
  // killed.
  void interrupted_closing(std::string_view rest) {
    std::string digest;
    const std::string closing =
        torn_line(chain_.entries, chain_.digest, chain_.last_draw + 1, fragment_, &digest);
    has_fragment_ = false;
    if (!fragment_.ends_with(kTornMark) || closing.compare(0, rest.size(), rest) != 0) {
      chain_.reason = fragment_reason_;
      return;
    }
    chain_.torn_tail = true;
    chain_.to_close = closing.substr(rest.size()) + "\n";
    ++chain_.charges;
  }

  const std::function<void(const json&)>& visit_;
  Chain chain_;
  int64_t line_ = 0;
  bool has_fragment_ = false;
  std::string_view fragment_;
  std::string fragment_reason_;
};

}  // namespace

std::string blake2b_hex(std::string_view text) {
  std::array<unsigned char, 32> hash;
  static_assert(crypto_generichash_BYTES == hash.size());
  crypto_generichash(hash.data(), hash.size(), reinterpret_cast<const unsigned char*>(text.data()),
                     text.size(), nullptr, 0);
  std::string hex(2 * hash.size() + 1, '\0');
  sodium_bin2hex(hex.data(), hex.size(), hash.data(), hash.size());
  hex.pop_back();
  return hex;
}

std::string chained_line(int64_t seq, const std::string& prev, const std::string& kind, const json& fields,
                         std::string* digest) {
  json entry = fields;
  for (const char* name : {"seq", "prev", "kind", "digest"}) {
    DPFA_CHECK(!entry.contains(name), "an entry of the ledger may not bring its own field ", name);
  }
  entry["seq"] = seq;
  entry["prev"] = prev;
  entry["kind"] = kind;
  *digest = blake2b_hex(entry.dump());
  entry["digest"] = *digest;
  return entry.dump();
}

std::string torn_line(int64_t seq, const std::string& prev, int64_t draw, std::string_view fragment,
                      std::string* digest) {
  const json fields = {{"draw", draw},
                       {"note", "the line before was never completed; it counts as one charge"},
                       {"fragment_bytes", fragment.size()},
                       {"fragment_digest", blake2b_hex(fragment)}};
  return chained_line(seq, prev, "torn", fields, digest);
}

Chain read_chain(std::string_view text, const std::function<void(const json& entry)>& visit) {
  return Reader(visit).read(text);
}

}  // namespace dpfa::accounting
