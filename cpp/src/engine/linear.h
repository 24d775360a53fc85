#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace ts_infer {

/// Has every fully connected layer whose weights are float32 constants on the host computed by
/// kernels.h, from weights packed now, together with an activation that follows; returns how many.
/// Calls of another dtype still go to torch, and so do many rows on a processor without AVX2.
/// `bfloat16`: multiply numbers of that, and sum in float32, where inputs are even in number.
int pack_linears(const std::shared_ptr<torch::jit::Graph>& graph, bool bfloat16);

}  // namespace ts_infer
