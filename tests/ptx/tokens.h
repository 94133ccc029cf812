// The words of a PTX text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dpfa::ptx {

struct Token {
  std::string text;
  int line;  // from 1
};

// Comments are left out. A word may hold '.', '$', '%' and '::'; any other character is a token of its own.
std::vector<Token> tokens_of(const std::string& text);
// "ld.shared.b32" -> ld, shared, b32.
std::vector<std::string> split(const std::string& opcode);
// Bytes of a lane of a register of that type (".b32"); 1 for predicates.
uint8_t width_of(const std::string& type);
// Integers as in C, with or without a final U. Throws std::invalid_argument for what is none.
int64_t integer_of(const std::string& text);
// The bits of an integer or of a number in hexadecimal (0f3F800000, 0d...): PTX ISA 9.0, sections 4.5.1
// and 4.5.2.
uint64_t bits_of(const std::string& text);

}  // namespace dpfa::ptx
