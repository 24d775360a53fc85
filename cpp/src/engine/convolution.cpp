#include "engine/convolution.h"

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/remove_mutation.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/packed_convolution.h"
#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Stack;

const auto kKernel = c10::Symbol::attr("kernel");  // the weights
const auto kShift = c10::Symbol::attr("shift");    // the bias; absent where there is none
const auto kStride = c10::Symbol::attr("stride");
const auto kPadding = c10::Symbol::attr("padding");
const auto kDilation = c10::Symbol::attr("dilation");
const auto kGroups = c10::Symbol::attr("groups");
const auto kTransposed = c10::Symbol::attr("transposed");
const auto kOutputPadding = c10::Symbol::attr("output_padding");
const auto kOnlyBatches = c10::Symbol::attr("only_batches");
const auto kMean = c10::Symbol::attr("mean");  // of the norm; absent where there is none
const auto kVariance = c10::Symbol::attr("variance");
const auto kNormWeight = c10::Symbol::attr("norm_weight");  // or absent
const auto kNormBias = c10::Symbol::attr("norm_bias");      // or absent
const auto kEpsilon = c10::Symbol::attr("epsilon");
const auto kBehind = c10::Symbol::attr("behind");  // the activation
const auto kAddsInPlace = c10::Symbol::attr("adds_in_place");
const auto kTakesBfloat16 = c10::Symbol::attr("takes_bfloat16");
const auto kGivesBfloat16 = c10::Symbol::attr("gives_bfloat16");

std::optional<at::Tensor> tensor_in(const Node* node, c10::Symbol name) {
  return node->hasAttribute(name) ? std::optional(node->t(name)) : std::nullopt;
}

std::optional<BatchNorm> norm_in(const Node* node) {
  if (!node->hasAttribute(kMean)) return std::nullopt;
  return BatchNorm{tensor_in(node, kNormWeight), tensor_in(node, kNormBias), node->t(kMean),
                   node->t(kVariance), node->f(kEpsilon)};
}

ConvolutionParameters parameters_in(const Node* node) {
  return {node->t(kKernel),          tensor_in(node, kShift),  node->is(kStride),
          node->is(kPadding),        node->is(kDilation),      node->i(kGroups),
          node->i(kTransposed) != 0, node->is(kOutputPadding), norm_in(node),
          node->i(kOnlyBatches) != 0};
}

void put_into(Node* node, const ConvolutionParameters& parameters) {
  node->t_(kKernel, parameters.weight);
  if (parameters.bias) node->t_(kShift, *parameters.bias);
  node->is_(kStride, parameters.stride);
  node->is_(kPadding, parameters.padding);
  node->is_(kDilation, parameters.dilation);
  node->i_(kGroups, parameters.groups);
  node->i_(kTransposed, parameters.transposed);
  node->is_(kOutputPadding, parameters.output_padding);
  node->i_(kOnlyBatches, parameters.only_batches);
  if (!parameters.norm) return;
  const BatchNorm& norm = *parameters.norm;
  node->t_(kMean, norm.mean);
  node->t_(kVariance, norm.variance);
  node->f_(kEpsilon, norm.epsilon);
  if (norm.weight) node->t_(kNormWeight, *norm.weight);
  if (norm.bias) node->t_(kNormBias, *norm.bias);
}

class Convolution {
 public:
  explicit Convolution(const Node* node)
      : activation_(static_cast<Activation>(node->i(kBehind))),
        adds_(node->inputs().size() == 2),
        adds_in_place_(node->i(kAddsInPlace) != 0),
        packed_(parameters_in(node), {node->i(kTakesBfloat16) != 0, node->i(kGivesBfloat16) != 0}) {
  }

  void operator()(Stack& stack) const {
    Addend added;
    if (adds_) added = {torch::jit::pop(stack).toTensor(), adds_in_place_};
    const at::Tensor input = torch::jit::pop(stack).toTensor();
    torch::jit::push(stack, packed_(input, added, activation_));
  }

 private:
  Activation activation_;
  bool adds_;
  bool adds_in_place_;
  PackedConvolution packed_;
};

const torch::jit::RegisterOperators kConvolutionOperator({torch::jit::Operator(
    "ts_infer::convolution(...) -> Tensor",
    [](const Node* node) -> torch::jit::Operation { return Convolution(node); },
    c10::AliasAnalysisKind::PURE_FUNCTION)});
