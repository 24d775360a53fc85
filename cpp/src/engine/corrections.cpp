#include "engine/corrections.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <unordered_set>

#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Operator;
using torch::jit::Stack;
using torch::jit::Value;

/// What torch's schemas lack: (a).
constexpr const char* kViews[] = {
    "alpha_dropout(Tensor(a) input, float p, bool train) -> Tensor(a)",
    "atleast_1d(Tensor(a) self) -> Tensor(a)",
    "atleast_2d(Tensor(a) self) -> Tensor(a)",
    "atleast_3d(Tensor(a) self) -> Tensor(a)",
    "conj_physical(Tensor(a) self) -> Tensor(a)",
    "dequantize.self(Tensor(a) self) -> Tensor(a)",
    "dropout(Tensor(a) input, float p, bool train) -> Tensor(a)",
    "feature_alpha_dropout(Tensor(a) input, float p, bool train) -> Tensor(a)",
    "feature_dropout(Tensor(a) input, float p, bool train) -> Tensor(a)",
    "sum_to_size(Tensor(a) self, int[] size) -> Tensor(a)",
    "to_dense(Tensor(a) self, ScalarType? dtype=None, *, bool? masked_grad=None) -> Tensor(a)",
    "type_as(Tensor(a) self, Tensor other) -> Tensor(a)",
    "unsafe_chunk(Tensor(a -> *) self, int chunks, int dim=0) -> Tensor(a)[]",
    "unsafe_split.Tensor(Tensor(a -> *) self, int split_size, int dim=0) -> Tensor(a)[]",
    "unsafe_split_with_sizes(Tensor(a -> *) self, int[] split_sizes, int dim=0) -> Tensor(a)[]"};

/// A schema cannot say it of the tensors in a list: they count as written to.
constexpr const char* kViewsOfLists[] = {
    "atleast_1d.Sequence(Tensor[] tensors) -> Tensor[]",
    "atleast_2d.Sequence(Tensor[] tensors) -> Tensor[]",
    "atleast_3d.Sequence(Tensor[] tensors) -> Tensor[]",
    "broadcast_tensors(Tensor[] tensors) -> Tensor[]",
    "cartesian_prod(Tensor[] tensors) -> Tensor",
    "einsum(str equation, Tensor[] tensors, *, int[]? path=None) -> Tensor",
    "meshgrid(Tensor[] tensors) -> Tensor[]",
    "meshgrid.indexing(Tensor[] tensors, *, str indexing) -> Tensor[]"};

/// What torch's operator of the same name does.
torch::jit::Operation as_torchs(const Node* node) {
  const c10::FunctionSchema& schema = node->schema();
  const std::string name = std::string("aten::") + node->kind().toUnqualString();
  return torch::jit::findOperatorFor({name, schema.overload_name()})->getOperation();
}

Operator twin(const char* schema, c10::AliasAnalysisKind kind) {
  return Operator(std::string("ts_infer::") + schema, as_torchs, kind);
}

std::vector<std::optional<Operator>> twins() {
  std::vector<std::optional<Operator>> operators;
  for (const char* text : kViews) {
    operators.push_back(twin(text, c10::AliasAnalysisKind::FROM_SCHEMA));
  }
  for (const char* text : kViewsOfLists) {
    operators.push_back(twin(text, c10::AliasAnalysisKind::CONSERVATIVE));
  }
  return operators;
}

const torch::jit::RegisterOperators kTwins(twins());

void require_width(Stack& stack) {
  const std::int64_t rank = torch::jit::pop(stack).toInt();
  const std::vector<at::Tensor> weights = torch::jit::pop(stack).toTensorVector();
  const at::Tensor& input = torch::jit::peek(stack, 0, 1).toTensor();
  const std::int64_t width = weights.at(0).size(-1);
  TORCH_CHECK(input.dim() == rank && input.size(-1) == width,
              "recurrent layer: expected an input of ", rank, " dimensions with ", width,
              " features, got one of shape ", input.sizes());
}

