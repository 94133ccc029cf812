// The statements of a kernel: declarations, labels, instructions with their operands.
#include <algorithm>
#include <cctype>

#include "tests/ptx/decoder.h"
#include "tests/ptx/parser.h"

namespace dpfa::ptx {

namespace {

const std::map<std::string, Special>& specials() {
  static const std::map<std::string, Special> all = {{"%tid.x", Special::kTidX},
                                                     {"%tid.y", Special::kTidY},
                                                     {"%tid.z", Special::kTidZ},
                                                     {"%ntid.x", Special::kNtidX},
                                                     {"%ntid.y", Special::kNtidY},
                                                     {"%ntid.z", Special::kNtidZ},
                                                     {"%ctaid.x", Special::kCtaidX},
                                                     {"%ctaid.y", Special::kCtaidY},
                                                     {"%ctaid.z", Special::kCtaidZ},
                                                     {"%nctaid.x", Special::kNctaidX},
                                                     {"%nctaid.y", Special::kNctaidY},
                                                     {"%nctaid.z", Special::kNctaidZ},
                                                     {"%laneid", Special::kLane},
                                                     {"%warpid", Special::kWarp},
                                                     {"%lanemask_lt", Special::kLaneMaskLt},
                                                     {"%clock", Special::kClock},
                                                     {"%dynamic_smem_size", Special::kDynamicShared}};
  return all;
}

}  // namespace

int Parser::statement() {  // change of depth
  const int line = at_ < tokens_.size() ? tokens_[at_].line : 0;
  const std::string word = next();
  if (word == "{") {
    scopes_.push_back({next_scope_++, {}});
    return 1;
  }
  if (word == "}") {
    scopes_.pop_back();
    return -1;
  }
  if (word == ";") return 0;
  if (peek() == ":" && word[0] != '@') {
    next();
    labels_[{scopes_.back().id, word}] = static_cast<int32_t>(kernel_->code.size());
    return 0;
  }
  if (word[0] == '.') {
    directive(word);
    return 0;
  }
  instruction(word, line);
  return 0;
}

void Parser::directive(const std::string& word) {
  if (word == ".reg") {
    declare_registers();
  } else if (word == ".shared" || word == ".local") {
    std::string name;
    const Variable v = variable(&name);
    expect(";");
    uint32_t& end = word == ".local" ? kernel_->local_bytes : kernel_->static_shared;
    end = (end + v.alignment - 1) / v.alignment * v.alignment;
    scopes_.back().symbols[name] = {word == ".local" ? Symbol::kLocal : Symbol::kShared, 0, end};
    end += v.bytes;
  } else if (word == ".pragma") {
    const std::string text = next();
    if (text.rfind("\"used_bytes_mask", 0) == 0)
      used_bytes_ = static_cast<uint32_t>(std::stoul(text.substr(17)));
    expect(";");
  } else {
    skip_to(";");
  }
}

void Parser::declare_registers() {
  const uint8_t width = width_of(next());
  do {
    const std::string name = next();
    if (peek() == "<") {
      next();
      const int64_t count = integer_of(next());
      expect(">");
      for (int64_t i = 0; i < count; ++i) add_register(name + std::to_string(i), width);
    } else {
      add_register(name, width);
    }
  } while (next() == ",");
}

void Parser::add_register(const std::string& name, uint8_t width) {
  scopes_.back().symbols[name] = {Symbol::kRegister, width, kernel_->register_bytes};
  kernel_->register_bytes += (kLanes * width + 63u) / 64 * 64;
}

const Parser::Symbol* Parser::find(const std::string& name) {
  for (size_t i = scopes_.size(); i-- > 0;) {
    const auto found = scopes_[i].symbols.find(name);
    if (found != scopes_[i].symbols.end()) return &found->second;
  }
  const auto shared = shared_.find(name);
  if (shared != shared_.end()) {
    const Variable& v = shared->second;
    if (v.dynamic) {
      kernel_->dynamic_alignment = std::max(kernel_->dynamic_alignment, v.alignment);
      return &(scopes_[0].symbols[name] = {Symbol::kDynamicShared, 0, 0});
    }
    uint32_t& end = kernel_->static_shared;
    end = (end + v.alignment - 1) / v.alignment * v.alignment;
    const Symbol symbol = {Symbol::kShared, 0, end};
    end += v.bytes;
    return &(scopes_[0].symbols[name] = symbol);
  }
  const auto global = module_->globals.find(name);
  if (global != module_->globals.end())
    return &(scopes_[0].symbols[name] = {Symbol::kGlobal, 0, global->second});
  return nullptr;
}

Operand Parser::operand() {
  Operand o;
  const std::string t = next();
  if (t == "{") {
    o.kind = Kind::kVector;
    while (peek() != "}") {
      o.list.push_back(operand());
      if (peek() == ",") next();
    }
    next();
  } else if (t == "[") {
    o = address();
  } else if (t == "!") {
    o = operand();
    o.negated = true;
  } else if (t == "-") {
    o.kind = Kind::kImmediate;
    o.value = 0 - bits_of(next());
  } else if (t == "_") {
    o.kind = Kind::kSink;
  } else if (std::isdigit(static_cast<unsigned char>(t[0]))) {
    o.kind = Kind::kImmediate;
    o.value = bits_of(t);
  } else {
    o = named(t);
  }
  if (peek() == "|") {  // a second result
    next();
    o.list.push_back(operand());
  }
  return o;
}

// What follows '[': a base, an offset, and of tensor maps what follows the comma.
Operand Parser::address() {
  Operand o;
  o.kind = Kind::kAddress;
  o.list.push_back(operand());
  if (peek() == "+" || peek() == "-") {
    bool minus = next() == "-";
    if (peek() == "-") next(), minus = !minus;
    const uint64_t offset = bits_of(next());
    o.value = minus ? 0 - offset : offset;
  }
  while (peek() == ",") next(), o.list.push_back(operand());
  expect("]");
  return o;
}

Operand Parser::named(const std::string& t) {
  Operand o;
  const auto special = specials().find(t);
  if (special != specials().end()) {
    o.kind = Kind::kRegister;
    o.width = 4;
    if (!special_places_.count({kernel_, t})) {
      special_places_[{kernel_, t}] = kernel_->register_bytes;
      kernel_->specials.emplace_back(kernel_->register_bytes, special->second);
      kernel_->register_bytes += 128;
    }
    o.place = special_places_[{kernel_, t}];
    return o;
  }
  const Symbol* symbol = find(t);
  if (symbol == nullptr) refuse("unknown name '" + t + "'");
  if (symbol->kind == Symbol::kRegister) {
    o.kind = Kind::kRegister;
    o.width = symbol->width;
    o.place = static_cast<uint32_t>(symbol->value);
  } else {
    o.kind = Kind::kImmediate;
    o.value = symbol->value + (symbol->kind == Symbol::kShared ? kSharedStart : 0);
    o.dynamic_shared = symbol->kind == Symbol::kDynamicShared;
  }
  return o;
}

void Parser::instruction(std::string word, int line) {
  Decoder d = {*kernel_, {}, {}, {}};
  d.instruction.line = line;
  if (word == "@") {
    if (peek() == "!") next(), d.instruction.guard_negated = true;
    d.instruction.guard = operand().place;
    word = next();
  }
  d.parts = split(word);
  d.instruction.used_bytes = used_bytes_;
  used_bytes_ = kNone;
  if (d.parts[0] == "bra") return branch(d.instruction);
  if (d.parts[0] == "call") {
    skip_to(";");
    d.parts = {"call"};
  } else {
    while (peek() != ";") {
      d.operands.push_back(operand());
      if (peek() == ",") next();
    }
    expect(";");
  }
  if (!d.decode()) {
    unknown_.insert(word);
    d.emit([](Warp& w, const Instruction& i, uint32_t) {
      fault("this instruction is not known to the interpreter: " + place_of(w, i, 0));
    });
  }
}

void Parser::branch(Instruction i) {
  i.flow = Flow::kBranch;
  std::vector<int> ids;
  for (const Scope& scope : scopes_) ids.push_back(scope.id);
  branches_.push_back({kernel_->code.size(), next(), ids});
  expect(";");
  kernel_->code.push_back(i);
}

}  // namespace dpfa::ptx
