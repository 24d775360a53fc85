#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ts_infer/model.h"
#include "ts_infer/signature.h"

namespace ts_infer {

/// |expected - actual| <= atol + rtol * |expected|
struct Tolerance {
  double rtol = 0;
  double atol = 0;
};

/// Where the golden sample is, and how near a result must be to it.
struct Golden {
  std::string file;  // of the archive, below extra/
  std::size_t calls = 0;
  std::map<DType, Tolerance> on_cpu;
  std::map<DType, Tolerance> on_accelerator;
};

/// How a result is put together from tensors, depth-first.
struct ResultStructure {
  enum class Kind { kTensor, kTuple, kList, kDict };
  Kind kind = Kind::kTensor;
  std::vector<ResultStructure> items;
  std::vector<std::string> keys;  // of the items: a dict's names, else their numbers
};

/// Of an AOTInductor package.
struct Compiled {
  std::string device;  // its type: "cpu", "cuda"
  ResultStructure result;
};

/// extra/ts_infer/manifest.json: what the export wrote down about the model. Schema 1:
///
///   schema          1; readers refuse a larger number and ignore keys that they do not know
///   name            of the model
///   method          "trace", "script", "hybrid" or "aotinductor"
///   versions        {"ts_infer", "torch", "python"}: that exported it
///   inputs          of forward, in order: {"name", "type", "dtype", "shape"}; a dimension is a
///                   size, {"name", "min", "max"} or null; max may be null; dtype and shape are
///                   there for tensors only. A container has {"leaves", "any_length", "any_keys"}:
///                   leaves are such entries too, whose name is their path, and have {"optional"}
///   outputs         the same, flattened depth-first
///   methods         names
///   warmup_shapes   [{input name: sizes}], the first is the largest
///   state           paths of the attributes that calls change
///   scripted        [{"name", "reason"}]: parts that were scripted automatically
///   audit           {"level", "probes": [{"name", "outcome", "runs", "reason"}], "allowed"}
///   libraries       [{"file", "operators", "classes"}]: what must be loaded before the model
///   golden          {"file", "calls", "tolerance": {"cpu" or "accelerator": {dtype: [rtol,
///                   atol]}}}
///   compiled        {"device", "result"}: of an AOTInductor package; a result is "tensor",
///                   {"tuple": [result]}, {"list": [result]} or {"dict": {key: result}}
struct Manifest {
  std::string name;
  std::string method;
  std::string torch_version;
  Signature signature;
  std::vector<std::string> methods;
  std::vector<std::map<std::string, std::vector<std::int64_t>>> warmup_shapes;
  std::vector<std::string> state;
  std::vector<ScriptedPart> scripted;
  std::optional<Audit> audit;
  std::vector<NeededLibrary> libraries;
  std::optional<Golden> golden;
  std::optional<Compiled> compiled;
};

/// @throws ModelLoadError that says what is wrong, as a clause.
Manifest parse_manifest(const std::string& json);

}  // namespace ts_infer
