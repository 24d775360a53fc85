# ts_infer_target(NAME): flags that every target of this project has.
function(ts_infer_target target)
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(
    ${target}
    PROPERTIES CXX_EXTENSIONS OFF
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               POSITION_INDEPENDENT_CODE ON
  )
  target_compile_options(
    ${target} PRIVATE -Wall -Wextra -Wpedantic -Wnon-virtual-dtor -Woverloaded-virtual
  )
  if(TS_INFER_SANITIZE)
    set(_sanitize -fsanitize=${TS_INFER_SANITIZE} -fno-omit-frame-pointer)
    if(TS_INFER_SANITIZE MATCHES "undefined")
      # vptr needs typeinfo that libtorch keeps to itself.
      list(APPEND _sanitize -fno-sanitize-recover=all -fno-sanitize=vptr)
    endif()
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      # Instrumented, libstdc++'s own <optional> looks uninitialized to GCC 12.
      list(APPEND _sanitize -Wno-maybe-uninitialized)
    endif()
    if(TS_INFER_BUILD_FUZZERS)
      list(APPEND _sanitize -fsanitize=fuzzer-no-link)
    endif()
    target_compile_options(${target} PRIVATE ${_sanitize})
    target_link_options(${target} PRIVATE ${_sanitize})
  endif()
endfunction()