const torch::jit::RegisterOperators kOperators(
    {Operator(
         "ts_infer::rank(Tensor self) -> int",
         [](Stack& stack) { torch::jit::push(stack, torch::jit::pop(stack).toTensor().dim()); },
         c10::AliasAnalysisKind::PURE_FUNCTION),
     Operator(
         "ts_infer::dtype(Tensor self) -> int",
         [](Stack& stack) {
           const at::ScalarType type = torch::jit::pop(stack).toTensor().scalar_type();
           torch::jit::push(stack, static_cast<std::int64_t>(type));
         },
         c10::AliasAnalysisKind::PURE_FUNCTION),
     Operator(
         "ts_infer::is_floating_point(Tensor self) -> bool",
         [](Stack& stack) {
           torch::jit::push(stack, torch::jit::pop(stack).toTensor().is_floating_point());
         },
         c10::AliasAnalysisKind::PURE_FUNCTION),
     Operator(
         "ts_infer::is_complex(Tensor self) -> bool",
         [](Stack& stack) {
           torch::jit::push(stack, torch::jit::pop(stack).toTensor().is_complex());
         },
         c10::AliasAnalysisKind::PURE_FUNCTION),
     Operator("ts_infer::require_width(Tensor(a) input, Tensor[] params, int rank) -> Tensor(a)",
              require_width, c10::AliasAnalysisKind::FROM_SCHEMA),
     Operator(
         "ts_infer::scalar_tensor(Tensor(a) self) -> Tensor(a)", [](Stack&) {},
         c10::AliasAnalysisKind::FROM_SCHEMA)});

/// Inner blocks included.
std::vector<Node*> nodes_where(Block* block, const std::function<bool(const Node*)>& holds) {
  std::vector<Node*> found;
  change_nodes(block, [&](Node* node) {
    if (holds(node)) found.push_back(node);
    return false;
  });
  return found;
}

void put_in_place(Node* node, Value* value) {
  node->output()->replaceAllUsesWith(value);
  node->destroy();
}

bool writes(const Node* node) {
  const c10::FunctionSchema* schema = node->maybeSchema();
  return schema && schema->is_mutable();
}

std::string twin_of(const Node* node) {
  return std::string("ts_infer::") + node->kind().toUnqualString();
}

bool shares_unsaid(const Node* node) {
  static const std::unordered_set<std::string> kNames = [] {
    std::unordered_set<std::string> names;
    for (const auto& each : twins()) {
      const c10::OperatorName& name = each->schema().operator_name();
      names.insert("aten" + name.name.substr(name.name.find(':')) + '.' + name.overload_name);
    }
    return names;
  }();
  const c10::FunctionSchema* schema = node->kind().is_aten() ? node->maybeSchema() : nullptr;
  return schema && kNames.count(schema->name() + '.' + schema->overload_name()) > 0;
}

/// One tensor of an einsum is permuted; several are multiplied.
bool multiplies(const Node* node) {
  if (node->kind() != c10::aten::einsum) return false;
  const Node* const list = node->input(1)->node();
  return list->kind() == torch::jit::prim::ListConstruct && list->inputs().size() > 1;
}

bool is_dropout(const Node* node) {
  const c10::Symbol kind = node->kind();
  return kind == c10::aten::dropout || kind == c10::aten::alpha_dropout ||
         kind == c10::aten::feature_dropout || kind == c10::aten::feature_alpha_dropout;
}

/// Without training it is its input.
void declare_dropout(Node* node) {
  Value* const input = node->input(0);
  Value* const train = node->input(2);
  if (torch::jit::constant_as<bool>(train) == false) return put_in_place(node, input);
  torch::jit::Graph& graph = *node->owningGraph();
  Node* const choice = graph.create(torch::jit::prim::If, {train}, 1)->insertBefore(node);
  choice->output()->setType(node->output()->type());
  Node* const dropped = graph.create(c10::Symbol::fromQualString(twin_of(node)), node->inputs());
  dropped->setSourceRange(node->sourceRange());
  dropped->output()->setType(node->output()->type());
  Block* const training = choice->addBlock();
  training->appendNode(dropped);
  training->registerOutput(dropped->output());
  choice->addBlock()->registerOutput(input);
  put_in_place(node, choice->output());
}

