// `dpfa keys`: identities of ranks for `aggregation.mode = masked`.
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>

#include "comm/secagg/identity.h"
#include "src/base/error.h"
#include "src/cli/cli.h"
#include "src/cli/options.h"

namespace dpfa::cli {
namespace {

using comm::secagg::AllowList;
using comm::secagg::Identity;

constexpr const char* kHelp =
    "usage: dpfa keys new --out FILE --rank R --owner LABEL\n"
    "       dpfa keys list ALLOW_LIST [--identity FILE] [--json]\n\n"
    "  new   makes an Ed25519 identity: the secret goes to FILE, for its owner alone, and the line that "
    "tells\n"
    "        others about it to standard output. The lines of all ranks together are the allow-list, the "
    "same\n"
    "        file on every rank; hand them round so that nobody can exchange one on the way\n"
    "  list  checks an allow-list and prints rank, key and owner; with --identity also which rank FILE is\n";

int new_identity(const Arguments& arguments) {
  std::string out, owner;
  int64_t rank = 0;
  Options options("dpfa keys new --out FILE --rank R --owner LABEL",
                  "Makes the identity of a rank and prints its line of the allow-list.");
  options.require("out", &out, "file of the secret; must not exist")
      .require("rank", &rank, "rank that will have this identity")
      .require("owner", &owner, "label of who runs the rank, one word");
  if (!options.parse(arguments)) return 0;
  if (rank < 0 || rank > 1000000)
    throw ConfigError("--rank " + std::to_string(rank) + ": a rank is a number from 0 up");
  if (owner.empty() || owner.find_first_of(" \t\r\n\v\f") != std::string::npos)
    throw ConfigError("--owner '" + owner + "': the label must be one word");
  const Identity identity = Identity::generate();
  identity.save(out);
  std::cout << comm::secagg::allow_list_line(static_cast<int>(rank), identity.public_key(), owner) << "\n";
  return 0;
}

int list_identities(const Arguments& arguments) {
  std::string file;
  std::optional<std::string> identity_file;
  bool json = false;
  Options options("dpfa keys list ALLOW_LIST [--identity FILE] [--json]", "Checks and prints an allow-list.");
  options.positional("allow_list", &file, "file with a line for each rank")
      .add("identity", &identity_file, "an identity: which rank is it?")
      .flag("json", &json, "one JSON object");
  if (!options.parse(arguments)) return 0;
  const AllowList list = AllowList::load(file);
  std::optional<Identity> identity;
  if (identity_file) identity = Identity::load(*identity_file);
  nlohmann::ordered_json ranks = nlohmann::json::array();
  std::optional<int> own;
  for (int rank = 0; rank < list.size(); ++rank) {
    const AllowList::Entry& entry = list.entry(rank);
    ranks.push_back(
        {{"rank", rank}, {"public_key", comm::secagg::to_hex(entry.public_key)}, {"owner", entry.owner}});
    if (identity && identity->public_key() == entry.public_key) own = rank;
  }
  if (identity && !own)
    throw ConfigError("the identity in '" + *identity_file + "' is in no line of '" + file + "'");
  if (json) {
    nlohmann::ordered_json object = {{"allow_list", comm::secagg::to_hex(list.digest())}, {"ranks", ranks}};
    if (own) object["identity"] = *own;
    std::cout << object.dump() << "\n";
    return 0;
  }
  for (const auto& entry : ranks)
    std::cout << "rank " << std::left << std::setw(5) << entry["rank"].get<int>()
              << entry["public_key"].get<std::string>() << "  " << entry["owner"].get<std::string>()
              << (own == entry["rank"].get<int>() ? "  <- this identity" : "") << "\n";
  std::cout << "allow-list " << comm::secagg::to_hex(list.digest()) << ": equal on all ranks\n";
  return 0;
}

}  // namespace

int run_keys(const Arguments& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "help") {
    std::cout << kHelp;
    return arguments.empty() ? static_cast<int>(ExitCode::kConfig) : 0;
  }
  const Arguments rest(arguments.begin() + 1, arguments.end());
  if (arguments[0] == "new") return new_identity(rest);
  if (arguments[0] == "list") return list_identities(rest);
  throw ConfigError("dpfa keys has no command " + arguments[0] + ": new or list");
}

}  // namespace dpfa::cli
