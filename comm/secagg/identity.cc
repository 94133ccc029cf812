#include "comm/secagg/identity.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "src/base/file.h"

namespace dpfa::comm::secagg {
namespace {

constexpr std::string_view kFirstLine = "dpfa identity (Ed25519): secret, for its owner alone\n";
constexpr std::string_view kSeed = "seed ";

std::optional<Bytes32> from_hex(std::string_view text) {
  Bytes32 bytes;
  size_t length = 0;
  const char* end = nullptr;
  if (text.size() != 2 * bytes.size() ||
      sodium_hex2bin(bytes.data(), bytes.size(), text.data(), text.size(), nullptr, &length, &end) != 0 ||
      length != bytes.size() || end != text.data() + text.size())
    return std::nullopt;
  return bytes;
}

// Ed25519's own form of the secret: seed and public key.
struct SigningKey {
  std::array<uint8_t, crypto_sign_SECRETKEYBYTES> bytes;
  Bytes32 public_key;

  explicit SigningKey(const Secret& seed) {
    start_sodium();
    crypto_sign_seed_keypair(public_key.data(), bytes.data(), seed.bytes().data());
  }
  ~SigningKey() { sodium_memzero(bytes.data(), bytes.size()); }
};

}  // namespace

std::string to_hex(std::span<const uint8_t> bytes) {
  std::string text(2 * bytes.size() + 1, '\0');
  sodium_bin2hex(text.data(), text.size(), bytes.data(), bytes.size());
  text.pop_back();
  return text;
}

Identity::Identity(const Secret& seed) : seed_(seed), public_key_(SigningKey(seed).public_key) {}

Identity Identity::generate() { return Identity(Secret::from_system()); }

Identity Identity::load(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) internal::throw_io_error("look at", file);
  if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0)
    throw ConfigError("'" + file.string() +
                      "' holds a secret key that others may read: chmod 600 it, or make " +
                      "another with `dpfa keys new` if others had the time to copy it");
  const std::string_view text = mapped.text();
  const size_t begin = kFirstLine.size() + kSeed.size();
  std::optional<Bytes32> bytes;
  if (text.size() == begin + 65 && text.starts_with(kFirstLine) &&
      text.substr(kFirstLine.size(), kSeed.size()) == kSeed && text.back() == '\n')
    bytes = from_hex(text.substr(begin, 64));
  if (!bytes)
    throw IoError("'" + file.string() + "' is no identity: make one with `dpfa keys new --out FILE`");
  const Secret seed(*bytes);
  sodium_memzero(bytes->data(), bytes->size());
  return Identity(seed);
}

void Identity::save(const std::filesystem::path& file) const {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) internal::throw_io_error("create", file);
  std::string hex = to_hex(seed_.bytes());
  std::string text;
  text.reserve(kFirstLine.size() + kSeed.size() + hex.size() + 1);  // no copy of the secret is left behind
  text.append(kFirstLine).append(kSeed).append(hex).append("\n");
  // The mode of open() is narrowed, never widened, by the umask; what counts is that nobody else may read.
  const bool good = ::write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                    ::fsync(descriptor) == 0;
  const int error = errno;
  sodium_memzero(hex.data(), hex.size());
  sodium_memzero(text.data(), text.size());
  ::close(descriptor);
  if (!good) {
    ::unlink(file.c_str());
    errno = error;
    internal::throw_io_error("write", file);
  }
}

Signature Identity::sign(std::span<const uint8_t> message) const {
  const SigningKey key(seed_);
  Signature signature;
  crypto_sign_detached(signature.data(), nullptr, message.data(), message.size(), key.bytes.data());
  return signature;
}

bool signature_is_valid(const Signature& signature, std::span<const uint8_t> message,
                        const Bytes32& public_key) {
  start_sodium();
  return crypto_sign_verify_detached(signature.data(), message.data(), message.size(), public_key.data()) ==
         0;
}

AllowList AllowList::parse(std::string_view text, const std::string& origin) {
  std::map<int, Entry> by_rank;
  std::set<Bytes32> keys;
  std::istringstream lines{std::string(text)};
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const auto refuse = [&](const std::string& problem) {
      throw ConfigError("allow-list " + origin + ", line " + std::to_string(number) + ": " + problem +
                        "; a line is RANK PUBLIC_KEY OWNER, as `dpfa keys new` prints it");
    };
    std::istringstream words(line);
    std::string rank_text, key_text, owner, surplus;
    if (!(words >> rank_text) || rank_text.front() == '#') continue;
    int rank = -1;
    const char* end = rank_text.data() + rank_text.size();
    const auto parsed = std::from_chars(rank_text.data(), end, rank);
    if (parsed.ec != std::errc() || parsed.ptr != end || rank < 0) refuse("'" + rank_text + "' is no rank");
    words >> key_text >> owner;
    const std::optional<Bytes32> key = from_hex(key_text);
    if (!key) refuse("the public key is not 64 hex digits");
    if (owner.empty()) refuse("the owner is missing");
    if (words >> surplus) refuse("'" + surplus + "' is one word too many");
    if (!keys.insert(*key).second)
      refuse("this key is already that of another rank, and every rank has its own");
    if (!by_rank.emplace(rank, Entry{*key, owner}).second)
      refuse("rank " + std::to_string(rank) + " is named twice");
  }
  if (by_rank.empty()) throw ConfigError("allow-list " + origin + " names no rank");
  AllowList list;
  for (const auto& [rank, entry] : by_rank) {
    if (rank != list.size())
      throw ConfigError("allow-list " + origin + ": rank " + std::to_string(list.size()) +
                        " is missing; ranks count from 0 without gaps");
    list.entries_.push_back(entry);
  }
  return list;
}

AllowList AllowList::load(const std::filesystem::path& file) {
  return parse(MappedFile(file).text(), file.string());
}

Bytes32 AllowList::digest() const {
  Context context("dpfa/secagg/allow-list");
  for (const Entry& entry : entries_) {
    const auto* owner = reinterpret_cast<const uint8_t*>(entry.owner.data());
    context.add(entry.public_key).add(entry.owner.size()).add(std::span(owner, entry.owner.size()));
  }
  return secagg::digest(context.bytes());
}

int AllowList::most_ranks_of_an_owner() const {
  std::map<std::string, int> ranks;
  int most = 0;
  for (const Entry& entry : entries_) most = std::max(most, ++ranks[entry.owner]);
  return most;
}

std::string allow_list_line(int rank, const Bytes32& public_key, std::string_view owner) {
  return std::to_string(rank) + " " + to_hex(public_key) + " " + std::string(owner);
}

}  // namespace dpfa::comm::secagg
