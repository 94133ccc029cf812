# cmake -DPROGRAM=... [-DLAUNCHER="mpirun -np N"] -DTEST=Suite.Case -DPLANT=name -P planted_bugs.cmake
#
# Shows that a test catches a planted bug: it passes while all bugs are asleep and fails with PLANT alive.

foreach(name PROGRAM TEST PLANT)
  if(NOT DEFINED ${name})
    message(FATAL_ERROR "planted_bugs.cmake needs -D${name}=...")
  endif()
endforeach()

separate_arguments(launcher UNIX_COMMAND "${LAUNCHER}")
set(run ${launcher} ${PROGRAM} --gtest_filter=${TEST} --gtest_color=no)  # mpirun writes to a terminal
set(one_passed "\\[  PASSED  \\] 1 test\\.")
set(one_failed "\\[  FAILED  \\] 1 test, listed below")

execute_process(COMMAND ${CMAKE_COMMAND} -E env --unset=DPFA_PLANT ${run}
  RESULT_VARIABLE asleep OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT asleep EQUAL 0 OR NOT output MATCHES "${one_passed}")
  message(FATAL_ERROR "${TEST} must run and pass while the bug ${PLANT} is asleep (exit ${asleep}):\n${output}")
endif()

execute_process(COMMAND ${CMAKE_COMMAND} -E env DPFA_PLANT=${PLANT} ${run}
  RESULT_VARIABLE awake OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(awake EQUAL 0 OR NOT output MATCHES "${one_failed}")
  message(FATAL_ERROR "${TEST} did not catch the planted bug ${PLANT} (exit ${awake}):\n${output}")
endif()
