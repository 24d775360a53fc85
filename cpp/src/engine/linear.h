#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace ts_infer {

/// Has every small fully connected layer whose weights are float32 constants on the host computed
/// by kernels.h, from weights packed now, together with a ReLU that follows; returns how many.
///
/// Calls with more than kMaxRows rows, or of another dtype, still go to torch.
int pack_small_linears(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace ts_infer
