// One pass over the text of a PTX module (program.h: parse_module); labels are resolved at the end of a
// kernel.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/ptx/decoder.h"
#include "tests/ptx/tokens.h"

namespace dpfa::ptx {

class Parser {
 public:
  Parser(const std::string& text, uint64_t (*allocate)(const std::vector<uint8_t>&));
  std::unique_ptr<Module> run();

 private:
  struct Variable {  // of memory
    uint32_t bytes = 0, alignment = 1;
    uint32_t element = 1;  // bytes
    bool dynamic = false;
  };
  struct Symbol {
    enum { kRegister, kShared, kDynamicShared, kLocal, kParameter, kGlobal } kind;
    uint8_t width = 0;
    uint64_t value = 0;  // place, or address
  };
  struct Branch {
    size_t instruction;
    std::string label;
    std::vector<int> scopes;
  };
  struct Scope {
    int id;
    std::map<std::string, Symbol> symbols;
  };

  // Words.
  const std::string& peek() const;
  std::string next();
  void expect(const char* text);
  void skip_to(const char* text);
  [[noreturn]] void refuse(const std::string& what) const;

  // Of a module.
  void top_level();
  void skip_function();
  Variable variable(std::string* name);  // after the state space, up to before ';' or '='
  void module_variable();
  std::vector<uint8_t> initial_content(const Variable& variable);
  void entry();
  void parameter();
  void resolve_branches();

  // Of a kernel.
  int statement();  // change of depth
  void directive(const std::string& word);
  void declare_registers();
  void add_register(const std::string& name, uint8_t width);
  const Symbol* find(const std::string& name);
  Operand operand();
  Operand address();
  Operand named(const std::string& name);
  void instruction(std::string word, int line);
  void branch(Instruction instruction);

  std::unique_ptr<Module> module_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  uint64_t (*allocate_)(const std::vector<uint8_t>&);
  std::map<std::string, Variable> shared_;
  Kernel* kernel_ = nullptr;
  uint32_t used_bytes_ = kNone;  // of the next instruction
  std::vector<Scope> scopes_;
  int next_scope_ = 0;
  std::map<std::pair<int, std::string>, int32_t> labels_;
  std::vector<Branch> branches_;
  std::map<std::pair<Kernel*, std::string>, uint32_t> special_places_;
  std::set<std::string> unknown_;
};

}  // namespace dpfa::ptx
