// DPFA_CLONES before a function compiles it for several instruction sets and takes the widest that the
// processor has, for loops that the compiler turns into vector instructions. Integers, and floats element by
// element, have the same bits on every path; sums of floats do where their order is written down and nothing
// is fused, and else differ in their last bits between processors. Where the compiler has no such clones the
// function is compiled once.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define DPFA_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DPFA_CLONES
#endif
