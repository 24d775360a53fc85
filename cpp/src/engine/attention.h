#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace ts_infer {

/// Has every attention (aten::scaled_dot_product_attention) on float32 tensors of the host computed
/// by kernels.h; returns how many there are. Whether a call's tensors fit is seen in the call;
/// those that do not still go to torch.
int replace_attention(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace ts_infer
