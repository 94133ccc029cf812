// The multi-lane loops behind chacha20.h and normal.h, one table of functions per instruction set.
// All tables compute the same bits; tests compare them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dpfa::random_internal {

// A ChaCha20 stream: block b has the counter low 32 bits of b and the nonce (high 32 bits of b, low 32 bits
// of step, high 32 bits of step).
struct Stream {
  const uint32_t* key;  // 8 words; Philox takes the first two
  uint64_t step;
};

inline constexpr size_t kGroupBlocks = 16;
inline constexpr size_t kGroupWords = 16 * kGroupBlocks;
inline constexpr size_t kGroupNormals = 8 * kGroupBlocks;

struct Backend {
  // `groups` groups of 16 blocks from block 16 first_group on, in the order of RFC 8439: 256 words a group.
  void (*chacha20_words)(const Stream& stream, uint64_t first_group, size_t groups, uint32_t* out);
  // The same groups as normals, 128 a group (layout in normal.h).
  void (*chacha20_normals)(const Stream& stream, uint64_t first_group, size_t groups, double* out);
  void (*philox_normals)(const Stream& stream, uint64_t first_group, size_t groups, double* out);
  // count must be a multiple of 8.
  void (*box_muller)(const uint64_t* radius, const uint64_t* angle, size_t count, double* x, double* y);
  // x[d] = the signed value of draw d of a group of samples of `levels` draws (alias_draw.h), from a table of
  // 2^bits rows of two words, with the same instructions for every draw. count must be a multiple of 8.
  void (*discrete_draws)(const uint64_t* table, int bits, const uint32_t* group, size_t levels, size_t count,
                         int64_t* x);
};

extern const Backend kPortableBackend;
extern const Backend kAvx2Backend;    // defined on x86-64 only
extern const Backend kAvx512Backend;  // defined on x86-64 only

}  // namespace dpfa::random_internal
