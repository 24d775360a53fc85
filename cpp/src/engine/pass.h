#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/kernels.h"

namespace ts_infer {

// What the passes over prepared graphs share.
//
// Their own operators keep packed weights in the operation that a node creates. They take variable
// arguments ("..."), because torch's interpreter has one operation for all nodes of an operator
// that does not.

/// Whether `holds` returns true for a node, inner blocks included.
bool any_node(const torch::jit::Block* block,
              const std::function<bool(const torch::jit::Node*)>& holds);

/// Returns for how many nodes, inner blocks included, `change` returns true. It may insert nodes,
/// take uses away and destroy nodes behind its own; nodes without uses are deleted later.
int change_nodes(torch::jit::Block* block, const std::function<bool(torch::jit::Node*)>& change);

/// An operator's name without the underscore of those that work in place.
std::string plain_kind(const torch::jit::Node* node);

/// Whether it is a sum, difference, product or quotient of two tensors, not in place.
bool is_arithmetic(const torch::jit::Node* node);

/// Puts a new node before `place`, whose outputs take the place of those of `last`, which is
/// destroyed if it is another node. `aliases`, if given, learn what the new outputs are.
torch::jit::Node* replace(torch::jit::Node* place, torch::jit::Node* last, const char* kind,
                          const std::vector<torch::jit::Value*>& inputs,
                          torch::jit::AliasDb* aliases = nullptr);

/// The activation that is the only use of a value, in the block where the value is made, or nullptr
/// and kNone. One within a loop may run many times, or not at all.
std::pair<torch::jit::Node*, Activation> only_activation(torch::jit::Value* value);

/// The activation by torch's operators, in place.
at::Tensor activate(at::Tensor tensor, Activation activation);

/// A dense float32 tensor on the host that wants no gradient, whose memory holds its values.
bool is_float_on_host(const at::Tensor& tensor);

}  // namespace ts_infer
