// Our ChaCha20 beside OpenSSL's and libsodium's, thread by thread. In a file of its own: nothing else of dpfa
// uses OpenSSL.
#pragma once

#include <cstdint>
#include <vector>

#include "src/base/stream_key.h"
#include "src/cli/bench_report.h"

namespace dpfa::cli {

// Writes `bytes` of the key's stream into one small buffer, over and over.
void make_keystream(const StreamKey& key, int64_t bytes);

// By the calling thread.
std::vector<BenchResult> compare_keystreams(int64_t repeats);

}  // namespace dpfa::cli