const auto kConvolution = c10::Symbol::fromQualString("ts_infer::convolution");

/// Arithmetic that was in place, where nothing else sees the memory: it cannot change what the
/// first side is.
at::Tensor like_first(const at::Tensor& first, const at::Tensor& result) {
  TORCH_CHECK(result.sizes() == first.sizes(), "output with shape ", first.sizes(),
              " doesn't match the broadcast shape ", result.sizes());
  TORCH_CHECK(c10::canCast(result.scalar_type(), first.scalar_type()), "result type ",
              result.scalar_type(), " can't be cast to the desired output type ",
              first.scalar_type());
  return result.to(first.scalar_type());
}

template <at::Tensor (*kOperator)(const at::Tensor&, const at::Tensor&, const at::Scalar&)>
void scaled_sum(Stack& stack) {
  const at::Scalar alpha = torch::jit::pop(stack).toScalar();
  const at::Tensor other = torch::jit::pop(stack).toTensor();
  const at::Tensor self = torch::jit::pop(stack).toTensor();
  torch::jit::push(stack, like_first(self, kOperator(self, other, alpha)));
}

template <at::Tensor (*kOperator)(const at::Tensor&, const at::Tensor&)>
void product(Stack& stack) {
  const at::Tensor other = torch::jit::pop(stack).toTensor();
  const at::Tensor self = torch::jit::pop(stack).toTensor();
  torch::jit::push(stack, like_first(self, kOperator(self, other)));
}

const torch::jit::RegisterOperators kArithmetic(
    {torch::jit::Operator("ts_infer::add(Tensor self, Tensor other, Scalar alpha) -> Tensor",
                          scaled_sum<at::add>, c10::AliasAnalysisKind::PURE_FUNCTION),
     torch::jit::Operator("ts_infer::sub(Tensor self, Tensor other, Scalar alpha) -> Tensor",
                          scaled_sum<at::sub>, c10::AliasAnalysisKind::PURE_FUNCTION),
     torch::jit::Operator("ts_infer::mul(Tensor self, Tensor other) -> Tensor", product<at::mul>,
                          c10::AliasAnalysisKind::PURE_FUNCTION),
     torch::jit::Operator("ts_infer::div(Tensor self, Tensor other) -> Tensor", product<at::div>,
                          c10::AliasAnalysisKind::PURE_FUNCTION)});
const auto kAdd = c10::Symbol::fromQualString("ts_infer::add");

bool is_convolution(const Node* node) {
  const std::string kind = node->kind().toQualString();
  return kind.find("aten::") == 0 && kind.find("conv") != std::string::npos;
}

/// One for each dimension, or one for all.
std::optional<std::vector<std::int64_t>> numbers(torch::jit::Value* value, std::int64_t dims) {
  const auto constant = torch::jit::toIValue(value);
  if (!constant || !constant->isIntList()) return std::nullopt;
  std::vector<std::int64_t> list = constant->toIntVector();
  if (list.size() == 1) list.assign(dims, list[0]);
  if (static_cast<std::int64_t>(list.size()) != dims) return std::nullopt;
  return list;
}

/// Of a convolution that own kernels take.
std::optional<ConvolutionParameters> parameters_of(const Node* node) {
  const std::string kind = node->kind().toQualString();
  const bool general = kind == "aten::_convolution" || kind == "aten::convolution";
  const bool transposed =
      kind == "aten::conv_transpose1d" || kind.find("aten::conv_transpose2d") == 0;
  if (!general && !transposed && kind != "aten::conv1d" && kind != "aten::conv2d") {
    return std::nullopt;
  }
  const auto weight = torch::jit::toIValue(node->namedInput("weight"));
  const auto bias = torch::jit::toIValue(node->namedInput("bias"));
  if (!weight || !weight->isTensor() || !bias) return std::nullopt;
  const std::int64_t dims = weight->toTensor().dim() - 2;
  if (!is_float_on_host(weight->toTensor()) || weight->toTensor().numel() == 0 ||
      (dims != 1 && dims != 2)) {
    return std::nullopt;
  }
  if (bias->isTensor() && !is_float_on_host(bias->toTensor())) return std::nullopt;
  const auto groups = torch::jit::constant_as<std::int64_t>(node->namedInput("groups"));
  const auto turned = general ? torch::jit::constant_as<bool>(node->namedInput("transposed"))
                              : std::optional(transposed);
  const auto stride = numbers(node->namedInput("stride"), dims);
  const auto padding = numbers(node->namedInput("padding"), dims);
  const auto dilation = numbers(node->namedInput("dilation"), dims);
  const auto output_padding = general || transposed
                                  ? numbers(node->namedInput("output_padding"), dims)
                                  : std::optional(std::vector<std::int64_t>(dims, 0));
  if (!groups || !turned || !stride || !padding || !dilation || !output_padding) {
    return std::nullopt;
  }
  ConvolutionParameters parameters = {
      weight->toTensor(),
      bias->isTensor() ? std::optional(bias->toTensor()) : std::nullopt,
      *stride,
      *padding,
      *dilation,
      *groups,
      *turned,
      *output_padding,
      std::nullopt,
      general};
  if (!PackedConvolution::takes(parameters)) return std::nullopt;
  return parameters;
}