void declare_views(Block* block) {
  for (Node* node : nodes_where(block, shares_unsaid)) {
    if (is_dropout(node)) {
      declare_dropout(node);
    } else if (!multiplies(node)) {
      replace(node, node, twin_of(node).c_str(), node->inputs().vec());
      node->destroy();
    }
  }
}

/// A sum, difference, product or quotient with a constant tensor without dimensions behind it.
bool takes_scalar_tensor(const Node* node) {
  const c10::Symbol kind = node->kind();
  if (kind != c10::aten::add && kind != c10::aten::sub && kind != c10::aten::mul &&
      kind != c10::aten::div) {
    return false;
  }
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (!schema || schema->overload_name() != "Tensor") return false;
  const auto other = torch::jit::constant_as<at::Tensor>(node->input(1));
  return other && other->defined() && other->dim() == 0;
}

void unwrap_numbers(Block* block) {
  for (Node* node : nodes_where(block, takes_scalar_tensor)) {
    const torch::jit::WithInsertPoint before(node);
    const at::Tensor tensor = *torch::jit::constant_as<at::Tensor>(node->input(1));
    std::vector<Value*> inputs = node->inputs().vec();
    inputs[1] = node->owningGraph()->insertConstant(tensor.item());
    replace(node, node, node->kind().toQualString(), inputs);
    node->destroy();
  }
}

bool is_recurrent(const Node* node) {
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (!schema || !schema->argumentIndexWithName("params")) return false;
  const std::string kind = node->kind().toQualString();
  return kind == "aten::lstm" || kind == "aten::gru" || kind.rfind("aten::rnn_", 0) == 0;
}

void require_widths(Block* block) {
  for (Node* node : nodes_where(block, is_recurrent)) {
    const torch::jit::WithInsertPoint before(node);
    Value* const input = node->input(0);
    const int rank = node->schema().argumentIndexWithName("batch_sizes") ? 2 : 3;
    Value* const checked = node->owningGraph()->insert(
        c10::Symbol::fromQualString("ts_infer::require_width"),
        {input, node->namedInput("params"), rank}, {}, node->sourceRange());
    checked->setType(input->type());
    node->replaceInput(0, checked);
  }
}

/// What torch's passes answer from the types of values that they have found out.
const char* hidden_kind(const Node* node) {
  if (node->inputs().size() != 1) return nullptr;
  switch (node->kind()) {
    case c10::aten::dim:
      return "ts_infer::rank";
    case c10::prim::dtype:
      return "ts_infer::dtype";
    case c10::aten::is_floating_point:
      return "ts_infer::is_floating_point";
    case c10::aten::is_complex:
      return "ts_infer::is_complex";
    default:
      return nullptr;
  }
}

void hide_types(Block* block) {
  change_nodes(block, [](Node* node) {
    const char* const kind = hidden_kind(node);
    if (kind) replace(node, node, kind, {node->input(0)});
    return kind != nullptr;
  });
}

}  // namespace

void correct(const std::vector<Block*>& functions, bool optimized) {
  const bool written = std::any_of(functions.begin(), functions.end(),
                                   [](const Block* block) { return any_node(block, writes); });
  for (Block* const block : functions) {
    if (written) declare_views(block);
    unwrap_numbers(block);
    require_widths(block);
    if (optimized) hide_types(block);
  }
}

void keep_scalar_tensors(Block* function) {
  for (Node* node : nodes_where(function, takes_scalar_tensor)) {
    const torch::jit::WithInsertPoint before(node);
    node->replaceInput(
        1, node->owningGraph()->insert(c10::Symbol::fromQualString("ts_infer::scalar_tensor"),
                                       {node->input(1)}, {}, node->sourceRange()));
  }
}

}  // namespace ts_infer
