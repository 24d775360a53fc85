// Manifests, and what is made of one: the checks of a call.

#include <ATen/core/function_schema.h>
#include <ATen/core/jit_type.h>

#include <string>

#include "archive/manifest.h"
#include "input_check.h"
#include "input_nodes.h"
#include "ts_infer/error.h"

namespace {

/// What forward takes: a dict of tensors where the manifest has leaves, else a tensor.
c10::FunctionSchema schema_of(const ts_infer::Signature& signature) {
  std::vector<c10::Argument> arguments = {c10::Argument("self", c10::AnyType::get())};
  for (const ts_infer::TensorSpec& input : signature.inputs) {
    const c10::TypePtr tensor = c10::TensorType::get();
    const bool is_dict = !input.leaves.empty();
    arguments.emplace_back(
        input.name, is_dict ? c10::DictType::create(c10::StringType::get(), tensor) : tensor);
  }
  return {"forward", "", std::move(arguments), {}};
}

std::vector<c10::IValue> empty_arguments(const ts_infer::Signature& signature) {
  std::vector<c10::IValue> arguments;
  for (const ts_infer::TensorSpec& input : signature.inputs) {
    if (input.leaves.empty()) {
      arguments.emplace_back(at::Tensor());
    } else {
      arguments.emplace_back(c10::Dict<std::string, at::Tensor>());
    }
  }
  return arguments;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const ts_infer::Signature signature =
        ts_infer::parse_manifest(std::string(reinterpret_cast<const char*>(data), size)).signature;
    const ts_infer::InputCheck check(
        signature, ts_infer::input_nodes(signature, schema_of(signature)), "[call] fuzz:");
    check.check(empty_arguments(signature));
  } catch (const ts_infer::ModelLoadError&) {
  } catch (const ts_infer::InputError&) {
    // The errors of the table.
  }
  return 0;
}
