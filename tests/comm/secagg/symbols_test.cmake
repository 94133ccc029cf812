# cmake -DLIBRARY=... -DNM=... -DNEEDS=symbol [-DMEMBERS=a|b] -P symbols_test.cmake
#
# A library, or these sources of it, draws nothing from generators that are not cryptographic, and from no clock.
# NEEDS is a symbol that must be found: otherwise nothing was read.

cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${NM} --demangle --undefined-only --print-file-name ${LIBRARY}
  OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
if(MEMBERS)
  string(REGEX MATCHALL "[^\n]*:(${MEMBERS})[.]cc[.]o:[^\n]*\n" symbols "${symbols}")
endif()
if(NOT status EQUAL 0 OR NOT symbols MATCHES "${NEEDS}")
  message(FATAL_ERROR "the symbols of ${LIBRARY} were not read: nothing was checked")
endif()
foreach(name "curand" "philox" "mersenne_twister" "random_device" "[^a-z_]s?rand(om|_r|48)?\n" "clock_gettime"
        "chrono" "gettimeofday" "from_insecure_seed" "[^a-z_]time\n" "printf" "cout" "cerr")
  if(symbols MATCHES "${name}")
    message(SEND_ERROR "${LIBRARY} uses ${CMAKE_MATCH_0} (${name})")
  endif()
endforeach()
