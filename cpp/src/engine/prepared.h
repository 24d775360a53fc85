#pragma once

#include <ATen/core/function.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <string>
#include <vector>

#include "engine/passes.h"
#include "engine/state_analysis.h"

namespace ts_infer {

/// How functions are prepared.
struct Preparation {
  c10::Device device;  // where their tensors will be: own kernels are for the host
  PassSelection passes;
  c10::ScalarType precision = c10::kFloat;  // of products
};

/// A function that is ready to run, and what was done to it, one sentence each.
struct PreparedFunction {
  torch::jit::Code code;
  std::vector<std::string> decisions;
  int lowered_products = 0;  // to the precision that was asked for
};

/// The code of a function, compiled now, to be run directly: calls inlined, constants folded, no
/// profiling, no fusion, no specialisation to types or sizes seen, so that no later call compiles.
/// It takes `self` first, as the function does. What cannot be inlined (a method of an interface,
/// the body of a fork) still runs in a graph executor of its own.
/// Without passes and in float32, calls are inlined, and the graph is left as it is; so it is where
/// the code writes to constants, which passes take for constant.
PreparedFunction prepare(torch::jit::Function& function, const Preparation& how,
                         const StateAnalysis& state = {});

}  // namespace ts_infer
