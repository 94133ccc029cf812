# shellcheck shell=bash
# What launch/quickstart and launch/test share: find or install what dpfa needs on a Debian 12 machine, and build.
#
#   dpfa_setup           packages and LibTorch; installs nothing where all is present; exports DPFA_TORCH_ROOT
#   dpfa_build PRESET    configures and builds build/PRESET
#   dpfa_allow_mpirun    as root only: tells Open MPI that this is meant, and says so
#
# Read from the environment, all optional:
#   DPFA_CACHE           folder for what is downloaded (default ~/.cache/dpfa); LibTorch goes to torch-2.11.0 in it
#   DPFA_TORCH_ROOT      the folder of an installed torch 2.11 (the one that holds include/ and lib/)
#   Torch_DIR            the same, or its share/cmake/Torch, as for CMake's find_package(Torch)
#   DPFA_SETUP_PACKAGES  "no": look for no Debian packages, CMake will name what it misses
#
# Inside the checkout only build/ and runs/ are written. Exit code 2: the user has to do something, named on stderr.

dpfa_source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dpfa_torch_version=2.11
dpfa_packages=(g++ cmake ninja-build ccache libopenmpi-dev openmpi-bin libboost-program-options-dev libboost-dev
  libgtest-dev libkissfft-dev libsodium-dev libssl-dev nlohmann-json3-dev libicu-dev python3-venv git)

dpfa_say() { printf '%s\n' "$@"; }  # one line each

dpfa_stop() {  # dpfa_stop CODE SENTENCE
  printf 'dpfa: %s\n' "$2" >&2
  exit "$1"
}

dpfa_writable() { mkdir -p "$1" 2>/dev/null && [[ -w $1 ]]; }  # a folder, made where it is missing

dpfa_missing_packages() {
  local installed package
  # dpkg-query fails where one of the names is unknown to it; what it printed still counts.
  installed=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' "${dpfa_packages[@]}" 2>/dev/null || true)
  for package in "${dpfa_packages[@]}"; do
    grep -qxF "ii $package" <<<"$installed" || printf '%s\n' "$package"
  done
}

dpfa_install_packages() {
  local as_root=() line="apt-get update && apt-get install --yes --no-install-recommends $*"
  if [[ $(id -u) != 0 ]]; then
    if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      dpfa_stop 2 "these Debian packages are missing and need root to install. Run this line, then start again:
  sudo sh -c '$line'"
    fi
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq ||
    dpfa_stop 2 "apt-get could not reach its Debian mirror. With a network run: $line"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends -qq "$@" >/dev/null ||
    dpfa_stop 2 "apt-get could not install the packages (its message is above). Repair that, or run: $line"
}

dpfa_is_torch() {  # the folder of a torch of the right version
  local version=$1/include/torch/headeronly/version.h
  [[ -f $1/include/ATen/ATen.h && -f $1/lib/libtorch_cpu.so && -f $version ]] &&
    [[ "$(sed -n 's/^#define TORCH_VERSION_\(MAJOR\|MINOR\) //p' "$version" | paste -sd.)" == "$dpfa_torch_version" ]]
}

