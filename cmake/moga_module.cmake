# moga_module(NAME [TORCH] DEPS ... [SYSTEM ...])
# Makes library moga_NAME from every *.cc of the current folder and the program bin/NAME_test from every *_test.cc.
# TORCH: links libtorch and shares its precompiled header.
# Left out: warnings of GCC 12's optimiser that see what is not there in the standard library's strings (GCC bugs
# 105651, 105329, 105562), and one about unnamed namespaces in included files, which sources compiled together are.
function(moga_flags target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wno-psabi -Wno-restrict -Wno-stringop-overflow
    -Wno-maybe-uninitialized -Wno-subobject-linkage $<$<BOOL:${MOGA_WERROR}>:-Werror>)
endfunction()

# libtorch's headers cost twenty seconds a compilation even when they are precompiled (templates are instantiated anew),
# whatever the size of the file; so a folder's files are compiled several at once. Names in their unnamed namespaces must
# differ for that.
function(moga_torch_sources target header)
  target_precompile_headers(${target} REUSE_FROM ${header})
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
endfunction()

# The precompiled header itself, made once for all that is compiled with the same flags.
function(moga_torch_header name)
  add_library(${name} OBJECT ${PROJECT_SOURCE_DIR}/src/base/torch_pch.cpp)
  target_link_libraries(${name} PUBLIC moga_torch)
  target_precompile_headers(${name} PRIVATE <torch/torch.h> <algorithm> <map> <string> <vector>)
  moga_flags(${name})
endfunction()

function(moga_module name)
  cmake_parse_arguments(M "TORCH" "" "DEPS;SYSTEM;TEST_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(TRANSFORM M_DEPS PREPEND moga_)
  list(TRANSFORM M_TEST_DEPS PREPEND moga_)
  if(M_TORCH)
    list(APPEND M_SYSTEM moga_torch)
  endif()
  if(sources)
    set(kind PUBLIC)
    add_library(moga_${name} STATIC ${sources})
    moga_flags(moga_${name})
    if(M_TORCH)
      moga_torch_sources(moga_${name} moga_torch_pch)
    endif()
  else()
    set(kind INTERFACE)
    add_library(moga_${name} INTERFACE)
  endif()
  target_include_directories(moga_${name} ${kind} ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(moga_${name} ${kind} ${M_DEPS} ${M_SYSTEM})
  if(MOGA_BUILD_TESTS AND tests)
    moga_test(${name}_test SOURCES ${tests} DEPS moga_${name} ${M_TEST_DEPS} TORCH ${M_TORCH})
  endif()
endfunction()

# Programs, tests and benchmark drivers are not optimised: what they call is, and the templates of GoogleTest, CLI11 and
# libtorch cost the optimiser more than they are worth there.
set(MOGA_PROGRAM_FLAGS $<$<CONFIG:Release>:-O0>)

# moga_program(NAME SOURCES ... DEPS ... [TORCH ON|OFF]): the program bin/NAME.
function(moga_program name)
  cmake_parse_arguments(P "" "TORCH" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${P_SOURCES})
  moga_flags(${name})
  target_compile_options(${name} PRIVATE ${MOGA_PROGRAM_FLAGS})
  if(P_TORCH)
    moga_torch_sources(${name} moga_program_pch)
  endif()
  target_link_libraries(${name} PRIVATE ${P_DEPS})
endfunction()

# moga_test(NAME SOURCES ... DEPS ... [TORCH ON|OFF]): one GoogleTest program, each case a ctest entry.
function(moga_test name)
  cmake_parse_arguments(T "" "TORCH" "SOURCES;DEPS" ${ARGN})
  moga_program(${name} SOURCES ${T_SOURCES} TORCH ${T_TORCH} DEPS ${T_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE MOGA_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
    MOGA_BINARY_DIR="${CMAKE_BINARY_DIR}")
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120 WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
    PROPERTIES TIMEOUT 900 ENVIRONMENT GOMP_SPINCOUNT=1000)
endfunction()
