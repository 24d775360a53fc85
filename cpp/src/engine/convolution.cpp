#include "engine/convolution.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/frozen_conv_folding.h>
#include <torch/csrc/jit/passes/remove_mutation.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "engine/packed_linear.h"
#include "engine/pass.h"
#include "engine/threads.h"

namespace ts_infer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

const auto kKernel = c10::Symbol::attr("kernel");  // the weights
const auto kShift = c10::Symbol::attr("shift");    // the bias; absent where there is none
const auto kStride = c10::Symbol::attr("stride");
const auto kPadding = c10::Symbol::attr("padding");
const auto kDilation = c10::Symbol::attr("dilation");
const auto kBehind = c10::Symbol::attr("behind");  // the activation
const auto kLow = c10::Symbol::attr("low");        // whether in bfloat16

/// Of a convolution that pack_convolutions() takes.
struct Parameters {
  at::Tensor weight;  // [output, channel, y, x] or [output, channel, x]
  std::optional<at::Tensor> bias;
  std::vector<std::int64_t> stride, padding, dilation;
};

class Convolution {
 public:
  explicit Convolution(const Node* node)
      : parameters_{node->t(kKernel),
                    node->hasAttribute(kShift) ? std::optional(node->t(kShift)) : std::nullopt,
                    node->is(kStride), node->is(kPadding), node->is(kDilation)},
        activation_(static_cast<Activation>(node->i(kBehind))),
        adds_(node->inputs().size() == 2) {
    const at::Tensor planes = plane() ? parameters_.weight : parameters_.weight.unsqueeze(2);
    kernel_.outputs = kernel_.output_pixel = planes.size(0);
    kernel_.bfloat16 = node->i(kLow) != 0 && planes.size(1) % 2 == 0;
    kernel_.channels = kernel_.bfloat16 ? planes.size(1) / 2 : planes.size(1);
    kernel_.kernel_height = planes.size(2);
    kernel_.kernel_width = planes.size(3);
    kernel_.stride_y = plane() ? parameters_.stride[0] : 1;
    kernel_.stride_x = parameters_.stride.back();
    kernel_.padding_y = plane() ? parameters_.padding[0] : 0;
    kernel_.padding_x = parameters_.padding.back();
    kernel_.dilation_y = plane() ? parameters_.dilation[0] : 1;
    kernel_.dilation_x = parameters_.dilation.back();
    whole_lines_ = kernel_.kernel_width > 1 && kernel_.dilation_x == 1 &&
                   kernel_.kernel_width * planes.size(1) <= kMostOfLine;
    kernel_.inputs = kernel_.channels * (whole_lines_ ? kernel_.kernel_width : 1);
    zeros_ = at::zeros({kernel_.inputs});
    packed_ = pack_weights(planes.permute({0, 2, 3, 1}).reshape({planes.size(0), -1}),
                           parameters_.bias, kernel_.bfloat16);
    kernel_.weights = packed_.weights.const_data_ptr<float>();
    kernel_.biases = packed_.biases.const_data_ptr<float>();
    kernel_.zeros = zeros_.const_data_ptr<float>();
  }

  void operator()(Stack& stack) const {
    at::Tensor added;
    if (adds_) added = torch::jit::pop(stack).toTensor();
    const at::Tensor input = torch::jit::pop(stack).toTensor();
    torch::jit::push(stack, fits(input) ? run_own(input, added) : run_torchs(input, added));
  }

 private:
  static constexpr std::int64_t kMostOfLine = 64;

  bool plane() const { return parameters_.weight.dim() == 4; }

  static std::int64_t places(std::int64_t size, std::int64_t kernel, std::int64_t stride,
                             std::int64_t padding, std::int64_t dilation) {
    const std::int64_t last = size + 2 * padding - dilation * (kernel - 1) - 1;
    return last < 0 ? 0 : last / stride + 1;
  }