# Prints the folder of a usable torch, or nothing. One that the user named and that does not serve is an error.
dpfa_find_torch() {
  local named=${DPFA_TORCH_ROOT:-${Torch_DIR:-}} folder
  if [[ -n $named ]]; then
    for folder in "$named" "$named/../../.."; do
      if dpfa_is_torch "$folder"; then (cd "$folder" && pwd); return; fi
    done
    dpfa_stop 2 "no torch $dpfa_torch_version in '$named' (DPFA_TORCH_ROOT or Torch_DIR): name the folder that holds \
its include/ and lib/, or unset the variable to have one downloaded."
  fi
  for folder in "$dpfa_venv"/lib/python3*/site-packages/torch; do
    # pip writes RECORD last: without it the installation was cut short.
    if dpfa_is_torch "$folder" && compgen -G "${folder%/torch}/torch-$dpfa_torch_version*.dist-info/RECORD" >/dev/null &&
       compgen -G "${folder%/torch}/nvidia_cuda_cupti-*.dist-info/RECORD" >/dev/null &&
       compgen -G "${folder%/torch}/nvidia_cuda_runtime-*.dist-info/RECORD" >/dev/null; then
      printf '%s\n' "$folder"
      return
    fi
  done
  folder=$(python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(list(s.submodule_search_locations)[0])' \
    2>/dev/null || true)
  if [[ -n $folder ]] && dpfa_is_torch "$folder"; then printf '%s\n' "$folder"; fi
}

dpfa_python311() {
  local python
  for python in python3 python3.11 /usr/bin/python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      printf '%s\n' "$python"
      return
    fi
  done
}

dpfa_install_torch() {
  local python free_mib
  python=$(dpfa_python311)
  if [[ $(uname -m) != x86_64 || -z $python ]]; then
    dpfa_stop 2 "launch/libtorch.txt pins LibTorch for x86-64 and Python 3.11 (package python3-venv of Debian 12). On \
this machine install torch $dpfa_torch_version yourself (pip install 'torch==$dpfa_torch_version.*') and set Torch_DIR to its folder."
  fi
  dpfa_writable "$dpfa_cache" ||
    dpfa_stop 2 "cannot write to '$dpfa_cache': set DPFA_CACHE to a folder that you can write to."
  free_mib=$(($(df --output=avail -k "$dpfa_cache" | tail -n 1) / 1024))
  ((free_mib >= 2000)) ||
    dpfa_stop 2 "LibTorch needs 1.3 GB (and 0.6 GB while unpacking) in '$dpfa_cache', $free_mib MiB are free. Set \
DPFA_CACHE to a folder with more room."
  "$python" -m venv --clear "$dpfa_venv" || dpfa_stop 2 "'$python -m venv $dpfa_venv' failed (its message is above)."
  "$dpfa_venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --retries 2 --no-deps \
    --only-binary :all: --require-hashes --requirement "$dpfa_source/launch/libtorch.txt" ||
    dpfa_stop 2 "LibTorch could not be downloaded from PyPI (pip's message is above). With a network start again; \
without one copy the folder '$dpfa_venv' from a machine that has it, or set Torch_DIR to an installed torch $dpfa_torch_version."
}

dpfa_setup() {
  local missing=() torch
  dpfa_cache=${DPFA_CACHE:-${HOME:-/nonexistent}/.cache/dpfa}
  dpfa_venv=$dpfa_cache/torch-2.11.0
  if [[ ${DPFA_SETUP_PACKAGES:-yes} != no ]]; then
    command -v dpkg-query >/dev/null ||
      dpfa_stop 2 "set-up knows Debian 12 only. Install the like of: ${dpfa_packages[*]}; then start again with \
DPFA_SETUP_PACKAGES=no."
    mapfile -t missing < <(dpfa_missing_packages)
  fi
  torch=$(dpfa_find_torch)
  if ((${#missing[@]})) || [[ -z $torch ]]; then
    dpfa_say "Set-up will install:"
    ((${#missing[@]} == 0)) ||
      dpfa_say "  Debian packages: ${missing[*]}" \
               "    (the whole list: 0.2 GB to download, 0.9 GB on disk, under a minute)"
    [[ -n $torch ]] ||
      dpfa_say "  LibTorch 2.11 from PyPI, pinned by hash, in $dpfa_venv" \
               "    (0.5 GB to download, 1.3 GB on disk, about a minute)"
  fi
  if ((${#missing[@]})); then dpfa_install_packages "${missing[@]}"; fi
  if [[ -z $torch ]]; then
    dpfa_install_torch
    torch=$(dpfa_find_torch)
    [[ -n $torch ]] || dpfa_stop 70 "LibTorch was installed in $dpfa_venv and is not usable there: delete that folder."
  fi
  export DPFA_TORCH_ROOT=$torch
  dpfa_say "LibTorch: $torch"
}

dpfa_build() {
  local preset=$1 jobs memory_gib
  dpfa_writable "$dpfa_source/build" ||
    dpfa_stop 2 "cannot write to $dpfa_source/build: use a checkout of your own."
  [[ -n ${CCACHE_DIR:-} || -w ${HOME:-/nonexistent} ]] || export CCACHE_DIR=$dpfa_cache/ccache
  # A source file that includes torch needs up to 2 GB to compile.
  jobs=$(nproc)
  memory_gib=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
  ((jobs * 2 <= memory_gib)) || jobs=$((memory_gib >= 4 ? memory_gib / 2 : 1))
  # -U: look for LibTorch anew, a folder found earlier may be gone.
  (cd "$dpfa_source" && cmake --preset "$preset" -U 'LibTorch_*' && cmake --build --preset "$preset" --parallel "$jobs")
}

dpfa_allow_mpirun() {
  [[ $(id -u) == 0 ]] || return 0
  dpfa_say "Running as root: OMPI_ALLOW_RUN_AS_ROOT is set for mpirun (Open MPI advises an ordinary user)."
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}
