// Which counter-based generator fills a stream.
#pragma once

#include <string_view>

namespace dpfa {

enum class Generator {
  kChaCha20,  // cryptographic (RFC 8439): the default of every privacy-relevant stream
  kPhilox,    // Philox4x32-10 (Salmon et al. 2011): fast, makes no cryptographic claim
};

constexpr std::string_view to_string(Generator g) {
  return g == Generator::kChaCha20 ? "chacha20" : "philox";
}

}  // namespace dpfa
