// DPFA_CLONES before a function compiles it for several instruction sets and takes the widest that the
// processor has, for loops that the compiler turns into vector instructions. All paths give the same bits: of
// integers; of floats element by element where no multiply-add is fused (-ffp-contract=off); of sums of
// floats where, in addition, their order is written down (kernels/lane_sums.h), so such a function holds no
// `omp simd reduction` of them. Where the compiler has no such clones the function is compiled once.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define DPFA_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DPFA_CLONES
#endif
