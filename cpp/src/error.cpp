#include "ts_infer/error.h"

namespace ts_infer {

// Out of line, so that the type information lives in this library alone.
Error::~Error() = default;
ModelLoadError::~ModelLoadError() = default;
ModelNotFoundError::~ModelNotFoundError() = default;
InputError::~InputError() = default;
ExecutionError::~ExecutionError() = default;

}  // namespace ts_infer
