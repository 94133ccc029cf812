// DPFA_HOST_DEVICE before a function compiles it for the host and, by nvcc, for the device as well.
// DPFA_UNROLL before a loop makes nvcc unroll it.
#pragma once

#if defined(__CUDACC__)
#define DPFA_HOST_DEVICE __host__ __device__
#define DPFA_UNROLL _Pragma("unroll")
#else
#define DPFA_HOST_DEVICE
#define DPFA_UNROLL
#endif