  std::int64_t output_height(std::int64_t height) const {
    return places(height, kernel_.kernel_height, kernel_.stride_y, kernel_.padding_y,
                  kernel_.dilation_y);
  }
  std::int64_t output_width(std::int64_t width) const {
    return places(width, kernel_.kernel_width, kernel_.stride_x, kernel_.padding_x,
                  kernel_.dilation_x);
  }

  /// What cannot be right at all is torch's to refuse.
  bool fits(const at::Tensor& input) const {
    if (!is_float_on_host(input) || input.dim() != parameters_.weight.dim()) return false;
    if (input.size(1) != parameters_.weight.size(1) || input.numel() == 0 || !many_rows_pay())
      return false;
    return output_height(plane() ? input.size(2) : 1) > 0 && output_width(input.size(-1)) > 0;
  }

  at::Tensor run_own(const at::Tensor& given, const at::Tensor& added) const {
    const at::Tensor planes = plane() ? given : given.unsqueeze(2);
    const auto type = kernel_.bfloat16 ? at::kBFloat16 : at::kFloat;
    const at::Tensor input = whole_lines_ && kernel_.padding_x > 0
                                 ? padded(planes, type)
                                 : planes.contiguous(at::MemoryFormat::ChannelsLast).to(type);
    ConvolutionKernel kernel = kernel_;
    kernel.output_height = output_height(planes.size(2));
    kernel.output_width = output_width(planes.size(3));
    if (whole_lines_) {
      kernel.padding_x = 0;
      kernel.kernel_width = 1;
    }
    kernel.height = input.size(2);
    kernel.width = input.size(3);

    const c10::DimVector sizes = {input.size(0), kernel.outputs, kernel.output_height,
                                  kernel.output_width};
    at::Tensor output =
        at::empty(sizes, given.options().memory_format(at::MemoryFormat::ChannelsLast));
    const at::Tensor result = plane() ? output : output.squeeze(2);
    const bool same = added.defined() && is_float_on_host(added) && added.sizes() == result.sizes();
    at::Tensor addend;
    if (same) {
      addend = (plane() ? added : added.unsqueeze(2)).contiguous(at::MemoryFormat::ChannelsLast);
    }
    const bool later = added.defined() && !same;
    kernel.activation = later ? Activation::kNone : activation_;
    run_images(kernel, input, addend, output);
    return later ? activate(at::add(result, added), activation_) : result;
  }

  /// Channels last, with zeros on both sides of each line.
  at::Tensor padded(const at::Tensor& planes, at::ScalarType type) const {
    const std::int64_t width = planes.size(3);
    const std::int64_t side = kernel_.padding_x;
    at::Tensor image =
        at::empty({planes.size(0), planes.size(1), planes.size(2), width + 2 * side},
                  planes.options().dtype(type).memory_format(at::MemoryFormat::ChannelsLast));
    image.narrow(3, 0, side).zero_();
    image.narrow(3, side, width).copy_(planes);
    image.narrow(3, side + width, side).zero_();
    return image;
  }

  static void run_images(ConvolutionKernel kernel, const at::Tensor& input,
                         const at::Tensor& addend, at::Tensor& output) {
    const std::int64_t pixels = kernel.output_height * kernel.output_width;
    const std::int64_t image = kernel.height * kernel.width * kernel.channels;
    const std::int64_t taps = kernel.kernel_height * kernel.kernel_width * kernel.inputs;
    for (std::int64_t i = 0; i < input.size(0); ++i) {
      kernel.input = static_cast<const float*>(input.const_data_ptr()) + i * image;
      kernel.output = output.mutable_data_ptr<float>() + i * pixels * kernel.outputs;
      kernel.added =
          addend.defined() ? addend.const_data_ptr<float>() + i * pixels * kernel.outputs : nullptr;
      share(pixels, kernel.outputs, taps,
            [&](std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last) {
              ConvolutionKernel part = kernel;
              part.outputs = last - first;
              part.weights += first * taps;
              part.biases += first;
              part.output += first;
              if (part.added) part.added += first;
              run(part, begin, end);
            });
    }
  }

