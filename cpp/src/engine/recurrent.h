#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <map>
#include <memory>
#include <string>

namespace ts_infer {

/// Has every LSTM and GRU, layers and single cells, whose weights are float32 constants on the host
/// computed by kernels.h, from weights packed now; returns how many there are of each kind.
///
/// torch computes an LSTM by oneDNN, which packs the weights in every call and sets up a new
/// primitive for every new length, and the others operator by operator. What the kernel is not made
/// for (more than kRowsAtOnce sequences at once, another dtype) still goes to torch, call by call.
std::map<std::string, int> pack_recurrent(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace ts_infer
