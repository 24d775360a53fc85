# Defines ts_infer::torch and ts_infer::torch_python for the torch that python/build/find_torch.py
# finds. Torch's own CMake package is not used: beside a CUDA wheel it wants the CUDA toolkit.

if(TS_INFER_BUILD_PYTHON)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
else()
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
endif()

set(_finder ${PROJECT_SOURCE_DIR}/python/build/find_torch.py)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${_finder})
execute_process(
  COMMAND ${Python_EXECUTABLE} ${_finder} --dir "${TS_INFER_TORCH_DIR}"
  OUTPUT_VARIABLE _found
  ERROR_VARIABLE _error
  RESULT_VARIABLE _result
)
if(NOT _result EQUAL 0)
  message(FATAL_ERROR "${_error}")
endif()
string(JSON TS_INFER_TORCH_ROOT GET "${_found}" dir)
string(JSON TS_INFER_TORCH_VERSION GET "${_found}" version)
string(JSON TS_INFER_TORCH_MINOR GET "${_found}" minor)
set(TS_INFER_TORCH_LIB ${TS_INFER_TORCH_ROOT}/lib)

# Full paths, so that CMake sets the build tree's rpath; libtorch.so itself needs what there is of
# CUDA or XPU, but nothing refers to it, hence --no-as-needed.
add_library(ts_infer_torch INTERFACE)
add_library(ts_infer::torch ALIAS ts_infer_torch)
target_include_directories(
  ts_infer_torch SYSTEM
  INTERFACE ${TS_INFER_TORCH_ROOT}/include ${TS_INFER_TORCH_ROOT}/include/torch/csrc/api/include
)
target_link_options(ts_infer_torch INTERFACE LINKER:--no-as-needed)
target_link_libraries(
  ts_infer_torch INTERFACE ${TS_INFER_TORCH_LIB}/libtorch.so ${TS_INFER_TORCH_LIB}/libtorch_cpu.so
                           ${TS_INFER_TORCH_LIB}/libc10.so
)

# Work is shared with torch's own threads, which are of the OpenMP library that torch comes with: a
# second one in the process would have threads of its own. Without it our kernels run on one thread.
file(GLOB TS_INFER_OPENMP ${TS_INFER_TORCH_LIB}/libgomp*.so*)
if(TS_INFER_OPENMP AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(ts_infer_torch INTERFACE -fopenmp)
  target_link_libraries(ts_infer_torch INTERFACE ${TS_INFER_OPENMP})
else()
  set(TS_INFER_OPENMP "none")
endif()

add_library(ts_infer_torch_python INTERFACE)
add_library(ts_infer::torch_python ALIAS ts_infer_torch_python)
target_link_libraries(
  ts_infer_torch_python INTERFACE ${TS_INFER_TORCH_LIB}/libtorch_python.so ts_infer_torch
)
