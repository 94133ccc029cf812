# dpfa_library(NAME SOURCES ... [DEPENDS ...] [PLANTED] [HEADERS ... | HEADERS_OF library])  static library dpfa_NAME, alias
#   dpfa::NAME; HEADERS are precompiled for it and for those that name it as HEADERS_OF
# dpfa_test(NAME SOURCES ... DEPENDS ... [LABELS ...] [ENVIRONMENT ...])  GoogleTest program, CTest name NAME
# dpfa_planted_bug(PLANT PROGRAM target TEST Suite.Case [VARIANT word] [RANKS n])  CTest PROGRAM.planted.PLANT[.VARIANT]: that
#   case of a test program linked with the _planted libraries, under mpirun where RANKS is given, passes with the bug
#   asleep and fails with it alive
# dpfa_engine_test(NAME SOURCES ... DEPENDS ...)  dpfa_test of code on LibTorch, with the oracle of tests/support, and the
#   program NAME_planted: the same sources on the _planted libraries, for dpfa_planted_bug
# dpfa_mpi_test(NAME RANKS 2 4 SOURCES ... DEPENDS ...)  the same program under mpirun, once per rank count
#
# PLANTED builds the library a second time as dpfa_NAME_planted, with DPFA_PLANTS defined: the same
# sources with the known privacy bugs of docs/testing.md selectable at run time. Only tests link it.

function(dpfa_set_options target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wshadow;-Wnon-virtual-dtor>"
    $<$<AND:$<BOOL:${DPFA_WERROR}>,$<COMPILE_LANGUAGE:C,CXX>>:-Werror>)
endfunction()

# Targets with .cu sources. `#pragma unroll` is nvcc's own, the host compiler does not know it.
function(dpfa_cuda_options target)
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--resource-usage;-Xcompiler=-Wall,-Wextra,-Wshadow,-Wno-unknown-pragmas>"
    "$<$<AND:$<BOOL:${DPFA_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:SHELL:-Werror all-warnings>")
endfunction()

# For a folder with .cu sources: what ptxas says of each kernel lies beside its object, <object>.ptxas.
macro(dpfa_cuda_launcher)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${PROJECT_SOURCE_DIR}/cmake/nvcc_report.sh ${CMAKE_CXX_COMPILER_LAUNCHER})
endmacro()

function(dpfa_library name)
  cmake_parse_arguments(ARG "PLANTED" "HEADERS_OF" "SOURCES;DEPENDS;HEADERS" ${ARGN})
  add_library(dpfa_${name} STATIC ${ARG_SOURCES})
  add_library(dpfa::${name} ALIAS dpfa_${name})
  dpfa_set_options(dpfa_${name})
  target_link_libraries(dpfa_${name} PUBLIC ${ARG_DEPENDS})
  if(ARG_HEADERS)
    target_precompile_headers(dpfa_${name} PRIVATE ${ARG_HEADERS})
    set(ARG_HEADERS_OF ${name})
  elseif(ARG_HEADERS_OF)
    target_precompile_headers(dpfa_${name} REUSE_FROM dpfa_${ARG_HEADERS_OF})
  endif()
  if(ARG_PLANTED AND DPFA_TESTS)
    add_library(dpfa_${name}_planted STATIC EXCLUDE_FROM_ALL ${ARG_SOURCES})
    dpfa_set_options(dpfa_${name}_planted)
    target_compile_definitions(dpfa_${name}_planted PUBLIC DPFA_PLANTS=1)
    if(ARG_HEADERS_OF)
      target_precompile_headers(dpfa_${name}_planted REUSE_FROM dpfa_${ARG_HEADERS_OF})
    endif()
    set(planted_depends)
    foreach(dependency ${ARG_DEPENDS})
      string(REPLACE "dpfa::" "dpfa_" plain ${dependency})
      if(TARGET ${plain}_planted)
        list(APPEND planted_depends ${plain}_planted)
      else()
        list(APPEND planted_depends ${dependency})
      endif()
    endforeach()
    target_link_libraries(dpfa_${name}_planted PUBLIC ${planted_depends})
  endif()
endfunction()

