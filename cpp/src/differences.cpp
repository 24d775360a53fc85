#include "differences.h"

#include <ATen/ATen.h>

#include <limits>

namespace ts_infer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

at::Tensor equal_elements(const at::Tensor& left, const at::Tensor& right) {
  return left.eq(right).logical_or(left.isnan().logical_and(right.isnan()));
}

at::Tensor absolute_differences(const at::Tensor& left, const at::Tensor& right) {
  const auto wide = left.is_complex() ? c10::kComplexDouble : c10::kDouble;
  return right.to(wide)
      .sub(left.to(wide))
      .abs()
      .masked_fill(equal_elements(left, right), 0)
      .nan_to_num(kInfinity, kInfinity);
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  if (!expected.is_floating_point() || expected.numel() == 0) return 0;
  if (actual.sizes() != expected.sizes()) return kInfinity;
  const auto error = absolute_differences(actual.cpu(), expected).max().item<double>();
  const auto magnitude = expected.abs().to(c10::kDouble).nan_to_num(0, 0).max().item<double>();
  return magnitude > 0 ? error / magnitude : error;
}

}  // namespace ts_infer
