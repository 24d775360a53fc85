#include "engine/precision.h"

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <unordered_set>
#include <utility>

#include "engine/kernels.h"
#include "engine/pass.h"
#include "messages.h"
#include "ts_infer/error.h"

namespace ts_infer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

const auto kProduct = c10::Symbol::attr("product");  // torch's operator
const auto kOverload = c10::Symbol::attr("overload");
const auto kType = c10::Symbol::attr("type");
const auto kLowered = c10::Symbol::attr("lowered");  // whether a constant was float32

bool is_float(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined() &&
         value.toTensor().scalar_type() == c10::kFloat;
}

/// torch's operator, on tensors of another type.
class LoweredProduct {
 public:
  explicit LoweredProduct(const Node* node)
      : operation_(
            torch::jit::findOperatorFor({node->s(kProduct), node->s(kOverload)})->getOperation()),
        inputs_(node->inputs().size()),
        type_(static_cast<c10::ScalarType>(node->i(kType))),
        lowered_(node->i(kLowered) != 0) {}

  void operator()(Stack& stack) {
    bool lowered = lowered_;
    for (std::size_t i = stack.size() - inputs_; i < stack.size(); ++i) {
      c10::IValue& value = stack[i];
      if (!is_float(value)) continue;
      value = value.toTensor().to(type_);
      lowered = true;
    }
    operation_(stack);
    if (!lowered) return;  // it has the dtypes of the model's own
    stack.back() = stack.back().toTensor().to(c10::kFloat);
  }

 private:
  torch::jit::Operation operation_;
  std::size_t inputs_;
  c10::ScalarType type_;
  bool lowered_;
};

const torch::jit::RegisterOperators kLoweredOperator({torch::jit::Operator(
    "ts_infer::lowered_product(...) -> Tensor",
    [](const Node* node) -> torch::jit::Operation { return LoweredProduct(node); },
    c10::AliasAnalysisKind::PURE_FUNCTION)});

bool is_product(const Node* node) {
  static const std::unordered_set<std::string> kProducts = {"aten::linear",
                                                            "aten::matmul",
                                                            "aten::mm",
                                                            "aten::bmm",
                                                            "aten::addmm",
                                                            "aten::baddbmm",
                                                            "aten::_convolution",
                                                            "aten::convolution",
                                                            "aten::conv1d",
                                                            "aten::conv2d",
                                                            "aten::conv3d",
                                                            "aten::conv_transpose1d",
                                                            "aten::conv_transpose2d",
                                                            "aten::scaled_dot_product_attention"};
  return node->maybeOperator() && kProducts.count(node->kind().toQualString()) > 0;
}

}  // namespace

PrecisionChoice choose_precision(const std::string& requested, c10::Device device,
                                 const std::string& executor) {
  if (requested == "fp32") return {};
  if (requested != "bf16" && requested != "fp16") {
    throw ModelLoadError("precision: expected fp32 or bf16 or fp16, got \"" + requested + '"');
  }
  if (executor != "prepared") {
    return {c10::kFloat, "the executor " + executor + " runs the model as it was exported"};
  }
  if (device.is_cpu() && requested == "fp16") {
    return {c10::kFloat, "on the host there are products of float32 and bfloat16"};
  }
  if (device.is_cpu() && !has_bfloat16_products()) {
    return {c10::kFloat, "this processor has no products of bfloat16 (AVX512_BF16)"};
  }
  return {requested == "bf16" ? c10::kBFloat16 : c10::kHalf, ""};
}

std::string precision_name(c10::ScalarType type) {
  if (type == c10::kBFloat16) return "bf16";
  return type == c10::kHalf ? "fp16" : "fp32";
}

std::string tf32_text(c10::Device device) {
  if (!device.is_cuda()) return "";
  try {
    const at::Context& torchs = at::globalContext();
    const auto text = [](bool on) { return on ? "on" : "off"; };
    return c10::str("TF32, by torch's switches: ", text(torchs.allowTF32CuBLAS()),
                    " for matrix products, ", text(torchs.allowTF32CuDNN()), " for convolutions");
  } catch (const std::exception& error) {
    return "TF32, by torch's switches: not known: " + clean_message(error);
  }
}

int lower_products(const std::shared_ptr<torch::jit::Graph>& graph, c10::ScalarType type) {
  return change_nodes(graph->block(), [&](Node* node) {
    if (!is_product(node)) return false;
    std::vector<torch::jit::Value*> inputs(node->inputs().begin(), node->inputs().end());
    bool lowered = false;
    for (torch::jit::Value*& input : inputs) {
      const auto constant = torch::jit::toIValue(input);
      if (!constant || !is_float(*constant)) continue;
      const torch::jit::WithInsertPoint before(node);
      input = graph->insertConstant(constant->toTensor().to(type));
      lowered = true;
    }
    const c10::OperatorName torchs = node->schema().operator_name();
    Node* ours = replace(node, node, "ts_infer::lowered_product", inputs);
    ours->s_(kProduct, torchs.name);
    ours->s_(kOverload, torchs.overload_name);
    ours->i_(kType, static_cast<std::int64_t>(type));
    ours->i_(kLowered, lowered);
    return true;
  });
}

}  // namespace ts_infer
