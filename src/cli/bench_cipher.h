// ChaCha20 of OpenSSL, to compare ours with. In a file of its own: nothing else of dpfa uses OpenSSL.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace dpfa::cli {

// Writes key stream over `out`, from the start of the stream of a fixed key.
class OpensslKeystream {
 public:
  OpensslKeystream();
  ~OpensslKeystream();
  OpensslKeystream(const OpensslKeystream&) = delete;
  OpensslKeystream& operator=(const OpensslKeystream&) = delete;
  void fill(std::span<unsigned char> out);
  static std::string version();

 private:
  struct State;
  State* state_;
};

}  // namespace dpfa::cli
