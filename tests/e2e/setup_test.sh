#!/usr/bin/env bash
# launch/setup.sh and launch/test against made-up machines: programs of the same names earlier in PATH stand for
# what such a machine would have. Argument: the source folder.
set -euo pipefail

source_dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

expect() {  # expect SENTENCE COMMAND...: the command must succeed
  local sentence=$1
  shift
  if "$@"; then
    printf 'ok      %s\n' "$sentence"
  else
    printf 'FAILED  %s\n' "$sentence"
    failures=$((failures + 1))
  fi
}
says() { grep -qF -- "$1" "$work/output"; }
called() { grep -qF -- "$1" "$work/calls" 2>/dev/null; }
not() { ! "$@"; }
ended_with() { [[ $status == "$1" ]]; }

fake() {  # fake NAME BODY: a program that writes down its call, then does BODY
  printf '#!/bin/bash\nprintf "%%s\\n" "%s $*" >>"%s/calls"\n%s\n' "$1" "$work" "$2" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}

torch_folder() { printf '%s' "$work/cache/torch-2.11.0/lib/python3.11/site-packages/torch"; }

fresh_machine() {  # all packages, an unpacked LibTorch, an ordinary user without sudo
  rm -rf "${work:?}"/{bin,cache,calls}
  mkdir -p "$work/bin"
  # shellcheck disable=SC2016
  fake dpkg-query 'for word in "$@"; do [[ $word == -* || $word == "$MISSING" ]] || echo "ii $word"; done'
  fake apt-get ''
  fake sudo 'exit 1'
  fake id 'echo 1000'
  fake python3 'exit 1'
  fake uname 'echo aarch64'  # no wheel is pinned for it, so set-up can never start a download here
  local torch package
  torch=$(torch_folder)
  mkdir -p "$torch"/{include/ATen,include/torch/headeronly,lib}
  touch "$torch/include/ATen/ATen.h" "$torch/lib/libtorch_cpu.so"
  for package in torch-2.11.0 nvidia_cuda_cupti-13.0.85 nvidia_cuda_runtime-13.0.96; do
    mkdir "${torch%/torch}/$package.dist-info"
    touch "${torch%/torch}/$package.dist-info/RECORD"
  done
  printf '#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n' >"$torch/include/torch/headeronly/version.h"
}

set_up() {  # set_up [VARIABLE=VALUE...]
  status=0
  # shellcheck disable=SC2016
  env -u Torch_DIR -u DPFA_TORCH_ROOT DPFA_CACHE="$work/cache" PATH="$work/bin:$PATH" "$@" bash -c '
    set -euo pipefail
    source "$0/launch/setup.sh"
    dpfa_setup' "$source_dir" >"$work/output" 2>&1 </dev/null || status=$?
}

fresh_machine
set_up
expect "where all is present set-up ends well" ended_with 0
expect "and announces no installation" not says "will install"
expect "and calls no package manager" not called apt-get
expect "and names the LibTorch it found" says "$(torch_folder)"

set_up MISSING=libsodium-dev
expect "without root and sudo a missing package ends set-up with code 2" ended_with 2
expect "and the line to run is printed" says "apt-get install --yes --no-install-recommends libsodium-dev"

fake id 'echo 0'
set_up MISSING=libsodium-dev
expect "root gets the missing package installed" called "apt-get install --yes --no-install-recommends -qq libsodium-dev"
expect "after it was announced" says "Debian packages: libsodium-dev"

fresh_machine
set_up Torch_DIR=/usr
expect "a Torch_DIR without torch ends set-up with code 2" ended_with 2
expect "and the variable is named" says "Torch_DIR"

fresh_machine
set_up Torch_DIR="$(torch_folder)/share/cmake/Torch"
expect "a Torch_DIR that does not exist is an error too" ended_with 2
mkdir -p "$(torch_folder)/share/cmake/Torch"
set_up Torch_DIR="$(torch_folder)/share/cmake/Torch" DPFA_CACHE="$work/empty"
expect "Torch_DIR as find_package(Torch) takes it is used" says "LibTorch: $(torch_folder)"

fresh_machine
rm "$(torch_folder)"/../torch-2.11.0.dist-info/RECORD
set_up
expect "an installation of LibTorch that was cut short is not used" ended_with 2
expect "and what is needed to install it is said" says "Python 3.11"

fresh_machine
sed -i 's/MINOR 11/MINOR 10/' "$(torch_folder)/include/torch/headeronly/version.h"
set_up
expect "another version of torch is not used" ended_with 2

# launch/test in a checkout of its own, with a ctest that reports what FAILED names.
run_tests() {
  rm -rf "$work/checkout"
  mkdir "$work/checkout"
  cp -r "$source_dir/launch" "$work/checkout/"
  mkdir -p "$work/checkout/build"/{account,cpu-release,cuda-release}
  # shellcheck disable=SC2016
  fake nvcc 'echo "Cuda compilation tools, release ${NVCC_RELEASE:-12.4}, V"'
  # shellcheck disable=SC2016
  fake cmake '[[ "$*" != *--build* || -z ${BROKEN_BUILD:-} ]]'
  # shellcheck disable=SC2016
  fake ctest 'printf "99%% tests passed, %s tests failed out of 10\n\n" "${FAILED:-0}"
    printf "The following tests did not run:\n\t  3 - some.test (Skipped)\n"
    exit "${CTEST_CODE:-0}"'
  status=0
  env -u Torch_DIR -u DPFA_TORCH_ROOT DPFA_CACHE="$work/cache" PATH="$work/bin:$PATH" "$@" \
    bash "$work/checkout/launch/test" >"$work/output" 2>&1 </dev/null || status=$?
  tail -n 1 "$work/output" >"$work/last"
}
last_line_is() { [[ $(cat "$work/last") == "$1" ]]; }

fresh_machine
run_tests
expect "launch/test adds up both presets" last_line_is "18 passed, 0 failed"
expect "and succeeds where nothing failed" ended_with 0
expect "and says how many did not run" says "2 tests did not run"
expect "and that an nvcc before CUDA 13 compiles no kernels" says "No nvcc of CUDA 13 here"
run_tests NVCC_RELEASE=13.0
expect "nvcc of CUDA 13 adds the preset of the GPU kernels" last_line_is "27 passed, 0 failed"
run_tests FAILED=2 CTEST_CODE=8
expect "failed tests are counted" last_line_is "14 passed, 4 failed"
expect "and make it fail" ended_with 1
run_tests CTEST_CODE=8
expect "a ctest that fails without a failed test is a failure" last_line_is "18 passed, 2 failed"
run_tests BROKEN_BUILD=1
expect "a preset that does not build is a failure" last_line_is "0 passed, 2 failed"
expect "and makes it fail as well" ended_with 1

if ((failures)); then
  printf '\nThe output of the last start:\n'
  cat "$work/output"
fi
((failures == 0))
