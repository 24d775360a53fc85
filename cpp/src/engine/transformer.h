#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace ts_infer {

/// Has every layer of a transformer's encoder that torch runs as one operator
/// (aten::_transformer_encoder_layer_fwd) computed by linears, attention, norms and sums, which
/// other passes make faster, where its weights are float32 constants on the host; returns how many
/// there are. Layers with a mask stay as they are.
int expand_encoder_layers(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace ts_infer
