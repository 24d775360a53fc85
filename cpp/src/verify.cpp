#include "ts_infer/verify.h"

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>

#include "archive/archive.h"
#include "archive/golden.h"
#include "differences.h"
#include "dtype.h"
#include "ivalues.h"
#include "messages.h"
#include "model_access.h"

namespace ts_infer {
namespace {

using Tolerances = std::map<DType, Tolerance>;

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

std::vector<c10::IValue> call_forward(Model& model, const GoldenCall& call,
                                      const std::string& where) {
  try {
    const std::vector<Value> args = from_ivalues(call.inputs, where);
    const auto& arguments = ModelAccess::schema(model, "forward").arguments();
    std::vector<c10::IValue> stack;
    for (std::size_t i = 0; i < args.size() && i + 1 < arguments.size(); ++i) {
      stack.push_back(to_ivalue(args[i], arguments[i + 1].type(), arguments[i + 1].name()));
    }
    std::vector<c10::IValue> leaves;
    for_each_leaf(ModelAccess::call(model, "forward", std::move(stack), {}),
                  [&](const c10::IValue& leaf) { leaves.push_back(leaf); });
    return leaves;
  } catch (const InputError& error) {
    throw ModelLoadError(where + "its golden sample does not fit it: " + error.what() +
                         "; export the model again");
  }
}

VerifyReport verify(const std::shared_ptr<const Archive>& archive, const LoadOptions& options,
                    std::string expected_sha256) {
  const std::string where = "[verify] " + archive->subject() + ": ";
  archive->require_intact();
  archive->require_operators(options.allow_operators);
  VerifyReport report;
  report.file_bytes = archive->info().file_bytes;
  report.members = archive->info().members;
  report.sha256 = archive->sha256();
  for (char& digit : expected_sha256) digit = static_cast<char>(std::tolower(digit));
  if (!expected_sha256.empty() && expected_sha256 != report.sha256) {
    throw ModelLoadError(where + "it is another file: expected SHA-256 " + expected_sha256 +
                         ", got " + report.sha256 + "; fetch the file again");
  }
  const std::optional<Golden>& golden = archive->golden();
  if (!golden) {
    throw ModelLoadError(where +
                         "expected a golden sample in the file, got none; export the model "
                         "with ts_infer.export, which writes one or says why not (every "
                         "CRC-32 is right; SHA-256 " +
                         report.sha256 + ')');
  }
  const std::vector<GoldenCall> calls = [&] {
    try {
      return golden_calls(*archive);
    } catch (const ModelLoadError& error) {
      throw ModelLoadError(where + error.what());
    }
  }();

  LoadOptions cold = options;
  cold.warmup = "off";
  Model model = ModelAccess::load(archive, cold);
  report.model = model.info();
  const Tolerances& tolerances =
      report.model.device == "cpu" ? golden->on_cpu : golden->on_accelerator;
  for (const GoldenCall& call : calls) {
    ++report.calls;
    const std::vector<c10::IValue> outputs = call_forward(model, call, where);
    for (std::size_t i = 0; i < std::max(outputs.size(), call.outputs.size()); ++i) {
      OutputCheck check;
      check.call = report.calls;
      check.output = output_name(model.signature(), i, call.outputs.size());
      if (i >= outputs.size()) {
        check.difference = "expected " + describe(call.outputs[i]) + ", got no such output";
      } else if (i >= call.outputs.size()) {
        check.difference = "expected no such output, got " + describe(outputs[i]);
      } else {
        compare(call.outputs[i], outputs[i], tolerances, check);
      }
      report.outputs.push_back(std::move(check));
    }
  }
  return report;
}

}  // namespace

bool VerifyReport::ok() const {
  return !outputs.empty() && std::all_of(outputs.begin(), outputs.end(),
                                         [](const OutputCheck& check) { return check.ok; });
}

VerifyReport verify(const std::string& path, const LoadOptions& options,
                    const std::string& sha256) {
  return verify(Archive::open(path, options.limits), options, sha256);
}

VerifyReport verify(const void* data, std::size_t size, const LoadOptions& options,
                    const std::string& sha256) {
  return verify(Archive::over({static_cast<const char*>(data), size}, options.limits), options,
                sha256);
}

}  // namespace ts_infer
