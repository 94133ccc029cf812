# cmake -DPROGRAM=... -DOBJDUMP=... -P vector_loops_test.cmake
#
# A function that is compiled for several instruction sets (src/base/clones.h) works on vectors in its clone for AVX2: a
# compiler that leaves its loop scalar says nothing, and no result differs. A function with two loops, one of them scalar,
# may pass.

cmake_minimum_required(VERSION 3.25)

# Prints "vector NAME" or "scalar NAME" for each clone: scalar is one that has more than sixteen instructions on single
# numbers for one on 32 bytes (what remains of a row after the last whole vector is scalar in every clone).
set(judge [[
function tell() { if (name != "") print (packed > 0 && 16 * packed >= single ? "vector" : "scalar"), name; name = "" }
/^[0-9a-f]+ <.*>:$/ { tell(); if ($2 ~ /arch_x86_64_v3/ && $2 !~ /[.]cold/) { name = $2; packed = 0; single = 0 } next }
$2 ~ /^vp?(add|sub|mul|madd|fm|div|min|max|and|or|xor|sll|srl|cmp)/ && /%ymm/ { ++packed }
$2 ~ /^v(add|sub|mul|div|min|max)s[sd]$/ { ++single }
END { tell() }
]])
execute_process(COMMAND ${OBJDUMP} -d --no-show-raw-insn ${PROGRAM} COMMAND awk "${judge}"
  OUTPUT_VARIABLE clones COMMAND_ERROR_IS_FATAL ANY)
if(NOT clones MATCHES "gelu_row")
  message(FATAL_ERROR "${PROGRAM} has no clone of gelu_row for AVX2; its clones:\n${clones}")
endif()
string(REGEX MATCHALL "scalar <[^\n]*" scalar "${clones}")
# AVX2 has no conversion of 64-bit integers to double.
list(FILTER scalar EXCLUDE REGEX "release_chunkIlE")
if(scalar)
  list(JOIN scalar "\n" names)
  message(FATAL_ERROR "the compiler left these loops scalar for AVX2:\n${names}")
endif()
