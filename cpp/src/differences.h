#pragma once

#include <ATen/core/Tensor.h>

namespace ts_infer {

// How far tensors of the same shape are from each other, element by element.

/// Where both are equal, or both NaN.
at::Tensor equal_elements(const at::Tensor& left, const at::Tensor& right);

/// |right - left| in double precision: 0 where they are equal, infinite where one of them is NaN or
/// infinite and the other is not the same.
at::Tensor absolute_differences(const at::Tensor& left, const at::Tensor& right);

/// The largest difference, divided by the largest expected magnitude; infinite for other shapes,
/// and 0 for what is no floating point.
double relative_error(const at::Tensor& actual, const at::Tensor& expected);

}  // namespace ts_infer
