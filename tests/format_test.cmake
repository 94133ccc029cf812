# cmake -DSOURCE_DIR=... -DCLANG_FORMAT=... -P format_test.cmake
#
# Fails where a C++ or CUDA source is not laid out as .clang-format says.

cmake_minimum_required(VERSION 3.25)

set(sources)
foreach(module accounting comm kernels src tests)
  file(GLOB_RECURSE found ${SOURCE_DIR}/${module}/*.cc ${SOURCE_DIR}/${module}/*.h ${SOURCE_DIR}/${module}/*.cu
    ${SOURCE_DIR}/${module}/*.cuh)
  list(APPEND sources ${found})
endforeach()
list(LENGTH sources count)
if(count LESS 50)
  message(FATAL_ERROR "only ${count} sources under ${SOURCE_DIR}: nothing was checked")
endif()
execute_process(COMMAND ${CLANG_FORMAT} --dry-run --Werror ${sources} RESULT_VARIABLE status ERROR_VARIABLE problems)
if(NOT status EQUAL 0)
  string(SUBSTRING "${problems}" 0 4000 problems)
  message(FATAL_ERROR "run clang-format -i on the files named here:\n${problems}")
endif()
message(STATUS "${count} sources are laid out as .clang-format says")
