#pragma once

#include <ATen/core/function.h>
#include <c10/core/Device.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <string>
#include <vector>

namespace ts_infer {

/// The code of a function, compiled now, to be run directly: calls inlined, constants folded, no
/// profiling, no fusion, no specialisation to types or sizes seen, so that no later call compiles.
/// It takes `self` first, as the function does. What cannot be inlined (a method of an interface,
/// the body of a fork) still runs in a graph executor of its own.
/// `device` is where its tensors will be: own kernels are for the host. `optimize` false: calls are
/// inlined, and the graph is left as it is. `decisions` gets what was done beyond that.
torch::jit::Code prepare(torch::jit::Function& function, c10::Device device, bool optimize,
                         std::vector<std::string>* decisions = nullptr);

}  // namespace ts_infer