  at::Tensor run_torchs(const at::Tensor& input, const at::Tensor& added) const {
    const Parameters& p = parameters_;
    at::Tensor output = plane()
                            ? at::conv2d(input, p.weight, p.bias, p.stride, p.padding, p.dilation)
                            : at::conv1d(input, p.weight, p.bias, p.stride, p.padding, p.dilation);
    if (added.defined()) output = at::add(output, added);
    return activate(output, activation_);
  }

  Parameters parameters_;
  Activation activation_;
  bool adds_;
  PackedWeights packed_;
  at::Tensor zeros_;  // as many as the kernel reads at a place
  // With few channels a line of the kernel is multiplied at a time, over a padded image.
  bool whole_lines_;
  ConvolutionKernel kernel_{};  // all but what depends on the image
};

const torch::jit::RegisterOperators kConvolutionOperator({torch::jit::Operator(
    "ts_infer::convolution(...) -> Tensor",
    [](const Node* node) -> torch::jit::Operation { return Convolution(node); },
    c10::AliasAnalysisKind::PURE_FUNCTION)});
const auto kConvolution = c10::Symbol::fromQualString("ts_infer::convolution");

bool is_convolution(const Node* node) {
  const std::string kind = node->kind().toQualString();
  return kind.find("aten::") == 0 && kind.find("conv") != std::string::npos;
}

/// Of one or two numbers, for as many dimensions.
std::optional<std::vector<std::int64_t>> numbers(torch::jit::Value* value, std::int64_t dims) {
  const auto constant = torch::jit::toIValue(value);
  if (!constant || !constant->isIntList()) return std::nullopt;
  std::vector<std::int64_t> list = constant->toIntVector();
  if (static_cast<std::int64_t>(list.size()) != dims) list.assign(dims, list.at(0));
  return list;
}

std::optional<Parameters> parameters_of(const Node* node) {
  const std::string kind = node->kind().toQualString();
  const bool general = kind == "aten::_convolution" || kind == "aten::convolution";
  if (!general && kind != "aten::conv1d" && kind != "aten::conv2d") return std::nullopt;
  const auto weight = torch::jit::toIValue(node->namedInput("weight"));
  const auto bias = torch::jit::toIValue(node->namedInput("bias"));
  if (!weight || !weight->isTensor() || !bias) return std::nullopt;
  const std::int64_t dims = weight->toTensor().dim() - 2;
  if (!is_float_on_host(weight->toTensor()) || weight->toTensor().numel() == 0 ||
      (dims != 1 && dims != 2)) {
    return std::nullopt;
  }
  if (bias->isTensor() && !is_float_on_host(bias->toTensor())) return std::nullopt;
  if (torch::jit::constant_as<std::int64_t>(node->namedInput("groups")) != 1) return std::nullopt;
  if (general && torch::jit::constant_as<bool>(node->namedInput("transposed")) != false) {
    return std::nullopt;
  }
  const auto stride = numbers(node->namedInput("stride"), dims);
  const auto padding = numbers(node->namedInput("padding"), dims);
  const auto dilation = numbers(node->namedInput("dilation"), dims);
  if (!stride || !padding || !dilation) return std::nullopt;
  return Parameters{weight->toTensor(),
                    bias->isTensor() ? std::optional(bias->toTensor()) : std::nullopt, *stride,
                    *padding, *dilation};
}

