#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace ts_infer {

/// Whether what a graph writes in place hangs on the strides of what it computes: reshape, flatten
/// and contiguous give a view of their input, or a copy, as its strides are, and a write to the one
/// is seen in the other, or not. Own kernels may give other strides than torch's.
///
/// Not where nothing but that operator looks at its input, and not of the graph's own inputs.
bool writes_by_strides(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace ts_infer
