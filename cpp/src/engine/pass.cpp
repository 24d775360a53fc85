#include "engine/pass.h"

#include <c10/core/GradMode.h>

namespace ts_infer {

bool any_node(const torch::jit::Block* block,
              const std::function<bool(const torch::jit::Node*)>& holds) {
  for (const torch::jit::Node* node : block->nodes()) {
    if (holds(node)) return true;
    for (const torch::jit::Block* inner : node->blocks()) {
      if (any_node(inner, holds)) return true;
    }
  }
  return false;
}

int change_nodes(torch::jit::Block* block, const std::function<bool(torch::jit::Node*)>& change) {
  int count = 0;
  for (torch::jit::Node* node : block->nodes()) {
    for (torch::jit::Block* inner : node->blocks()) count += change_nodes(inner, change);
    if (change(node)) ++count;
  }
  return count;
}

torch::jit::Node* replace(torch::jit::Node* node, const char* kind,
                          const std::vector<torch::jit::Value*>& inputs) {
  torch::jit::Node* ours = node->owningGraph()->create(c10::Symbol::fromQualString(kind), inputs,
                                                       node->outputs().size());
  ours->insertBefore(node);
  ours->setSourceRange(node->sourceRange());
  ours->setScope(node->scope());
  for (std::size_t i = 0; i < node->outputs().size(); ++i) {
    ours->output(i)->setType(node->output(i)->type());
  }
  node->replaceAllUsesWith(ours);
  return ours;
}

bool is_float_on_host(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat &&
         tensor.layout() == at::kStrided &&
         !(c10::GradMode::is_enabled() && tensor.requires_grad());
}

}  // namespace ts_infer
