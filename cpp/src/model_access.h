#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "ts_infer/model.h"

namespace ts_infer {

class Archive;
struct InputNode;

/// What the bindings, the benchmark and torch.h see of a Model beyond its public face.
struct TS_INFER_API ModelAccess {
  /// Argument 0 is `self`. @throws InputError for a name that is no method.
  static const c10::FunctionSchema& schema(const Model& model, const std::string& method);

  static c10::IValue call(Model& model, const std::string& method, std::vector<c10::IValue> args,
                          const std::unordered_map<std::string, c10::IValue>& kwargs,
                          const RunOptions& options = {});

  /// All but methods, operators, devices and code.
  static const ArchiveInfo& archive(const Model& model);

  /// The arguments of forward.
  static const std::vector<InputNode>& inputs(const Model& model);

  /// Execution plans that torch's executor of forward has compiled so far.
  static std::size_t compiled_plans(const Model& model);

  /// Loads what was opened already. @throws ModelLoadError
  static Model load(const std::shared_ptr<const Archive>& archive, const LoadOptions& options);
};

}  // namespace ts_infer