/// Of one number for each channel.
bool is_of_channels(const c10::IValue& value, std::int64_t channels) {
  return value.isTensor() && is_float_on_host(value.toTensor()) &&
         value.toTensor().sizes() == at::IntArrayRef(channels);
}

/// The batch norm with fixed statistics that is the only use of a convolution's output, in the same
/// block; nullptr for none.
std::pair<Node*, BatchNorm> only_norm(torch::jit::Value* value, std::int64_t channels) {
  if (value->uses().size() != 1) return {nullptr, {}};
  Node* const user = value->uses()[0].user;
  if (user->kind() != c10::aten::batch_norm || user->input(0) != value ||
      user->owningBlock() != value->node()->owningBlock()) {
    return {nullptr, {}};
  }
  const auto constant = [&](const char* name) {
    return torch::jit::toIValue(user->namedInput(name)).value_or(c10::IValue(0));
  };
  const c10::IValue weight = constant("weight");
  const c10::IValue bias = constant("bias");
  const c10::IValue mean = constant("running_mean");
  const c10::IValue variance = constant("running_var");
  const c10::IValue training = constant("training");
  const c10::IValue epsilon = constant("eps");
  if (!is_of_channels(mean, channels) || !is_of_channels(variance, channels) ||
      !(weight.isNone() || is_of_channels(weight, channels)) ||
      !(bias.isNone() || is_of_channels(bias, channels)) || !training.isBool() ||
      training.toBool() || !epsilon.isDouble()) {
    return {nullptr, {}};
  }
  return {user, BatchNorm{weight.toOptional<at::Tensor>(), bias.toOptional<at::Tensor>(),
                          mean.toTensor(), variance.toTensor(), epsilon.toDouble()}};
}

struct Sum {
  Node* node = nullptr;
  torch::jit::Value* other = nullptr;
  bool in_place = false;
};

/// The sum of a value, used nowhere else, with another tensor; without a node for none.
Sum only_sum(torch::jit::Value* value) {
  if (value->uses().size() != 1) return {};
  Node* user = value->uses()[0].user;
  const bool in_place = user->kind() == kAdd;
  if (!in_place &&
      !user->matches("aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor")) {
    return {};
  }
  if (user->owningBlock() != value->node()->owningBlock() || user->input(0) == user->input(1) ||
      (in_place && user->input(0) != value)) {
    return {};
  }
  const auto alpha = torch::jit::toIValue(user->input(2));
  if (!alpha || !alpha->isInt() || alpha->toInt() != 1) return {};
  return {user, user->input(0) == value ? user->input(1) : user->input(0), in_place};
}

bool pack_convolution(Node* node, torch::jit::AliasDb& aliases, bool bfloat16) {
  auto parameters = parameters_of(node);
  if (!parameters) return false;
  torch::jit::Value* input = node->namedInput("input");
  std::vector<torch::jit::Value*> inputs = {input};
  const std::int64_t outputs = parameters->weight.size(parameters->transposed ? 1 : 0);
  Node* place = node;
  Node* last = node;
  if (auto [norm, numbers] = only_norm(node->output(), outputs); norm) {
    last = norm;
    parameters->norm = std::move(numbers);
  }
  // The convolution moves to the sum, past whatever may write to its input.
  const Sum sum = only_sum(last->output());
  const bool adds = sum.node && !aliases.hasWriters(input);
  if (adds) {
    inputs.push_back(sum.other);
    place = last = sum.node;
  }
  const auto [user, activation] = only_activation(last->output());
  if (user) last = user;
  Node* packed = replace(place, last, "ts_infer::convolution", inputs, &aliases);
  put_into(packed, *parameters);
  packed->i_(kBehind, static_cast<std::int64_t>(activation));
  packed->i_(kAddsInPlace, adds && sum.in_place);
  packed->i_(kTakesBfloat16, bfloat16);
  packed->i_(kGivesBfloat16, 0);
  return true;
}

