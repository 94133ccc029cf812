# cmake -DFOLDERS=...,... -DARCHITECTURES=sm_80,... -P ptxas_test.cmake
#
# What ptxas said of the kernels for norms, products, updates and secure sums: none spills registers or keeps arrays in
# memory, on any architecture, and none of them is missing from the reports.

cmake_minimum_required(VERSION 3.25)

string(REPLACE "," ";" architectures "${ARCHITECTURES}")
string(REPLACE "," ";" folders "${FOLDERS}")
# Part of the mangled name, and how many kernels have it.
set(kernels gram_tiles_kernel gram_wgmma_kernel segment_gemm_kernel segment_wgmma_kernel noisy_step_kernel
  make_words_kernel read_words_kernel)
set(count_gram_tiles_kernel 1)
set(count_gram_wgmma_kernel 1)
set(count_segment_gemm_kernel 4)
set(count_segment_wgmma_kernel 4)
set(count_noisy_step_kernel 16)  # two generators, two integer types, one writer and three updates
set(count_make_words_kernel 6)   # three widths, of a rank's sum and of plain lanes
set(count_read_words_kernel 3)

set(reports)
foreach(folder ${folders})
  file(GLOB_RECURSE of_folder ${folder}/*.ptxas)
  list(APPEND reports ${of_folder})
endforeach()
if(NOT reports)
  message(FATAL_ERROR "no report of ptxas under ${FOLDERS}: were the kernels compiled?")
endif()

foreach(report ${reports})
  file(STRINGS ${report} lines)
  set(kernel "")
  foreach(line IN LISTS lines)
    if(line MATCHES "Compiling entry function '([^']*)' for '([^']*)'")
      set(mangled ${CMAKE_MATCH_1})
      set(architecture ${CMAKE_MATCH_2})
      set(kernel "")
      foreach(name ${kernels})
        if(mangled MATCHES "[0-9]${name}")
          set(kernel ${name})
        endif()
      endforeach()
    elseif(kernel AND line MATCHES "bytes stack frame")
      if(NOT line MATCHES " 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads")
        message(SEND_ERROR "${mangled} for ${architecture}: ${line}")
      endif()
      list(APPEND seen_${kernel} ${mangled}.${architecture})
      set(kernel "")
    endif()
  endforeach()
endforeach()

set(total 0)
foreach(kernel ${kernels})
  list(REMOVE_DUPLICATES seen_${kernel})
  foreach(architecture ${architectures})
    set(of_architecture ${seen_${kernel}})
    list(FILTER of_architecture INCLUDE REGEX "\\.${architecture}$")
    list(LENGTH of_architecture found)
    if(NOT found EQUAL count_${kernel})
      message(SEND_ERROR "${kernel} for ${architecture}: ${found} reports, ${count_${kernel}} expected")
    endif()
    math(EXPR total "${total} + ${found}")
  endforeach()
endforeach()
message(STATUS "${total} kernels without spills")
