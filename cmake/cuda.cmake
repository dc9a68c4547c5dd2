# Our CUDA kernels (src/kernels/cuda). AUTO: where libtorch has CUDA and a compiler is found. ON: with the CUDA
# toolkit alone too, so that they compile and their tests run whatever libtorch is; attention uses them only with
# a libtorch that has CUDA.
set(MOGA_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set_property(CACHE MOGA_CUDA PROPERTY STRINGS AUTO ON OFF)
set(MOGA_CUDA_KERNELS OFF)
if(MOGA_CUDA STREQUAL "ON" OR (MOGA_CUDA STREQUAL "AUTO" AND TARGET torch_cuda))
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80 90)  # each as machine code and, for newer devices, as PTX
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)  # the CMake of Debian 12 knows no later one for nvcc
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(MOGA_CUDA_KERNELS ON)
  elseif(MOGA_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MOGA_CUDA=ON: no CUDA compiler found; set CMAKE_CUDA_COMPILER to nvcc, or MOGA_CUDA=OFF")
  else()
    message(STATUS "libtorch has CUDA but no nvcc was found: row moves and sorting use libtorch's operations")
  endif()
elseif(NOT MOGA_CUDA MATCHES "^(AUTO|OFF)$")
  message(FATAL_ERROR "MOGA_CUDA: expected AUTO, ON or OFF, found ${MOGA_CUDA}")
endif()
if(MOGA_CUDA_KERNELS OR TARGET torch_cuda)
  find_package(CUDAToolkit REQUIRED)
endif()
