# Everything comes from the distribution (see scripts/setup.sh) or from CMAKE_PREFIX_PATH.
find_package(Torch REQUIRED)
include(cuda)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(hwy REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(CURL REQUIRED)

# Debian's split OpenCV packages carry no CMake config (it is in the metapackage), so look for the parts.
find_path(OPENCV_INCLUDE opencv2/core.hpp PATH_SUFFIXES opencv4 REQUIRED)
foreach(part core imgproc imgcodecs dnn)
  find_library(OPENCV_${part} opencv_${part} REQUIRED)
  add_library(opencv_${part} INTERFACE IMPORTED)
  target_include_directories(opencv_${part} SYSTEM INTERFACE ${OPENCV_INCLUDE})
  target_link_libraries(opencv_${part} INTERFACE ${OPENCV_${part}})
endforeach()

find_package(PkgConfig REQUIRED)
pkg_check_modules(FFMPEG REQUIRED IMPORTED_TARGET libavformat libavcodec libavutil libswscale)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(TESSERACT REQUIRED IMPORTED_TARGET tesseract)
find_library(SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train REQUIRED)
if(MOGA_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()

# oneDNN multiplies matrices on CPUs, if it is the one that libtorch itself uses: published builds of libtorch have
# theirs inside, which would meet another in one program. On other processors than these it has no fast products.
set(MOGA_ONEDNN "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  cmake_path(GET TORCH_LIBRARY PARENT_PATH torch_folder)
  execute_process(COMMAND ${CMAKE_READELF} -d ${torch_folder}/libtorch_cpu.so OUTPUT_VARIABLE torch_needs)
  find_library(DNNL_LIBRARY dnnl)
  find_path(DNNL_INCLUDE oneapi/dnnl/dnnl.hpp)
  if(torch_needs MATCHES "libdnnl[.]so" AND DNNL_LIBRARY AND DNNL_INCLUDE)
    set(MOGA_ONEDNN moga_onednn)
    add_library(moga_onednn INTERFACE)
    target_include_directories(moga_onednn SYSTEM INTERFACE ${DNNL_INCLUDE})
    target_link_libraries(moga_onednn INTERFACE ${DNNL_LIBRARY})
    target_compile_definitions(moga_onednn INTERFACE MOGA_ONEDNN)
  else()
    message(STATUS "matrix products on CPUs are libtorch's: no oneDNN that it shares (libdnnl-dev)")
  endif()
endif()

# yaml-cpp renamed its target in 0.8.
if(TARGET yaml-cpp::yaml-cpp)
  set(MOGA_YAML yaml-cpp::yaml-cpp)
else()
  set(MOGA_YAML yaml-cpp)
endif()

# libtorch as one system-include target, so that its headers neither warn nor get linted.
add_library(moga_torch INTERFACE)
# Some builds of libtorch carry their own fmt among their headers, which would hide the one that spdlog was built for.
list(GET TORCH_INCLUDE_DIRS 0 torch_include)
find_path(fmt_include fmt/format.h NO_CMAKE_PATH NO_CMAKE_ENVIRONMENT_PATH REQUIRED)
find_path(spdlog_include spdlog/spdlog.h NO_CMAKE_PATH NO_CMAKE_ENVIRONMENT_PATH REQUIRED)
if(EXISTS ${torch_include}/fmt AND NOT torch_include STREQUAL fmt_include)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/first)
  foreach(library fmt spdlog)
    file(CREATE_LINK ${${library}_include}/${library} ${CMAKE_BINARY_DIR}/first/${library} SYMBOLIC)
  endforeach()
  target_include_directories(moga_torch SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/first)
endif()
target_include_directories(moga_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
# OpenMP is part of it: libtorch's parallel loops are header code that asks for _OPENMP, and the precompiled
# header is rejected by a target that differs in it.
# The C++ library comes first: published builds of libtorch export an old copy of parts of it, whose
# std::filesystem::remove_all calls a null pointer (seen with 2.11).
target_link_libraries(moga_torch INTERFACE "-Wl,--push-state,--no-as-needed,-lstdc++,--pop-state" ${TORCH_LIBRARIES}
  OpenMP::OpenMP_CXX)
separate_arguments(MOGA_TORCH_FLAGS UNIX_COMMAND "${TORCH_CXX_FLAGS}")
target_compile_options(moga_torch INTERFACE ${MOGA_TORCH_FLAGS})