/// The sum of a value, used nowhere else, with another tensor: the node and the other tensor.
std::pair<Node*, torch::jit::Value*> only_sum(torch::jit::Value* value) {
  if (value->uses().size() != 1) return {nullptr, nullptr};
  Node* user = value->uses()[0].user;
  if (!user->matches("aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor") ||
      user->owningBlock() != value->node()->owningBlock() || user->input(0) == user->input(1)) {
    return {nullptr, nullptr};
  }
  const auto alpha = torch::jit::toIValue(user->namedInput("alpha"));
  if (!alpha || !alpha->isInt() || alpha->toInt() != 1) return {nullptr, nullptr};
  return {user, user->input(0) == value ? user->input(1) : user->input(0)};
}

bool pack_convolution(Node* node, const torch::jit::AliasDb& aliases, bool bfloat16) {
  const auto parameters = parameters_of(node);
  if (!parameters) return false;
  torch::jit::Value* input = node->namedInput("input");
  std::vector<torch::jit::Value*> inputs = {input};
  Node* place = node;
  Node* last = node;
  // The convolution moves to the sum, past whatever may write to its input.
  if (const auto [sum, other] = only_sum(node->output()); sum && !aliases.hasWriters(input)) {
    inputs.push_back(other);
    place = last = sum;
  }
  const auto [user, activation] = only_activation(last->output());
  if (user) last = user;
  Node* packed = replace(place, last, "ts_infer::convolution", inputs);
  packed->t_(kKernel, parameters->weight);
  if (parameters->bias) packed->t_(kShift, *parameters->bias);
  packed->is_(kStride, parameters->stride);
  packed->is_(kPadding, parameters->padding);
  packed->is_(kDilation, parameters->dilation);
  packed->i_(kBehind, static_cast<std::int64_t>(activation));
  packed->i_(kLow, bfloat16);
  return true;
}

/// Operators whose output has the channels together where the inputs have.
bool keeps_channels_last(const Node* node) {
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
                                                         "aten::max_pool2d",
                                                         "aten::avg_pool2d",
                                                         "aten::batch_norm",
                                                         "aten::hardsigmoid",
                                                         "aten::adaptive_avg_pool2d",
                                                         "aten::upsample_nearest2d",
                                                         "aten::upsample_bilinear2d"};
  return kKinds.count(node->kind().toQualString()) > 0;
}

/// What has the channels together and goes to anything else is made contiguous, as torch's own
/// convolutions give it.
void lay_out(torch::jit::Block* block, const torch::jit::AliasDb& aliases) {
  std::unordered_set<torch::jit::Value*> together;
  for (Node* node : block->nodes()) {
    for (torch::jit::Block* inner : node->blocks()) lay_out(inner, aliases);
    const bool all =
        std::all_of(node->inputs().begin(), node->inputs().end(), [&](torch::jit::Value* input) {
          return !input->type()->isSubtypeOf(*c10::TensorType::get()) || together.count(input);
        });
    if (node->kind() == kConvolution ||
        (keeps_channels_last(node) && all && !aliases.hasWriters(node))) {
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

}  // namespace

bool packs_all_convolutions(const torch::jit::Graph& graph) {
  return any_node(graph.block(), is_convolution) && !any_node(graph.block(), [](const Node* node) {
           // What torch's own passes converted for oneDNN stays so.
           const std::string kind = node->kind().toQualString();
           return kind.find("mkldnn") != std::string::npos ||
                  (is_convolution(node) && !parameters_of(node));
         });
}

int pack_convolutions(std::shared_ptr<torch::jit::Graph>& graph, bool bfloat16) {
  torch::jit::FoldFrozenConvBatchnorm(graph);
  torch::jit::FoldFrozenConvAddOrSub(graph);
  torch::jit::FoldFrozenConvMulOrDiv(graph);
  torch::jit::RemoveTensorMutation(graph);
  const torch::jit::AliasDb aliases(graph);
  const int count = change_nodes(
      graph->block(), [&](Node* node) { return pack_convolution(node, aliases, bfloat16); });
  torch::jit::EliminateDeadCode(graph);
  lay_out(graph->block(), torch::jit::AliasDb(graph));
  return count;
}

}  // namespace ts_infer
