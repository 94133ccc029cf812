# cmake -DSOURCE_DIR=... -DCLANG=... -DWORK_DIR=... -P run_fuzzers.cmake
#
# Builds the preset `fuzz` in WORK_DIR and runs each of its targets for some seconds.

if(NOT CLANG)
  message("fuzz DID NOT RUN: no clang++ here (Debian: clang and libclang-rt-dev)")
  return()
endif()
file(MAKE_DIRECTORY ${WORK_DIR})
file(WRITE ${WORK_DIR}/probe.cc "extern \"C\" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n")
execute_process(COMMAND ${CLANG} -fsanitize=fuzzer,address ${WORK_DIR}/probe.cc -o ${WORK_DIR}/probe
  RESULT_VARIABLE result OUTPUT_QUIET ERROR_QUIET)
if(NOT result EQUAL 0)
  message("fuzz DID NOT RUN: ${CLANG} has no libFuzzer (Debian: libclang-rt-dev)")
  return()
endif()

foreach(step
    "${CMAKE_COMMAND};-S;${SOURCE_DIR};-B;${WORK_DIR}/build;--preset;fuzz;-DCMAKE_CXX_COMPILER=${CLANG};-DDPFA_FUZZ_SECONDS=5"
    "${CMAKE_COMMAND};--build;${WORK_DIR}/build;--parallel;2;--target;ledger_fuzz;cases_fuzz;event_fuzz"
    "${CMAKE_CTEST_COMMAND};--test-dir;${WORK_DIR}/build;-L;fuzz;--output-on-failure;--no-tests=error")
  execute_process(COMMAND ${step} WORKING_DIRECTORY ${SOURCE_DIR} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "fuzz: '${step}' ended with ${result}")
  endif()
endforeach()
