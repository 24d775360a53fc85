#pragma once

#include <c10/core/TensorImpl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <string>
#include <unordered_set>
#include <vector>

namespace ts_infer {

/// What the methods of a module write that outlives a call.
struct StateAnalysis {
  /// One sentence that names the first write found; empty where there is none.
  std::string reason;

  /// Attribute paths such as "encoder.hidden" that are assigned or written in place.
  std::unordered_set<std::string> attributes;

  /// Tensors held by graph constants that are written in place: a traced plain tensor, say.
  std::unordered_set<const c10::TensorImpl*> constants;

  /// Lists or dicts held by graph constants may be written into: freezing makes such of attributes.
  bool constant_containers = false;

  /// Code that cannot be looked into is called, or a write cannot be attributed: everything that
  /// the module holds may change.
  bool opaque = false;

  bool stateful() const { return !reason.empty(); }

  /// Passes take constants for constant.
  bool writes_constants() const { return constant_containers || !constants.empty(); }
};

/// Looks through every inlined method for assignments of attributes and, by torch's alias
/// analysis, for in-place writes to attributes and constants.
StateAnalysis analyse_state(const torch::jit::Module& module);

/// The same of one method's graph.
StateAnalysis analyse_state(torch::jit::Graph& graph);

}  // namespace ts_infer
