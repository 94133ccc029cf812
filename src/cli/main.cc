// dpfa VERB ...: finds the verb, runs it, and turns what it throws into one sentence and an exit code.
#include <exception>
#include <iostream>

#include "src/base/error.h"
#include "src/cli/build_facts.h"
#include "src/cli/facts.h"
#include "src/cli/verbs.h"
#include "src/plan/value.h"

namespace dpfa::cli {
namespace {

void print_help() {
  std::cout << "usage: dpfa VERB [options]\n"
               "Differentially private training of transformers on clusters.\n\n";
  for (const Verb& verb : verbs()) {
    std::cout << "  " << verb.name << std::string(10 - verb.name.size(), ' ') << verb.summary << "\n";
  }
  std::cout
      << "\ndpfa VERB --help explains a verb; dpfa --version names what it was built from.\n"
         "Exit codes: 0 done; 2 usage or configuration; 3 privacy budget exhausted; 4 a peer or the network\n"
         "was lost; 5 checkpoint, ledger or data do not fit; 6 not supported; 7 input or output failed;\n"
         "70 internal error; 75 stopped on request; 76 hang found by the watchdog.\n";
}

void print_version() {
  std::cout << "dpfa " << kVersion << " (" << kRevision << ")\ncompiler: " << kCompiler << "\n";
  const auto libraries = library_facts();
  for (const auto& [name, version] : libraries.items()) {
    std::cout << name << ": " << version.get<std::string>() << "\n";
  }
}

int run(const Arguments& words) {
  if (words.empty()) {
    print_help();
    return static_cast<int>(ExitCode::kConfig);
  }
  const std::string& name = words.front();
  if (name == "--help" || name == "help") {
    print_help();
    return 0;
  }
  if (name == "--version") {
    print_version();
    return 0;
  }
  std::vector<std::string> names;
  for (const Verb& verb : verbs()) {
    if (verb.name == name) return verb.run({words.begin() + 1, words.end()});
    names.push_back(verb.name);
  }
  throw ConfigError("unknown verb " + name + plan::suggestion(name, names) +
                    " (dpfa --help lists the verbs)");
}

}  // namespace
}  // namespace dpfa::cli

int main(int argc, char** argv) {
  int code = 0;
  try {
    code = dpfa::cli::run({argv + 1, argv + argc});
    // A full disk or closed pipe behind stdout must not look like success.
    if (!std::cout.flush()) throw dpfa::IoError("cannot write to standard output");
  } catch (const dpfa::Error& error) {
    std::cerr << "dpfa: " << error.what() << std::endl;
    code = static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << "dpfa: internal error: " << error.what() << std::endl;
    code = static_cast<int>(dpfa::ExitCode::kInternal);
  }
  return code;
}
