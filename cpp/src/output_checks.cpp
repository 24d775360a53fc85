#include "output_checks.h"

#include <ATen/Functions.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>

#include "differences.h"
#include "dtype.h"
#include "ivalues.h"
#include "messages.h"

namespace ts_infer {
namespace {

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string scalar_text(const at::Tensor& element) {
  if (element.is_complex()) {
    const auto value = element.item().toComplexDouble();
    return c10::str(short_number(value.real()), value.imag() < 0 ? "" : "+",
                    short_number(value.imag()), 'j');
  }
  if (element.scalar_type() == c10::kBool) return element.item<bool>() ? "true" : "false";
  if (!element.is_floating_point()) return std::to_string(element.item<std::int64_t>());
  return short_number(element.item<double>());
}

std::string describe(const c10::IValue& value) {
  if (value.isTensor()) {
    const at::Tensor& tensor = value.toTensor();
    if (!tensor.defined()) return "an undefined tensor";
    return dtype_string(tensor.scalar_type()) + shape_string(tensor.sizes());
  }
  if (value.isString()) return '"' + value.toStringRef() + '"';
  if (value.isNone()) return "None";
  return c10::str(value);
}

/// "[1, 2]" of the flat position in a tensor of that shape; "" for no dimensions.
std::string index_text(std::int64_t position, c10::IntArrayRef shape) {
  std::vector<std::int64_t> index(shape.size());
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    index[axis] = position % shape[axis];
    position /= shape[axis];
  }
  return shape.empty() ? "" : "at " + shape_string(index) + ": ";
}

void compare_tensors(const at::Tensor& expected, const at::Tensor& actual,
                     const Tolerances& tolerances, OutputCheck& check) {
  const auto dtype = from_scalar_type(expected.scalar_type());
  const auto found = tolerances.find(dtype.value_or(DType::kBool));
  const bool is_exact = !dtype || found == tolerances.end();
  const Tolerance tolerance = is_exact ? Tolerance() : found->second;

  const at::Tensor left = expected.flatten();
  const at::Tensor right = actual.flatten();
  const auto wide = expected.is_complex() ? c10::kComplexDouble : c10::kDouble;
  const at::Tensor limits = left.to(wide)
                                .abs()
                                .mul(tolerance.rtol)
                                .add(tolerance.atol)
                                .nan_to_num(tolerance.atol, tolerance.atol);
  const at::Tensor differences = absolute_differences(left, right);
  // Integers of more than 53 bits may be told apart only before they were made wide.
  const at::Tensor wrong =
      (is_exact ? equal_elements(left, right) : differences.le(limits)).logical_not();
  check.ok = true;
  check.max_abs_diff = 0;
  check.allowed = tolerance.atol;
  if (left.numel() == 0) return;

  const auto largest = differences.argmax().item<std::int64_t>();
  check.max_abs_diff = differences[largest].item<double>();
  check.allowed = limits[largest].item<double>();
  const auto count = wrong.sum().item<std::int64_t>();
  if (count == 0) return;
  check.ok = false;
  // Of those that are too far away, the farthest. -1 is below every difference.
  const auto worst = differences.masked_fill(wrong.logical_not(), -1).argmax().item<std::int64_t>();
  check.difference = c10::str(index_text(worst, expected.sizes()), "expected ",
                              scalar_text(left[worst]), ", got ", scalar_text(right[worst]));
  if (left.numel() > 1) {
    check.difference += c10::str("; ", count, " of ", left.numel(), " elements differ");
  }
}

void compare(const c10::IValue& expected, const c10::IValue& actual, const Tolerances& tolerances,
             OutputCheck& check) {
  const auto fails = [&] {
    check.difference = "expected " + describe(expected) + ", got " + describe(actual);
  };
  if (expected.isTensor() && actual.isTensor()) {
    const at::Tensor& left = expected.toTensor();
    const at::Tensor& right = actual.toTensor();
    if (!right.defined() || left.scalar_type() != right.scalar_type() ||
        left.sizes() != right.sizes()) {
      return fails();
    }
    return compare_tensors(left, right, tolerances, check);
  }
  if (expected.tagKind() != actual.tagKind()) return fails();
  if (expected.isDouble() || expected.isComplexDouble()) {
    const auto options =
        at::TensorOptions(expected.isDouble() ? c10::kDouble : c10::kComplexDouble);
    return compare_tensors(at::scalar_tensor(expected.toScalar(), options),
                           at::scalar_tensor(actual.toScalar(), options), tolerances, check);
  }
  check.ok = expected == actual;
  if (!check.ok) fails();
}

std::string output_name(const Signature& signature, std::size_t index, std::size_t count) {
  const auto& specs = signature.outputs;
  const bool is_named = specs.size() == count && index < count && !specs[index].name.empty();
  return is_named ? specs[index].name : "output_" + std::to_string(index);
}

}  // namespace

std::vector<OutputCheck> check_outputs(const GoldenCall& call, std::size_t number,
                                       const c10::IValue& result, const Signature& signature,
                                       const Tolerances& tolerances) {
  std::vector<c10::IValue> outputs;
  for_each_leaf(result, [&](const c10::IValue& leaf) { outputs.push_back(leaf); });
  std::vector<OutputCheck> checks;
  for (std::size_t i = 0; i < std::max(outputs.size(), call.outputs.size()); ++i) {
    OutputCheck check;
    check.call = number;
    check.output = output_name(signature, i, call.outputs.size());
    if (i >= outputs.size()) {
      check.difference = "expected " + describe(call.outputs[i]) + ", got no such output";
    } else if (i >= call.outputs.size()) {
      check.difference = "expected no such output, got " + describe(outputs[i]);
    } else {
      compare(call.outputs[i], outputs[i], tolerances, check);
    }
    checks.push_back(std::move(check));
  }
  return checks;
}

}  // namespace ts_infer
