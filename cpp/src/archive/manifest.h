#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ts_infer/signature.h"

namespace ts_infer {

/// extra/ts_infer/manifest.json: what the export wrote down about the model. Schema 1:
///
///   schema          1; readers refuse a larger number and ignore keys that they do not know
///   name            of the model
///   method          "trace", "script" or "hybrid"
///   versions        {"ts_infer", "torch", "python"}: that exported it
///   inputs          of forward, in order: {"name", "type", "dtype", "shape"}; a dimension is a
///                   size, {"name", "min", "max"} or null; max may be null; dtype and shape are
///                   there for tensors only
///   outputs         the same, flattened depth-first
///   methods         names
///   warmup_shapes   [{input name: sizes}], the first is the largest
struct Manifest {
  std::string name;
  std::string method;
  std::string torch_version;
  Signature signature;
  std::vector<std::string> methods;
  std::vector<std::map<std::string, std::vector<std::int64_t>>> warmup_shapes;
};

/// @throws ModelLoadError that says what is wrong, as a clause.
Manifest parse_manifest(const std::string& json);

}  // namespace ts_infer
