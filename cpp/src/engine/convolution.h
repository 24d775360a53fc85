#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace ts_infer {

/// Has every convolution over one or two dimensions that PackedConvolution takes, and whose weights
/// are float32 constants on the host, computed by kernels.h; returns how many. A batch norm behind
/// it goes into the weights, a sum with another tensor and an activation behind that into the
/// kernel. Torch's own folding is left out: it takes every image for one of a batch.
///
/// Their images have the channels together ("channels last"), and so have those of the operators
/// between them that keep it; everything else gets them as torch lays them out.
/// `bfloat16`: multiply numbers of that, and sum in float32, where channels are even in number.
int pack_convolutions(std::shared_ptr<torch::jit::Graph>& graph, bool bfloat16);

}  // namespace ts_infer
