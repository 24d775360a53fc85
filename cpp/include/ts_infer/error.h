#pragma once

#include <stdexcept>
#include <string>

#include "ts_infer/export.h"

namespace ts_infer {

/// Base of every exception that this library throws.
/// `what()` reads `[stage] subject: what failed: expected X, got Y; what to do`.
/// After any error the model that raised it still works.
class TS_INFER_API Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
  ~Error() override;
};

/// The file cannot be read, is damaged, is refused, or needs what is not here (device, operator).
class TS_INFER_API ModelLoadError : public Error {
 public:
  using Error::Error;
  ~ModelLoadError() override;
};

/// There is no file at the path.
class TS_INFER_API ModelNotFoundError : public ModelLoadError {
 public:
  using ModelLoadError::ModelLoadError;
  ~ModelNotFoundError() override;
};

/// An input has the wrong count, name, type, dtype, shape or device. The model did not run.
class TS_INFER_API InputError : public Error {
 public:
  using Error::Error;
  ~InputError() override;
};

/// The model failed while it ran, or memory ran out.
class TS_INFER_API ExecutionError : public Error {
 public:
  using Error::Error;
  ~ExecutionError() override;
};

}  // namespace ts_infer
