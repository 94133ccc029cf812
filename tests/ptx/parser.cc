#include "tests/ptx/parser.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace dpfa::ptx {

Parser::Parser(const std::string& text, uint64_t (*allocate)(const std::vector<uint8_t>&))
    : module_(std::make_unique<Module>()), tokens_(tokens_of(text)), allocate_(allocate) {
  size_t begin = 0;
  for (size_t at; (at = text.find('\n', begin)) != std::string::npos; begin = at + 1)
    module_->lines.push_back(text.substr(begin, at - begin));
}

std::unique_ptr<Module> Parser::run() {
  while (at_ < tokens_.size()) top_level();
  return std::move(module_);
}

const std::string& Parser::peek() const {
  static const std::string end;
  return at_ < tokens_.size() ? tokens_[at_].text : end;
}
std::string Parser::next() {
  if (at_ >= tokens_.size()) throw std::runtime_error("the PTX ends in a statement");
  return tokens_[at_++].text;
}
void Parser::expect(const char* text) {
  const std::string got = next();
  if (got != text) refuse("'" + got + "' instead of '" + text + "'");
}
void Parser::skip_to(const char* text) {
  while (next() != text) {
  }
}
void Parser::refuse(const std::string& what) const {
  throw std::runtime_error("line " + std::to_string(tokens_[at_ - 1].line) + " of the PTX: " + what);
}

void Parser::top_level() {
  const std::string word = next();
  if (word == ".version" || word == ".address_size") {
    next();
  } else if (word == ".target") {
    module_->target = next();
    while (peek() == ",") next(), next();
  } else if (word == ".visible" || word == ".weak" || word == ".extern" || word == ".common" || word == ";") {
  } else if (word == ".global" || word == ".const") {
    module_variable();
  } else if (word == ".shared") {
    std::string name;
    const Variable v = variable(&name);
    shared_[name] = v;
  } else if (word == ".entry") {
    entry();
  } else if (word == ".func") {
    skip_function();
  } else if (word == ".file" || word == ".section") {
    throw std::runtime_error("debug information is not understood: build without -G and -lineinfo");
  } else {
    refuse("'" + word + "'");
  }
}

Parser::Variable Parser::variable(std::string* name) {
  Variable v;
  uint32_t element = 1;
  bool pointee = false;  // what follows .ptr is said of the memory that it points to
  for (;;) {
    const std::string t = next();
    if (t == ".ptr") {
      pointee = true;
    } else if (t == ".align") {
      const auto alignment = static_cast<uint32_t>(integer_of(next()));
      if (!pointee) v.alignment = alignment;
    } else if (t[0] == '.' && pointee) {
    } else if (t[0] == '.') {
      element = width_of(t);
      v.alignment = std::max(v.alignment, element);
    } else {
      *name = t;
      break;
    }
  }
  v.bytes = element;
  while (peek() == "[") {
    next();
    if (peek() == "]") {
      v.dynamic = true;
      v.bytes = 0;
    } else {
      v.bytes *= static_cast<uint32_t>(integer_of(next()));
    }
    expect("]");
  }
  v.element = element;
  return v;
}

void Parser::module_variable() {
  std::string name;
  const Variable v = variable(&name);
  const std::vector<uint8_t> content = initial_content(v);
  expect(";");
  module_->globals[name] = allocate_(content);
}

std::vector<uint8_t> Parser::initial_content(const Variable& v) {
  std::vector<uint8_t> content(v.bytes);
  if (peek() != "=") return content;
  next();
  size_t at = 0;
  int depth = 0;
  do {
    const std::string t = next();
    if (t == "{") {
      ++depth;
    } else if (t == "}") {
      --depth;
    } else if (t != ",") {
      const bool minus = t == "-";
      const uint64_t number = bits_of(minus ? next() : t), value = minus ? 0 - number : number;
      if (at + v.element > content.size()) refuse("more initial numbers than the variable holds");
      std::memcpy(content.data() + at, &value, v.element);
      at += v.element;
    }
  } while (depth > 0);
  return content;
}

void Parser::skip_function() {
  int depth = 0;
  for (;;) {
    const std::string t = next();
    if (t == ";" && depth == 0) return;
    if (t == "{") ++depth;
    if (t == "}" && --depth == 0) return;
  }
}

void Parser::entry() {
  auto kernel = std::make_unique<Kernel>();
  kernel_ = kernel.get();
  kernel_->name = next();
  scopes_.assign(1, {next_scope_++, {}});
  labels_.clear();
  branches_.clear();
  expect("(");
  while (peek() != ")") parameter();
  expect(")");
  while (peek() != "{") {
    const std::string t = next();
    if (t == ".maxntid" || t == ".reqntid") {
      kernel_->most_threads = static_cast<uint32_t>(integer_of(next()));
      while (peek() == ",") {
        next();
        kernel_->most_threads *= static_cast<uint32_t>(integer_of(next()));
      }
    }
  }
  expect("{");
  for (int depth = 1; depth > 0;) depth += statement();
  resolve_branches();
  module_->kernels[kernel->name] = std::move(kernel);
}

void Parser::parameter() {
  if (peek() == ",") next();
  expect(".param");
  std::string name;
  const Variable v = variable(&name);
  uint32_t& end = kernel_->parameter_bytes;
  end = (end + v.alignment - 1) / v.alignment * v.alignment;
  kernel_->parameters.emplace_back(end, v.bytes);
  scopes_[0].symbols[name] = {Symbol::kParameter, 0, end};
  end += v.bytes;
}

void Parser::resolve_branches() {
  for (const Branch& b : branches_) {
    for (size_t i = b.scopes.size(); i-- > 0;) {
      const auto found = labels_.find({b.scopes[i], b.label});
      if (found == labels_.end()) continue;
      kernel_->code[b.instruction].target = found->second;
      break;
    }
    if (kernel_->code[b.instruction].target < 0) throw std::runtime_error("no label " + b.label);
  }
  Instruction end;
  end.flow = Flow::kExit;
  kernel_->code.push_back(end);
  for (const std::string& word : unknown_)
    std::fprintf(stderr, "ptx: %s of %s is not known\n", word.c_str(), kernel_->name.c_str());
  unknown_.clear();
}

std::string target_of(const std::string& text) {
  const size_t at = text.find(".target");
  if (at == std::string::npos) return {};
  const size_t begin = text.find_first_not_of(" \t", at + 7);
  return text.substr(begin, text.find_first_of(" \t\r\n,", begin) - begin);
}

std::unique_ptr<Module> parse_module(const std::string& text,
                                     uint64_t (*allocate)(const std::vector<uint8_t>& content)) {
  return Parser(text, allocate).run();
}

}  // namespace dpfa::ptx
