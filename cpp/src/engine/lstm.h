#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace ts_infer {

/// Has every LSTM whose weights are float32 constants on the host computed by kernels.h, from
/// weights packed now; returns how many there are.
///
/// torch computes them by oneDNN, which packs the weights in every call and sets up a new primitive
/// for every new length. What the kernel is not made for (more than kRowsAtOnce sequences at once,
/// another dtype) still goes to torch, call by call.
int pack_lstms(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace ts_infer
