# One layout below the prefix, whether that is a plain one or site-packages/ts_infer in a wheel:
# bin, lib, include, share/cmake/ts_infer.

if(SKBUILD AND PROJECT_IS_TOP_LEVEL)
  set(_torch_rpath $ORIGIN/../../torch/lib)
elseif(TS_INFER_BUNDLE_TORCH)
  set(_torch_rpath $ORIGIN)
else()
  set(_torch_rpath ${TS_INFER_TORCH_LIB})
endif()
set_target_properties(ts_infer PROPERTIES INSTALL_RPATH ${_torch_rpath})

set(_runtime "")
if(TS_INFER_BUNDLE_TORCH)
  set(_runtime RUNTIME_DEPENDENCY_SET ts_infer_runtime)
  install(
    RUNTIME_DEPENDENCY_SET ts_infer_runtime
    PRE_EXCLUDE_REGEXES "^ld-linux" "^lib(c|m|dl|rt|util|pthread|stdc\\+\\+|gcc_s|cuda)\\.so"
    DIRECTORIES ${TS_INFER_TORCH_LIB}
    LIBRARY DESTINATION lib
  )
endif()
install(
  TARGETS ts_infer
  EXPORT ts_infer-targets
  ${_runtime}
  LIBRARY DESTINATION lib
)
if(TARGET ts_infer_cuda_graphs)
  set_target_properties(ts_infer_cuda_graphs PROPERTIES INSTALL_RPATH ${_torch_rpath})
  install(TARGETS ts_infer_cuda_graphs LIBRARY DESTINATION lib)
endif()
if(TARGET ts_infer_cli)
  set_target_properties(ts_infer_cli PROPERTIES INSTALL_RPATH $ORIGIN/../lib)
  install(TARGETS ts_infer_cli RUNTIME DESTINATION bin)
endif()

install(DIRECTORY ${PROJECT_SOURCE_DIR}/cpp/include/ts_infer DESTINATION include)
install(FILES ${PROJECT_BINARY_DIR}/cpp/include/ts_infer/version.h DESTINATION include/ts_infer)

include(CMakePackageConfigHelpers)
configure_file(
  ${PROJECT_SOURCE_DIR}/cpp/cmake/ts_infer-config.cmake.in
  ${PROJECT_BINARY_DIR}/share/ts_infer-config.cmake @ONLY
)
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/share/ts_infer-config-version.cmake COMPATIBILITY SameMinorVersion
)
install(
  FILES ${PROJECT_BINARY_DIR}/share/ts_infer-config.cmake
        ${PROJECT_BINARY_DIR}/share/ts_infer-config-version.cmake DESTINATION share/cmake/ts_infer
)
install(
  EXPORT ts_infer-targets
  NAMESPACE ts_infer::
  DESTINATION share/cmake/ts_infer
)

if(TARGET ts_infer_python)
  configure_file(
    ${PROJECT_SOURCE_DIR}/cpp/cmake/_build.py.in ${PROJECT_BINARY_DIR}/python/ts_infer/_build.py @ONLY
  )
  set_target_properties(
    ts_infer_python PROPERTIES INSTALL_RPATH "$ORIGIN/lib;$ORIGIN/../torch/lib"
  )
  install(TARGETS ts_infer_python LIBRARY DESTINATION .)
  install(FILES ${PROJECT_BINARY_DIR}/python/ts_infer/_build.py DESTINATION .)
endif()
