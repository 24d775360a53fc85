#include "engine/linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <optional>
#include <string>
#include <utility>

#include "engine/packed_linear.h"
#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

const auto kWeight = c10::Symbol::attr("weight");
const auto kBias = c10::Symbol::attr("bias");  // absent where there is none
const auto kActivation = c10::Symbol::attr("activation");
const auto kBfloat16 = c10::Symbol::attr("bfloat16");

class Linear {
 public:
  explicit Linear(const Node* node)
      : weight_(node->t(kWeight)),
        bias_(node->hasAttribute(kBias) ? std::optional(node->t(kBias)) : std::nullopt),
        activation_(static_cast<Activation>(node->i(kActivation))),
        packed_(weight_, bias_, node->i(kBfloat16) != 0) {}

  void operator()(Stack& stack) const {
    const at::Tensor input = torch::jit::pop(stack).toTensor();
    torch::jit::push(stack, fits(input) ? packed_(input, activation_) : run_torchs(input));
  }

 private:
  /// What cannot be right at all is torch's to refuse.
  bool fits(const at::Tensor& input) const {
    return is_float_on_host(input) && input.dim() > 0 && input.size(-1) == packed_.inputs() &&
           input.numel() > 0 && packed_.pays(input.numel() / packed_.inputs());
  }

  at::Tensor run_torchs(const at::Tensor& input) const {
    return activate(at::linear(input, weight_, bias_), activation_);
  }

  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
  Activation activation_;
  PackedLinear packed_;
};

const torch::jit::RegisterOperators kLinearOperator({torch::jit::Operator(
    "ts_infer::linear(...) -> Tensor",
    [](const Node* node) -> torch::jit::Operation { return Linear(node); },
    c10::AliasAnalysisKind::PURE_FUNCTION)});

bool pack_linear(Node* node, bool bfloat16) {
  if (!node->matches("aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor")) {
    return false;
  }
  const auto weight = torch::jit::toIValue(node->namedInput("weight"));
  const auto bias = torch::jit::toIValue(node->namedInput("bias"));
  if (!weight || !weight->isTensor() || !bias) return false;
  const at::Tensor& weights = weight->toTensor();
  if (!is_float_on_host(weights) || weights.dim() != 2 || weights.numel() == 0) {
    return false;
  }
  if (bias->isTensor() && (!is_float_on_host(bias->toTensor()) ||
                           bias->toTensor().sizes() != at::IntArrayRef{weights.size(0)})) {
    return false;
  }
  const auto [user, activation] = only_activation(node->output());
  // Where the linear is: the input may be written to before the activation.
  Node* packed = replace(node, user ? user : node, "ts_infer::linear", {node->namedInput("input")});
  packed->t_(kWeight, weights);
  if (bias->isTensor()) packed->t_(kBias, bias->toTensor());
  packed->i_(kActivation, static_cast<std::int64_t>(activation));
  packed->i_(kBfloat16, bfloat16);
  return true;
}

}  // namespace

int pack_linears(const std::shared_ptr<torch::jit::Graph>& graph, bool bfloat16) {
  return change_nodes(graph->block(), [&](Node* node) { return pack_linear(node, bfloat16); });
}

}  // namespace ts_infer
