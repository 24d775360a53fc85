#include "engine/corrections.h"

#include <ATen/core/Tensor.h>
#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_set>

#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Operator;
using torch::jit::Stack;

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

/// What torch's passes answer from, or leave out for, types of tensors that they have found out.
constexpr const char* kQuestions[] = {
    "dim(Tensor self) -> int",
    "expand(Tensor(a) self, int[] size, *, bool implicit=False) -> Tensor(a)",
    "is_complex(Tensor self) -> bool",
    "is_floating_point(Tensor self) -> bool",
    "size(Tensor self) -> int[]",
    "size.int(Tensor self, int dim) -> int"};

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
  for (const char* schema : kViews) {
    operators.push_back(twin(schema, c10::AliasAnalysisKind::FROM_SCHEMA));
  }
  for (const char* schema : kViewsOfLists) {
    operators.push_back(twin(schema, c10::AliasAnalysisKind::CONSERVATIVE));
  }
  for (const char* schema : kQuestions) {
    operators.push_back(twin(schema, c10::AliasAnalysisKind::FROM_SCHEMA));
  }
  return operators;
}

const torch::jit::RegisterOperators kTwins(twins());

using Names = std::unordered_set<std::string>;

/// "aten::size.int", say; with a point where there is no overload.
template <typename Schemas>
void add_names(Names& names, const Schemas& schemas) {
  for (const std::string schema : schemas) {
    std::string name = schema.substr(0, schema.find('('));
    if (name.find('.') == name.npos) name += '.';
    names.insert("aten::" + name);
  }
}

bool is_one_of(const Node* node, const Names& names) {
  const c10::FunctionSchema* schema = node->kind().is_aten() ? node->maybeSchema() : nullptr;
  return schema && names.count(schema->name() + '.' + schema->overload_name()) > 0;
}

bool shares_unsaid(const Node* node) {
  static const Names kNames = [] {
    Names names;
    add_names(names, kViews);
    add_names(names, kViewsOfLists);
    return names;
  }();
  return is_one_of(node, kNames);
}

bool asks_for_types(const Node* node) {
  static const Names kNames = [] {
    Names names = {"aten::type_as."};
    add_names(names, kQuestions);
    return names;
  }();
  return node->kind() == c10::prim::dtype || is_one_of(node, kNames);
}

void require_width(Stack& stack) {
  const std::int64_t rank = torch::jit::pop(stack).toInt();
  const std::vector<at::Tensor> weights = torch::jit::pop(stack).toTensorVector();
  const at::Tensor& input = torch::jit::peek(stack, 0, 1).toTensor();
  const std::int64_t width = weights.at(0).size(-1);
  TORCH_CHECK(input.dim() > 0 && input.size(-1) == width && (rank == 0 || input.dim() == rank),
              "recurrent layer: expected an input of ", rank == 0 ? "" : c10::str(rank, "-d, "),
              width, " features, got one of shape ", input.sizes());
}

void require_divisor(Stack& stack) {
  const std::int64_t by = torch::jit::pop(stack).toInt();
  const std::int64_t of = torch::jit::pop(stack).toInt();
  if (by == 0) throw std::runtime_error("integer division or modulo by zero");
  if (by == -1 && of == std::numeric_limits<std::int64_t>::min()) {
    throw std::runtime_error("the quotient of -2**63 and -1 is no 64-bit integer");
  }
  torch::jit::push(stack, by);
}

/// Rounded down, it wraps around; rounded to zero, torch divides as the processor does.
void require_quotient(Stack& stack) {
  const c10::IValue mode = torch::jit::pop(stack);
  const c10::IValue of = torch::jit::pop(stack);
  if (mode.isNone() || mode.toStringRef() != "trunc" || !of.isTensor()) return;
  const at::Tensor& dividend = of.toTensor();
  const c10::IValue& by = torch::jit::peek(stack, 0, 1);
  const at::Tensor divisor =
      by.isTensor() ? by.toTensor() : at::scalar_tensor(by.toScalar(), dividend.options());
  const at::ScalarType type = at::result_type(dividend, divisor);
  if (!dividend.is_cpu() || !divisor.is_cpu() || (type != at::kLong && type != at::kInt)) return;
  const at::Tensor is_minus_1 = divisor.eq(-1);
  if (!is_minus_1.any().item<bool>()) return;
  const std::int64_t least = type == at::kLong ? std::numeric_limits<std::int64_t>::min()
                                               : std::numeric_limits<std::int32_t>::min();
  if (dividend.eq(least).logical_and_(is_minus_1).any().item<bool>()) {
    throw std::runtime_error(c10::str("the quotient of ", least, " and -1 is no ",
                                      c10::elementSize(type) * 8, "-bit integer"));
  }
}

