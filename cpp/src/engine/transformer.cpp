#include "engine/transformer.h"

#include <torch/csrc/jit/ir/constants.h>

#include <string>
#include <vector>

#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Block;
using torch::jit::NamedValue;
using torch::jit::Node;

/// Of one layer.
class Expansion {
 public:
  explicit Expansion(Node* node) : node_(node), graph_(*node->owningGraph()) {}

  /// What torch's operator gives: an input without elements as it is, whatever its shape is.
  torch::jit::Value* operator()(bool norm_first, bool gelu) {
    torch::jit::Value* x = input("src");
    torch::jit::Value* is_empty = op("aten::eq", {op("aten::numel", {x}), std::int64_t{0}});
    Node* branch = graph_.insertNode(graph_.create(torch::jit::prim::If, {is_empty}, 1));
    const auto add = [&](const auto& make) {
      Block* block = branch->addBlock();
      const torch::jit::WithInsertPoint inside(block);
      block->registerOutput(make());
    };
    add([&] { return op("aten::clone", {x}); });
    add([&] { return layer(x, norm_first, gelu); });
    return branch->output();
  }

 private:
  /// norm_first: y = x + attention(norm(x)), y + feed_forward(norm(y)); else the norms come after
  /// the sums. The scheme is nn.TransformerEncoderLayer's.
  torch::jit::Value* layer(torch::jit::Value* x, bool norm_first, bool gelu) {
    if (norm_first) {
      torch::jit::Value* y = sum(x, attention(norm(x, "1")));
      return sum(y, feed_forward(norm(y, "2"), gelu));
    }
    torch::jit::Value* y = norm(sum(x, attention(x)), "1");
    return norm(sum(y, feed_forward(y, gelu)), "2");
  }

  torch::jit::Value* input(const std::string& name) const { return node_->namedInput(name); }

  torch::jit::Value* op(const char* name, const std::vector<NamedValue>& inputs,
                        const std::vector<NamedValue>& named = {}) {
    return graph_.insert(c10::Symbol::fromQualString(name), inputs, named, node_->sourceRange());
  }

  torch::jit::Value* sum(torch::jit::Value* a, torch::jit::Value* b) {
    return op("aten::add", {a, b});
  }

  torch::jit::Value* linear(torch::jit::Value* x, const std::string& name) {
    const std::size_t at = name.find('*');
    const auto full = [&](const char* what) { return std::string(name).replace(at, 1, what); };
    return op("aten::linear", {x, input(full("weight")), input(full("bias"))});
  }

  torch::jit::Value* norm(torch::jit::Value* x, const std::string& number) {
    torch::jit::Value* weight = input("norm_weight_" + number);
    const auto width = torch::jit::toIValue(weight)->toTensor().numel();
    return op("aten::layer_norm",
              {x, std::vector<std::int64_t>{width}, weight, input("norm_bias_" + number),
               *torch::jit::toIValue(input("eps")), false});
  }

  torch::jit::Value* feed_forward(torch::jit::Value* x, bool gelu) {
    torch::jit::Value* hidden = op(gelu ? "aten::gelu" : "aten::relu", {linear(x, "ffn_*_1")});
    return linear(hidden, "ffn_*_2");
  }

  torch::jit::Value* attention(torch::jit::Value* x) {
    const std::int64_t heads = torch::jit::toIValue(input("num_heads"))->toInt();
    torch::jit::Value* all = linear(x, "qkv_*");
    all = op("aten::unflatten", {all, -1, std::vector<std::int64_t>{3, heads, -1}});
    std::vector<NamedValue> each;  // [batch, head, length, width]
    for (const std::int64_t which : {0, 1, 2}) {
      torch::jit::Value* one = op("aten::select", {all, 2, which});
      each.emplace_back(op("aten::transpose", {one, 1, 2}));
    }
    torch::jit::Value* result = op("aten::scaled_dot_product_attention", each);
    result = op("aten::flatten", {op("aten::transpose", {result, 1, 2}), 2, -1});
    return linear(result, "proj_*");
  }

  Node* node_;
  torch::jit::Graph& graph_;
};

bool fits(const Node* node) {
  for (const char* name : {"qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "norm_weight_1",
                           "norm_bias_1", "norm_weight_2", "norm_bias_2", "ffn_weight_1",
                           "ffn_bias_1", "ffn_weight_2", "ffn_bias_2"}) {
    const auto weight = torch::jit::toIValue(node->namedInput(name));
    if (!weight || !weight->isTensor() || !is_float_on_host(weight->toTensor())) return false;
  }
  const auto mask = torch::jit::toIValue(node->namedInput("mask"));
  return mask && mask->isNone() && torch::jit::toIValue(node->namedInput("eps")) &&
         torch::jit::toIValue(node->namedInput("num_heads"));
}

bool expand(Node* node) {
  if (node->kind() != c10::Symbol::fromQualString("aten::_transformer_encoder_layer_fwd")) {
    return false;
  }
  const auto norm_first = torch::jit::constant_as<bool>(node->namedInput("norm_first"));
  const auto gelu = torch::jit::constant_as<bool>(node->namedInput("use_gelu"));
  if (!norm_first || !gelu || !fits(node)) return false;
  const torch::jit::WithInsertPoint before(node);
  torch::jit::Value* result = Expansion(node)(*norm_first, *gelu);
  result->setType(node->output()->type());
  node->output()->replaceAllUsesWith(result);
  return true;
}

/// Layers may be given nested tensors, which the expansion is not made for.
bool makes_nested_tensors(const Block* block) {
  return any_node(block, [](const Node* node) {
    return std::string(node->kind().toQualString()).find("nested") != std::string::npos;
  });
}

}  // namespace

int expand_encoder_layers(const std::shared_ptr<torch::jit::Graph>& graph) {
  return makes_nested_tensors(graph->block()) ? 0 : change_nodes(graph->block(), expand);
}

}  // namespace ts_infer
