# Imported target LibTorch::cpu: libtorch_cpu and libc10 of an installed torch (PyPI wheel or LibTorch zip).
#
# The wheel's own TorchConfig.cmake demands the CUDA toolkit even for CPU use and adds flags for eleven
# GPU architectures to every target, so the two libraries are imported here directly.
#   Torch_DIR            as for find_package(Torch): <torch>/share/cmake/Torch, or the <torch> folder itself
#   DPFA_TORCH_ROOT      the <torch> folder that launch/setup installed (read from the environment too)
set(_hints ${DPFA_TORCH_ROOT} $ENV{DPFA_TORCH_ROOT})
foreach(_dir ${Torch_DIR} $ENV{Torch_DIR})
  list(APPEND _hints ${_dir} ${_dir}/../../..)
endforeach()
file(GLOB _cached $ENV{HOME}/.cache/dpfa/torch-*/lib/python3*/site-packages/torch)
list(APPEND _hints ${_cached})

find_path(LibTorch_INCLUDE_DIR ATen/ATen.h HINTS ${_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
get_filename_component(LibTorch_ROOT "${LibTorch_INCLUDE_DIR}" DIRECTORY)
find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 HINTS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
if(LibTorch_INCLUDE_DIR)
  file(STRINGS ${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h _version REGEX "define TORCH_VERSION_(MAJOR|MINOR) ")
  string(REGEX REPLACE "[^0-9;]" "" _version "${_version}")
  list(JOIN _version "." LibTorch_VERSION)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run ./launch/quickstart once, or set Torch_DIR to an installed torch 2.11")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  add_library(LibTorch::cpu INTERFACE IMPORTED)
  target_include_directories(LibTorch::cpu SYSTEM INTERFACE ${LibTorch_INCLUDE_DIR}
    ${LibTorch_INCLUDE_DIR}/torch/csrc/api/include)
  target_link_libraries(LibTorch::cpu INTERFACE ${LibTorch_CPU_LIBRARY} ${LibTorch_C10_LIBRARY})
  # libtorch_cpu needs libcudart and libcupti at link time even where no GPU is used; the wheel keeps them
  # in a sibling package, its own rpath finds them at run time.
  target_link_options(LibTorch::cpu INTERFACE
    -Wl,-rpath,${LibTorch_ROOT}/lib -Wl,-rpath-link,${LibTorch_ROOT}/../nvidia/cu13/lib)
endif()

# The GPU part of the same LibTorch. Its own libraries (cuBLAS, cuDNN, NCCL, ...) lie beside it as wheels, each in a folder
# of its own; LibTorch finds them at run time, so the link does not ask for their symbols.
find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
if(LibTorch_CUDA_LIBRARY AND LibTorch_C10_CUDA_LIBRARY AND CUDAToolkit_FOUND AND NOT TARGET LibTorch::cuda)
  add_library(LibTorch::cuda INTERFACE IMPORTED)
  target_include_directories(LibTorch::cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  # Nothing refers to torch_cuda by name: it registers its kernels when it is loaded.
  target_link_libraries(LibTorch::cuda INTERFACE LibTorch::cpu -Wl,--push-state,--no-as-needed
    ${LibTorch_CUDA_LIBRARY} ${LibTorch_C10_CUDA_LIBRARY} -Wl,--pop-state)
  target_link_options(LibTorch::cuda INTERFACE -Wl,--allow-shlib-undefined)
endif()