const torch::jit::RegisterOperators kOperators(
    {Operator(
         "ts_infer::dtype(Tensor self) -> int",
         [](Stack& stack) {
           const at::ScalarType type = torch::jit::pop(stack).toTensor().scalar_type();
           torch::jit::push(stack, static_cast<std::int64_t>(type));
         },
         c10::AliasAnalysisKind::PURE_FUNCTION),
     Operator("ts_infer::require_width(Tensor(a) input, Tensor[] params, int rank) -> Tensor(a)",
              require_width, c10::AliasAnalysisKind::FROM_SCHEMA),
     Operator("ts_infer::divisor(int of, int by) -> int", require_divisor,
              c10::AliasAnalysisKind::PURE_FUNCTION),
     Operator("ts_infer::divisor.Tensor(Tensor(a) by, Tensor of, str? rounding_mode) -> Tensor(a)",
              require_quotient, c10::AliasAnalysisKind::FROM_SCHEMA),
     Operator("ts_infer::divisor.Scalar(Scalar by, Tensor of, str? rounding_mode) -> Scalar",
              require_quotient, c10::AliasAnalysisKind::FROM_SCHEMA),
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

void put_in_place(Node* node, torch::jit::Value* value) {
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

/// One tensor of an einsum is permuted; several are multiplied.
bool multiplies(const Node* node) {
  if (node->kind() != c10::aten::einsum) return false;
  const Node* const list = node->input(1)->node();
  return list->kind() == torch::jit::prim::ListConstruct && list->inputs().size() > 1;
}

bool is_dropout(const Node* node) {
  static const Names kKinds = {"aten::dropout", "aten::alpha_dropout", "aten::feature_dropout",
                               "aten::feature_alpha_dropout"};
  return kKinds.count(plain_kind(node)) > 0 && node->inputs().size() == 3;
}

/// Without training it is its input; in place it writes nothing then.
void declare_dropout(Node* node) {
  torch::jit::Value* const input = node->input(0);
  torch::jit::Value* const train = node->input(2);
  if (torch::jit::constant_as<bool>(train) == false) return put_in_place(node, input);
  torch::jit::Graph& graph = *node->owningGraph();
  Node* const choice = graph.create(torch::jit::prim::If, {train}, 1)->insertBefore(node);
  choice->output()->setType(node->output()->type());
  const c10::Symbol kind =
      shares_unsaid(node) ? c10::Symbol::fromQualString(twin_of(node)) : node->kind();
  Node* const dropped = graph.create(kind, node->inputs());
  dropped->setSourceRange(node->sourceRange());
  dropped->output()->setType(node->output()->type());
  Block* const training = choice->addBlock();
  training->appendNode(dropped);
  training->registerOutput(dropped->output());
  choice->addBlock()->registerOutput(input);
  put_in_place(node, choice->output());
}

void declare_views(Block* block) {
  const auto is_ours = [](const Node* node) { return is_dropout(node) || shares_unsaid(node); };
  for (Node* node : nodes_where(block, is_ours)) {
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
  if (!is_arithmetic(node)) return false;
  const auto other = torch::jit::constant_as<at::Tensor>(node->input(1));
  return other && other->defined() && other->dim() == 0 && !other->is_meta();
}

void unwrap_numbers(Block* block) {
  for (Node* node : nodes_where(block, takes_scalar_tensor)) {
    const torch::jit::WithInsertPoint before(node);
    const at::Tensor tensor = *torch::jit::constant_as<at::Tensor>(node->input(1));
    std::vector<torch::jit::Value*> inputs = node->inputs().vec();
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
    torch::jit::Value* const input = node->input(0);
    // An RNN of torch's takes more dimensions for more batches; an LSTM divides the wrong one.
    const bool has_gates = node->kind() == c10::aten::lstm || node->kind() == c10::aten::gru;
    const bool is_packed = node->schema().argumentIndexWithName("batch_sizes").has_value();
    const int rank = !has_gates ? 0 : is_packed ? 2 : 3;
    torch::jit::Value* const checked = node->owningGraph()->insert(
        c10::Symbol::fromQualString("ts_infer::require_width"),
        {input, node->namedInput("params"), rank}, {}, node->sourceRange());
    checked->setType(input->type());
    node->replaceInput(0, checked);
  }
}

bool divides_integers(const Node* node) {
  static constexpr const char* kSchemas[] = {
      "aten::floordiv.int(int a, int b) -> int", "aten::remainder.int(int a, int b) -> int",
      "aten::__round_to_zero_floordiv.int(int a, int b) -> int",
      "aten::divmod.int(int x, int y) -> (int, int)"};
  if (!std::any_of(std::begin(kSchemas), std::end(kSchemas),
                   [&](const char* schema) { return node->matches(schema); })) {
    return false;
  }
  const auto known = torch::jit::constant_as<std::int64_t>(node->input(1));
  return !known || *known == 0 || *known == -1;
}

void require_divisors(Block* block) {
  for (Node* node : nodes_where(block, divides_integers)) {
    const torch::jit::WithInsertPoint before(node);
    node->replaceInput(
        1, node->owningGraph()->insert(c10::Symbol::fromQualString("ts_infer::divisor"),
                                       {node->input(0), node->input(1)}, {}, node->sourceRange()));
  }
}

/// Of whole numbers too, as far as is known here.
bool rounds_a_quotient(const Node* node) {
  const c10::FunctionSchema* schema = node->kind().is_aten() ? node->maybeSchema() : nullptr;
  if (!schema || !schema->argumentIndexWithName("rounding_mode")) return false;
  const auto mode = torch::jit::toIValue(node->namedInput("rounding_mode"));
  if (mode && (!mode->isString() || mode->toStringRef() != "trunc")) return false;
  const auto by = torch::jit::toIValue(node->input(1));
  return !by || !by->isInt() || by->toInt() == -1;
}

void require_quotients_fit(Block* block) {
  for (Node* node : nodes_where(block, rounds_a_quotient)) {
    const torch::jit::WithInsertPoint before(node);
    torch::jit::Value* const by = node->input(1);
    torch::jit::Value* const checked = node->owningGraph()->insert(
        c10::Symbol::fromQualString("ts_infer::divisor"),
        {by, node->input(0), node->namedInput("rounding_mode")}, {}, node->sourceRange());
    checked->setType(by->type());
    node->replaceInput(1, checked);
  }
}

bool views_as_constant(const Node* node) {
  return node->matches("aten::view(Tensor(a) self, int[] size) -> Tensor(a)") &&
         torch::jit::toIValue(node->input(1));
}

void hide_types(Block* block) {
  for (Node* node : nodes_where(block, asks_for_types)) {
    replace(node, node, twin_of(node).c_str(), node->inputs().vec());
    node->destroy();
  }
}

}  // namespace

void correct(const std::vector<Block*>& functions, bool optimized) {
  const bool written = std::any_of(functions.begin(), functions.end(),
                                   [](const Block* block) { return any_node(block, writes); });
  for (Block* const block : functions) {
    if (written) declare_views(block);
    unwrap_numbers(block);
    require_widths(block);
    require_divisors(block);
    require_quotients_fit(block);
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

void unshare_sizes(Block* function) {
  for (Node* node : nodes_where(function, views_as_constant)) {
    const torch::jit::WithInsertPoint before(node);
    torch::jit::Graph& graph = *node->owningGraph();
    std::vector<torch::jit::Value*> sizes;
    for (const std::int64_t size : torch::jit::toIValue(node->input(1))->toIntVector()) {
      sizes.push_back(graph.insertConstant(size));
    }
    node->replaceInput(1, graph.insertNode(graph.createList(c10::IntType::get(), sizes))->output());
  }
}

}  // namespace ts_infer
