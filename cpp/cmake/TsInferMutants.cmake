# ts_infer_mutants_of(SOURCE): the lines of src/SOURCE that ts_infer_mutant() takes out from here on.
# ts_infer_mutant(NAME LINE TEST): the device tests with one line of the library taken out. The
# test mutant.NAME passes when TEST, of the device tests, fails with it.
#
# A wait that is missing shows only when the device is late. The mutants prove that the fake device
# is late enough, and that each wait and each guard of a lifetime has a test that notices.
function(ts_infer_mutants_of source)
  set(_mutated_source ${CMAKE_CURRENT_SOURCE_DIR}/src/${source} PARENT_SCOPE)
  set_property(
    DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${source}
  )
  # A mutant takes the place of an object of this source alone.
  set_source_files_properties(src/${source} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()

function(ts_infer_mutant name line test)
  file(READ ${_mutated_source} _code)
  string(REPLACE "\n${line}\n" "\n" _mutated "${_code}")
  string(LENGTH "${_code}" _before)
  string(LENGTH "${_mutated}" _after)
  string(LENGTH "${line}\n" _one_line)
  math(EXPR _removed "${_before} - ${_after}")
  if(NOT _removed EQUAL _one_line)
    message(FATAL_ERROR "mutant ${name}: expected this line once in ${_mutated_source}:\n${line}")
  endif()
  set(_file ${CMAKE_CURRENT_BINARY_DIR}/mutants/${name}.cpp)
  file(CONFIGURE OUTPUT ${_file} CONTENT "@_mutated@" @ONLY NEWLINE_STYLE UNIX)

  get_filename_component(_object ${_mutated_source} NAME)
  set(_target ts_infer_mutant_${name})
  add_executable(
    ${_target}
    ${_file} $<TARGET_OBJECTS:ts_infer_device_test_objects>
    $<FILTER:$<TARGET_OBJECTS:ts_infer_objects>,EXCLUDE,/${_object}${CMAKE_CXX_OUTPUT_EXTENSION}$>
  )
  target_compile_features(${_target} PRIVATE cxx_std_20)
  target_compile_options(${_target} PRIVATE -O0 -g0 -w)
  target_include_directories(
    ${_target} PRIVATE $<TARGET_PROPERTY:ts_infer_objects,INTERFACE_INCLUDE_DIRECTORIES>
  )
  target_link_libraries(${_target} PRIVATE ts_infer::torch GTest::gmock GTest::gmock_main)
  target_link_options(${_target} PRIVATE LINKER:--strip-debug)
  set_target_properties(
    ${_target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
                          VISIBILITY_INLINES_HIDDEN ON COMPILE_WARNING_AS_ERROR OFF
                          RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/mutants
  )
  add_test(NAME mutant.${name} COMMAND ${_target} --gtest_filter=${test})
  set_tests_properties(
    mutant.${name} PROPERTIES PASS_REGULAR_EXPRESSION "\\[  FAILED  \\] ${test} \\(" TIMEOUT 60
                              LABELS mutant
  )
endfunction()
