#!/usr/bin/env bash
# nvcc_report.sh COMMAND...: runs a compilation of CUDA sources and keeps what ptxas says of each kernel (registers,
# spills) beside the object, as <object>.ptxas, instead of printing it. tests/kernels/cuda/ptxas_test.cmake reads it.
set -uo pipefail
object=
previous=
for word in "$@"; do
  if [[ $previous == -o ]]; then object=$word; fi
  previous=$word
done
[[ -n $object ]] || exec "$@"
messages=$("$@" 2>&1)
status=$?
if ((status == 0)); then
  grep -E '^ptxas info|bytes stack frame' <<<"$messages" >"$object.ptxas"
  grep -vE '^ptxas info|bytes stack frame|^$' <<<"$messages" >&2
else
  printf '%s\n' "$messages" >&2
fi
exit $status
