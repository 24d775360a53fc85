#include "engine/linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include "engine/kernels.h"
#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

/// Packed weights are held beside torch's own: a quarter of a megabyte, and larger layers are
/// mostly given many rows.
constexpr std::int64_t kMostWeights = std::int64_t{1} << 16;

const auto kWeight = c10::Symbol::attr("weight");
const auto kBias = c10::Symbol::attr("bias");  // absent where there is none
const auto kRelu = c10::Symbol::attr("relu");

class SmallLinear {
 public:
  explicit SmallLinear(const Node* node) : weight_(node->t(kWeight)), relu_(node->i(kRelu) != 0) {
    const std::int64_t outputs = weight_.size(0);
    const std::int64_t inputs = weight_.size(1);
    const std::int64_t padded = blocks_of(outputs) * kBlock;
    at::Tensor rows = at::zeros({padded, inputs});
    rows.narrow(0, 0, outputs).copy_(weight_);
    packed_weight_ = rows.reshape({-1, kBlock, inputs}).transpose(1, 2).contiguous();
    packed_bias_ = at::zeros({padded});
    if (node->hasAttribute(kBias)) {
      bias_ = node->t(kBias);
      packed_bias_.narrow(0, 0, outputs).copy_(*bias_);
    }
  }

  void operator()(Stack& stack) const {
    const at::Tensor input = torch::jit::pop(stack).toTensor();
    torch::jit::push(stack, fits(input) ? run_packed(input) : run_torchs(input));
  }

 private:
  /// What cannot be right at all is torch's to refuse.
  bool fits(const at::Tensor& input) const {
    const std::int64_t inputs = weight_.size(1);
    return is_float_on_host(input) && input.dim() > 0 && input.size(-1) == inputs &&
           input.numel() > 0 && input.numel() <= kMaxRows * inputs;
  }

  at::Tensor run_packed(const at::Tensor& input) const {
    const at::Tensor rows = input.contiguous();
    c10::DimVector sizes(rows.sizes());
    sizes.back() = weight_.size(0);
    at::Tensor output = at::empty(sizes, rows.options());
    LinearKernel kernel;
    kernel.inputs = weight_.size(1);
    kernel.outputs = weight_.size(0);
    kernel.rows = rows.numel() / kernel.inputs;
    kernel.relu = relu_;
    kernel.weights = packed_weight_.const_data_ptr<float>();
    kernel.biases = packed_bias_.const_data_ptr<float>();
    kernel.input = rows.const_data_ptr<float>();
    kernel.output = output.mutable_data_ptr<float>();
    run(kernel);
    return output;
  }

  at::Tensor run_torchs(const at::Tensor& input) const {
    at::Tensor output = at::linear(input, weight_, bias_);
    return relu_ ? output.relu_() : output;
  }

  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
  bool relu_;
  at::Tensor packed_weight_;
  at::Tensor packed_bias_;
};

const torch::jit::RegisterOperators kLinearOperator({torch::jit::Operator(
    "ts_infer::small_linear(...) -> Tensor",
    [](const Node* node) -> torch::jit::Operation { return SmallLinear(node); },
    c10::AliasAnalysisKind::PURE_FUNCTION)});

/// The ReLU that is the only use of a value, or nullptr.
Node* only_relu(torch::jit::Value* value) {
  if (value->uses().size() != 1) return nullptr;
  Node* user = value->uses()[0].user;
  const bool is_relu = user->matches("aten::relu(Tensor self) -> Tensor") ||
                       user->matches("aten::relu_(Tensor(a!) self) -> Tensor(a!)");
  return is_relu ? user : nullptr;
}

bool pack_linear(Node* node) {
  if (!node->matches("aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor")) {
    return false;
  }
  const auto weight = torch::jit::toIValue(node->namedInput("weight"));
  const auto bias = torch::jit::toIValue(node->namedInput("bias"));
  if (!weight || !weight->isTensor() || !bias) return false;
  const at::Tensor& weights = weight->toTensor();
  if (!is_float_on_host(weights) || weights.dim() != 2 || weights.numel() == 0 ||
      weights.numel() > kMostWeights) {
    return false;
  }
  if (bias->isTensor() && (!is_float_on_host(bias->toTensor()) ||
                           bias->toTensor().sizes() != at::IntArrayRef{weights.size(0)})) {
    return false;
  }
  Node* relu = only_relu(node->output());
  Node* packed = replace(relu ? relu : node, "ts_infer::small_linear", {node->namedInput("input")});
  packed->t_(kWeight, weights);
  if (bias->isTensor()) packed->t_(kBias, bias->toTensor());
  packed->i_(kRelu, relu ? 1 : 0);
  return true;
}

}  // namespace

int pack_small_linears(const std::shared_ptr<torch::jit::Graph>& graph) {
  return for_each_node(graph->block(), pack_linear);
}

}  // namespace ts_infer
