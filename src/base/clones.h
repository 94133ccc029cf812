// DPFA_CLONES before a function compiles it for several instruction sets and takes the widest that the
// processor has, for loops that the compiler turns into vector instructions. For integers only: they give the
// same bits on every path. Where the compiler has no such clones the function is compiled once.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define DPFA_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define DPFA_CLONES
#endif