/// Operators whose output has the channels together where the inputs have.
bool keeps_channels_last(const std::string& kind) {
  static const std::unordered_set<std::string> kKinds = {"aten::relu",
                                                         "aten::relu6",
                                                         "aten::hardtanh",
                                                         "aten::hardswish",
                                                         "aten::silu",
                                                         "aten::sigmoid",
                                                         "aten::tanh",
                                                         "aten::gelu",
                                                         "aten::leaky_relu",
                                                         "aten::elu",
                                                         "aten::add",
                                                         "aten::sub",
                                                         "aten::mul",
                                                         "aten::div",
                                                         "ts_infer::add",
                                                         "ts_infer::sub",
                                                         "ts_infer::mul",
                                                         "ts_infer::div",
                                                         "aten::max_pool2d",
                                                         "aten::avg_pool2d",
                                                         "aten::batch_norm",
                                                         "aten::cat",
                                                         "aten::hardsigmoid",
                                                         "aten::adaptive_avg_pool2d",
                                                         "aten::upsample_nearest2d",
                                                         "aten::upsample_bilinear2d"};
  return kKinds.count(kind) > 0;
}

bool keeps_channels_last(const Node* node) {
  return keeps_channels_last(std::string(node->kind().toQualString()));
}

/// The values that have the channels together if convolutions give them so.
void find_behind(Block* block, std::unordered_set<const torch::jit::Value*>& behind) {
  for (Node* node : block->nodes()) {
    for (Block* inner : node->blocks()) find_behind(inner, behind);
    const bool keeps =
        keeps_channels_last(plain_kind(node)) || node->kind() == torch::jit::prim::ListConstruct;
    if (is_convolution(node) || (keeps && std::any_of(node->inputs().begin(), node->inputs().end(),
                                                      [&](const torch::jit::Value* input) {
                                                        return behind.count(input) > 0;
                                                      }))) {
      behind.insert(node->outputs().begin(), node->outputs().end());
    }
  }
}

/// Has what works in place behind a convolution, and nothing else sees, give its result, so that it
/// may be one with the convolution, or leave the channels together.
void remove_mutation(const std::shared_ptr<torch::jit::Graph>& graph) {
  std::unordered_set<const torch::jit::Value*> behind;
  find_behind(graph->block(), behind);
  std::unordered_set<const Node*> before;
  any_node(graph->block(), [&](const Node* node) {
    if (is_arithmetic(node)) before.insert(node);
    return false;
  });
  torch::jit::RemoveTensorMutation(graph, [&](Node* node) {
    return !node->inputs().empty() && behind.count(node->input(0)) > 0 &&
           plain_kind(node) != node->kind().toQualString() && keeps_channels_last(plain_kind(node));
  });
  change_nodes(graph->block(), [&](Node* node) {
    if (!is_arithmetic(node) || before.count(node) > 0) return false;
    const std::string kind = std::string("ts_infer::") + node->kind().toUnqualString();
    replace(node, node, kind.c_str(), node->inputs().vec());
    return true;
  });
}

bool holds_tensors(const torch::jit::Value* value) {
  return value->type()->isSubtypeOf(*c10::TensorType::get()) ||
         value->type()->isSubtypeOf(*c10::ListType::ofTensors());
}

/// A list of tensors that one node puts together and none else uses.
bool lists_for_cat(const Node* node, const torch::jit::AliasDb& aliases) {
  if (node->kind() != torch::jit::prim::ListConstruct || !holds_tensors(node->output())) {
    return false;
  }
  const auto& uses = node->output()->uses();
  return uses.size() == 1 && uses[0].user->kind() == c10::aten::cat &&
         uses[0].user->owningBlock() == node->owningBlock() && !aliases.hasWriters(uses[0].user);
}