# The first test of a kind (torch or json) owns the precompiled headers of its kind: GCC takes them for targets with at
# least the definitions of the owner.
function(dpfa_use_test_headers name kind)
  get_property(owner GLOBAL PROPERTY DPFA_TEST_HEADERS_${kind})
  if(owner)
    target_precompile_headers(${name} REUSE_FROM ${owner})
  else()
    target_precompile_headers(${name} PRIVATE <gtest/gtest.h> ${ARGN})
    set_property(GLOBAL PROPERTY DPFA_TEST_HEADERS_${kind} ${name})
  endif()
endfunction()

function(dpfa_test_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  dpfa_set_options(${name})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gtest)
  # GoogleTest's templates take longer to optimise than tests take to run; what they test is optimised in full.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  if("${ARG_DEPENDS}" MATCHES "dpfa(::|_)(kernels|model|device|privacy|train|inference)(_planted)?(;|$)")
    dpfa_use_test_headers(${name} torch <ATen/ATen.h> <nlohmann/json.hpp>)
  elseif("${ARG_DEPENDS}" MATCHES "dpfa(::|_)(accounting|plan)")
    dpfa_use_test_headers(${name} json <nlohmann/json.hpp>)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
endfunction()

function(dpfa_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LABELS;ENVIRONMENT" ${ARGN})
  dpfa_test_program(${name} SOURCES ${ARG_SOURCES} DEPENDS ${ARG_DEPENDS} GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  # Threads that wait by spinning starve each other where tests share the cores.
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    ENVIRONMENT "OMP_WAIT_POLICY=passive;DPFA_SHARED=${PROJECT_SOURCE_DIR}/../shared;DPFA_SOURCE_DIR=${PROJECT_SOURCE_DIR};DPFA_PROGRAM=${PROJECT_BINARY_DIR}/bin/dpfa;${ARG_ENVIRONMENT}")
endfunction()

function(dpfa_planted_bug plant)
  cmake_parse_arguments(ARG "" "PROGRAM;TEST;VARIANT;RANKS" "" ${ARGN})
  string(JOIN "." name ${ARG_PROGRAM} planted ${plant} ${ARG_VARIANT})
  set_property(GLOBAL APPEND PROPERTY DPFA_PLANTED_BUGS ${plant})
  set(label unit)
  set(launcher)
  if(ARG_RANKS)
    set(label mpi${ARG_RANKS})
    set(launcher "-DLAUNCHER=${MPIEXEC_EXECUTABLE} -np ${ARG_RANKS} --oversubscribe --bind-to none")
  endif()
  add_test(NAME ${name} COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:${ARG_PROGRAM}> ${launcher}
    -DTEST=${ARG_TEST} -DPLANT=${plant} -P ${PROJECT_SOURCE_DIR}/tests/planted_bugs.cmake)
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT 600
    ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive;OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
endfunction()

function(dpfa_engine_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  set(sources ${ARG_SOURCES} ${PROJECT_SOURCE_DIR}/tests/support/engine_oracle.cc)
  string(REGEX REPLACE "dpfa::([a-z_]+)" "dpfa_\\1_planted" planted "${ARG_DEPENDS}")
  dpfa_test(${name} SOURCES ${sources} DEPENDS ${ARG_DEPENDS} ENVIRONMENT OMP_NUM_THREADS=2)
  dpfa_test_program(${name}_planted SOURCES ${sources} DEPENDS ${planted} GTest::gtest_main)
endfunction()

# The program brings its own main() that initialises MPI (tests/support/mpi_main.cc).
function(dpfa_mpi_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "RANKS;SOURCES;DEPENDS" ${ARGN})
  dpfa_test_program(${name} SOURCES ${ARG_SOURCES} ${PROJECT_SOURCE_DIR}/tests/support/mpi_main.cc
    DEPENDS ${ARG_DEPENDS} MPI::MPI_C)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  foreach(ranks ${ARG_RANKS})
    add_test(NAME ${name}.np${ranks}
      COMMAND ${MPIEXEC_EXECUTABLE} -np ${ranks} --oversubscribe --bind-to none $<TARGET_FILE:${name}>)
    set_tests_properties(${name}.np${ranks} PROPERTIES LABELS "mpi${ranks}" TIMEOUT ${ARG_TIMEOUT}
      PROCESSORS 2
      ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMP_NUM_THREADS=1;DPFA_SHARED=${PROJECT_SOURCE_DIR}/../shared")
  endforeach()
endfunction()
