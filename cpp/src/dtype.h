#pragma once

#include <c10/core/ScalarType.h>

#include "ts_infer/tensor.h"

namespace ts_infer {

c10::ScalarType to_scalar_type(DType dtype);

/// nullopt for a type that DType does not have.
std::optional<DType> from_scalar_type(c10::ScalarType type);

}  // namespace ts_infer
