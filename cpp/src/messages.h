#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>

#include <exception>
#include <string>
#include <vector>

namespace ts_infer {

/// What an exception of libtorch says, without its C++ stack trace.
std::string clean_message(const std::exception& error);

/// "[2, 19, 128]"
std::string shape_string(c10::ArrayRef<std::int64_t> shape);

/// "float32", or torch's own name for a type that DType does not have.
std::string dtype_string(c10::ScalarType type);

/// "a, b, c"
std::string join(const std::vector<std::string>& parts, const char* separator = ", ");

}  // namespace ts_infer
