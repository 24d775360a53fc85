#include "engine/pass.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/jit/ir/constants.h>

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

std::string plain_kind(const torch::jit::Node* node) {
  std::string kind = node->kind().toQualString();
  if (kind.back() == '_') kind.pop_back();
  return kind;
}

bool is_arithmetic(const torch::jit::Node* node) {
  const c10::Symbol kind = node->kind();
  if (kind != c10::aten::add && kind != c10::aten::sub && kind != c10::aten::mul &&
      kind != c10::aten::div) {
    return false;
  }
  const c10::FunctionSchema* schema = node->maybeSchema();
  return schema && schema->overload_name() == "Tensor";
}

torch::jit::Node* replace(torch::jit::Node* place, torch::jit::Node* last, const char* kind,
                          const std::vector<torch::jit::Value*>& inputs,
                          torch::jit::AliasDb* aliases) {
  torch::jit::Node* ours = place->owningGraph()->create(c10::Symbol::fromQualString(kind), inputs,
                                                        last->outputs().size());
  ours->insertBefore(place);
  ours->setSourceRange(place->sourceRange());
  ours->setScope(place->scope());
  for (std::size_t i = 0; i < last->outputs().size(); ++i) {
    ours->output(i)->setType(last->output(i)->type());
    if (aliases) aliases->replaceWithNewValue(last->output(i), ours->output(i));
  }
  last->replaceAllUsesWith(ours);
  if (last != place) last->destroy();
  return ours;
}

std::pair<torch::jit::Node*, Activation> only_activation(torch::jit::Value* value) {
  if (value->uses().size() != 1) return {nullptr, Activation::kNone};
  torch::jit::Node* user = value->uses()[0].user;
  if (user->owningBlock() != value->node()->owningBlock()) return {nullptr, Activation::kNone};
  if (user->matches("aten::gelu(Tensor self, *, str approximate='none') -> Tensor")) {
    const auto how = torch::jit::constant_as<std::string>(user->namedInput("approximate"));
    if (how == "none") return {user, Activation::kGelu};
    if (how == "tanh") return {user, Activation::kGeluTanh};
    return {nullptr, Activation::kNone};
  }
  static const std::pair<const char*, Activation> kUnary[] = {
      {"aten::relu(Tensor self) -> Tensor", Activation::kRelu},
      {"aten::relu_(Tensor(a!) self) -> Tensor(a!)", Activation::kRelu},
      {"aten::silu(Tensor self) -> Tensor", Activation::kSilu},
      {"aten::silu_(Tensor(a!) self) -> Tensor(a!)", Activation::kSilu},
      {"aten::sigmoid(Tensor self) -> Tensor", Activation::kSigmoid},
      {"aten::sigmoid_(Tensor(a!) self) -> Tensor(a!)", Activation::kSigmoid},
      {"aten::tanh(Tensor self) -> Tensor", Activation::kTanh},
      {"aten::tanh_(Tensor(a!) self) -> Tensor(a!)", Activation::kTanh}};
  for (const auto& [schema, activation] : kUnary) {
    if (user->matches(schema)) return {user, activation};
  }
  return {nullptr, Activation::kNone};
}

at::Tensor activate(at::Tensor tensor, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return tensor;
    case Activation::kRelu:
      return tensor.relu_();
    case Activation::kGelu:
      return at::gelu_(tensor);
    case Activation::kGeluTanh:
      return at::gelu_(tensor, "tanh");
    case Activation::kSilu:
      return at::silu_(tensor);
    case Activation::kSigmoid:
      return tensor.sigmoid_();
    case Activation::kTanh:
      return tensor.tanh_();
  }
  return tensor;
}

bool is_float_on_host(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat &&
         tensor.layout() == at::kStrided && !tensor.is_neg() &&
         !(c10::GradMode::is_enabled() && tensor.requires_grad());
}

}  // namespace ts_infer