/// What has the channels together and goes to anything else is made contiguous, as torch's own
/// convolutions give it.
void lay_out(Block* block, const torch::jit::AliasDb& aliases) {
  std::unordered_set<torch::jit::Value*> together;
  for (Node* node : block->nodes()) {
    for (Block* inner : node->blocks()) lay_out(inner, aliases);
    const auto is_together = [&](torch::jit::Value* input) { return together.count(input) > 0; };
    const bool all = std::all_of(
        node->inputs().begin(), node->inputs().end(),
        [&](torch::jit::Value* input) { return !holds_tensors(input) || is_together(input); });
    // Sums of plain numbers have no tensor among their inputs.
    const bool any = std::any_of(node->inputs().begin(), node->inputs().end(), is_together);
    if (node->kind() == kConvolution ||
        ((keeps_channels_last(node) || lists_for_cat(node, aliases)) && all && any &&
         !aliases.hasWriters(node))) {
      together.insert(node->output());
    }
  }
  const auto takes_it = [&](Node* user) {
    return user->kind() == kConvolution ||
           (user->outputs().size() == 1 && together.count(user->output()));
  };
  for (torch::jit::Value* value : together) {
    const bool written = aliases.hasWriters(value);
    std::vector<torch::jit::Use> others;
    for (const torch::jit::Use& use : value->uses()) {
      if (written || !takes_it(use.user)) others.push_back(use);
    }
    if (others.empty()) continue;
    torch::jit::Graph& graph = *value->owningGraph();
    const torch::jit::WithInsertPoint behind(value->node()->next());
    torch::jit::Value* contiguous = graph.insert(c10::aten::contiguous, {value});
    for (const torch::jit::Use& use : others) use.user->replaceInput(use.offset, contiguous);
  }
}

/// Operators that round to bfloat16 after, as well as before: they choose among their inputs.
bool chooses(const Node* node) {
  static const std::unordered_set<std::string> kKinds = {"aten::relu", "aten::max_pool2d",
                                                         "aten::cat", "aten::upsample_nearest2d"};
  return kKinds.count(node->kind().toQualString()) > 0;
}

/// What only convolutions read that multiply bfloat16, or add it, is given in that: it takes half
/// the memory, and is rounded once.
void give_bfloat16(Block* block, const torch::jit::AliasDb& aliases) {
  std::unordered_set<torch::jit::Value*> narrow;
  for (Node* node : block->nodes()) {
    for (Block* inner : node->blocks()) give_bfloat16(inner, aliases);
    if (node->kind() == kConvolution || lists_for_cat(node, aliases) ||
        (chooses(node) && !aliases.hasWriters(node))) {
      narrow.insert(node->output());
    }
  }
  const auto takes_it = [&](const torch::jit::Use& use) {
    if (use.user->kind() != kConvolution) {
      return use.user->outputs().size() == 1 && narrow.count(use.user->output()) > 0;
    }
    return use.offset > 0 || PackedConvolution::multiplies_bfloat16(parameters_in(use.user));
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (auto value = narrow.begin(); value != narrow.end();) {
      const auto& uses = (*value)->uses();
      const bool all = std::all_of(uses.begin(), uses.end(), takes_it);
      changed = changed || !all;
      value = all ? std::next(value) : narrow.erase(value);
    }
  }
  for (torch::jit::Value* value : narrow) {
    if (value->node()->kind() == kConvolution) value->node()->i_(kGivesBfloat16, 1);
  }
}

}  // namespace

int pack_convolutions(std::shared_ptr<torch::jit::Graph>& graph, bool bfloat16) {
  // What was converted to oneDNN's layout when it was saved stays so.
  const bool has_onednn = any_node(graph->block(), [](const Node* node) {
    return std::string(node->kind().toQualString()).find("mkldnn") != std::string::npos;
  });
  if (!any_node(graph->block(), is_convolution) || has_onednn) return 0;
  remove_mutation(graph);
  torch::jit::AliasDb aliases(graph);
  const int count = change_nodes(
      graph->block(), [&](Node* node) { return pack_convolution(node, aliases, bfloat16); });
  torch::jit::EliminateDeadCode(graph);
  lay_out(graph->block(), torch::jit::AliasDb(graph));
  if (bfloat16) give_bfloat16(graph->block(), torch::jit::AliasDb(graph));
  return count;
}

}  // namespace ts_infer
