#include "engine/lstm.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/packed_linear.h"
#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

constexpr std::int64_t kGates = 4;

const auto kWeights = c10::Symbol::attr("weights");
const auto kBiases = c10::Symbol::attr("biases");
const auto kLayers = c10::Symbol::attr("layers");
const auto kDirections = c10::Symbol::attr("directions");
const auto kBatchFirst = c10::Symbol::attr("batch_first");

/// Packs rows of [gate][hidden][...] as [block][gate][kBlock][...].
at::Tensor in_blocks(const at::Tensor& rows, std::int64_t hidden) {
  const std::int64_t blocks = blocks_of(hidden);
  const std::int64_t width = rows.numel() / (kGates * hidden);
  at::Tensor padded = at::zeros({kGates, blocks * kBlock, width});
  padded.narrow(1, 0, hidden).copy_(rows.reshape({kGates, hidden, width}));
  return padded.reshape({kGates, blocks, kBlock, width}).transpose(0, 1).contiguous();
}

/// Of one direction of one layer; units are padded to whole blocks.
struct Packed {
  PackedLinear gates;  // of the input
  at::Tensor hidden;   // [block][hidden][gate][kBlock]
};

Packed pack(const at::Tensor& input, const at::Tensor& hidden_state, const at::Tensor& biases) {
  const std::int64_t hidden = hidden_state.size(1);
  return {PackedLinear(in_blocks(input, hidden).reshape({-1, input.size(1)}),
                       in_blocks(biases, hidden).reshape({-1})),
          in_blocks(hidden_state, hidden).permute({0, 3, 1, 2}).contiguous()};
}

struct Layout {
  std::int64_t rows, steps;
  bool batch_first;

  std::int64_t row_stride(std::int64_t width) const { return batch_first ? steps * width : width; }
  std::int64_t step_stride(std::int64_t width) const { return batch_first ? width : rows * width; }
};

/// One direction of one layer; writes to `output`, a part of the layer's, returns (h_n, c_n).
std::pair<at::Tensor, at::Tensor> run_direction(const at::Tensor& input, const at::Tensor& h,
                                                const at::Tensor& c, const Packed& packed,
                                                const Layout& layout, bool reverse,
                                                const at::Tensor& output) {
  const std::int64_t hidden = h.size(-1);
  const std::int64_t padded = blocks_of(hidden) * kBlock;
  const at::Tensor gates = packed.gates(input, Activation::kNone);
  const at::Tensor first = h.contiguous();
  at::Tensor cells = at::zeros({layout.rows, padded}, c.options());
  cells.narrow(1, 0, hidden).copy_(c);

  LstmKernel kernel;
  kernel.rows = layout.rows;
  kernel.steps = layout.steps;
  kernel.hidden = hidden;
  kernel.reverse = reverse;
  kernel.weights = packed.hidden.const_data_ptr<float>();
  kernel.gates = gates.const_data_ptr<float>();
  kernel.gates_row = layout.row_stride(kGates * padded);
  kernel.gates_step = layout.step_stride(kGates * padded);
  kernel.first_output = first.const_data_ptr<float>();
  kernel.cells = cells.mutable_data_ptr<float>();
  kernel.output = output.mutable_data_ptr<float>();
  kernel.output_row = output.stride(layout.batch_first ? 0 : 1);
  kernel.output_step = output.stride(layout.batch_first ? 1 : 0);
  run(kernel);

  const at::Tensor last = output.select(layout.batch_first ? 1 : 0, reverse ? 0 : layout.steps - 1);
  return {last, cells.narrow(1, 0, hidden)};
}

class Lstm {
 public:
  explicit Lstm(const Node* node)
      : weights_(node->ts(kWeights)),
        biases_(node->i(kBiases) != 0),
        layers_(node->i(kLayers)),
        directions_(node->i(kDirections)),
        batch_first_(node->i(kBatchFirst) != 0) {
    const std::size_t each = weights_.size() / (layers_ * directions_);
    for (std::size_t i = 0; i < weights_.size(); i += each) {
      const at::Tensor bias = biases_ ? weights_[i + 2] + weights_[i + 3]
                                      : at::zeros({weights_[i].size(0)}, weights_[i].options());
      packed_.push_back(pack(weights_[i], weights_[i + 1], bias));
    }
  }

  void operator()(Stack& stack) const {
    const auto states = torch::jit::pop(stack).toTensorVector();
    const at::Tensor input = torch::jit::pop(stack).toTensor();
    auto [output, h_n, c_n] =
        fits(input, states) ? run_packed(input, states[0], states[1]) : run_torchs(input, states);
    torch::jit::push(stack, std::move(output), std::move(h_n), std::move(c_n));
  }

 private:
  using Outputs = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

  /// What cannot be right at all is torch's to refuse.
  bool fits(const at::Tensor& input, const std::vector<at::Tensor>& states) const {
    if (!is_float_on_host(input) || input.dim() != 3 || input.numel() == 0) return false;
    const std::int64_t rows = input.size(batch_first_ ? 0 : 1);
    if (rows > kRowsAtOnce || input.size(2) != packed_[0].gates.inputs()) return false;
    if (states.size() != 2) return false;
    const std::int64_t hidden = packed_[0].hidden.size(1);
    for (const at::Tensor& state : states) {
      if (!is_float_on_host(state)) return false;
      if (state.sizes() != at::IntArrayRef{layers_ * directions_, rows, hidden}) return false;
    }
    return true;
  }

  Outputs run_packed(at::Tensor input, const at::Tensor& h_0, const at::Tensor& c_0) const {
    const Layout layout = {input.size(batch_first_ ? 0 : 1), input.size(batch_first_ ? 1 : 0),
                           batch_first_};
    const std::int64_t hidden = h_0.size(2);
    std::vector<at::Tensor> h;
    std::vector<at::Tensor> c;
    for (std::int64_t layer = 0; layer < layers_; ++layer) {
      const at::Tensor output =
          at::empty({input.size(0), input.size(1), directions_ * hidden}, input.options());
      for (std::int64_t direction = 0; direction < directions_; ++direction) {
        const std::int64_t i = layer * directions_ + direction;
        auto [h_n, c_n] =
            run_direction(input, h_0[i], c_0[i], packed_[i], layout, /*reverse=*/direction == 1,
                          output.narrow(2, direction * hidden, hidden));
        h.push_back(std::move(h_n));
        c.push_back(std::move(c_n));
      }
      input = output;
    }
    return {input, at::stack(h), at::stack(c)};
  }

  Outputs run_torchs(const at::Tensor& input, const std::vector<at::Tensor>& states) const {
    return at::lstm(input, states, weights_, biases_, layers_, /*dropout=*/0.0, /*train=*/false,
                    /*bidirectional=*/directions_ == 2, batch_first_);
  }

  std::vector<at::Tensor> weights_;
  bool biases_;
  std::int64_t layers_;
  std::int64_t directions_;
  bool batch_first_;
  std::vector<Packed> packed_;  // of each layer's directions
};

const torch::jit::RegisterOperators kLstmOperator({torch::jit::Operator(
    "ts_infer::lstm(...) -> (Tensor, Tensor, Tensor)",
    [](const Node* node) -> torch::jit::Operation { return Lstm(node); },
    c10::AliasAnalysisKind::PURE_FUNCTION)});

/// The tensors of a list of constants.
std::optional<std::vector<at::Tensor>> constant_tensors(torch::jit::Value* list) {
  if (const auto constant = torch::jit::toIValue(list)) {
    return constant->isTensorList() ? std::optional(constant->toTensorVector()) : std::nullopt;
  }
  if (list->node()->kind() != torch::jit::prim::ListConstruct) return std::nullopt;
  std::vector<at::Tensor> tensors;
  for (torch::jit::Value* item : list->node()->inputs()) {
    const auto constant = torch::jit::toIValue(item);
    if (!constant || !constant->isTensor()) return std::nullopt;
    tensors.push_back(constant->toTensor());
  }
  return tensors;
}

bool pack_lstm(Node* node) {
  if (!node->matches("aten::lstm.input(Tensor input, Tensor[] hx, Tensor[] params, bool "
                     "has_biases, int num_layers, float dropout, bool train, bool bidirectional, "
                     "bool batch_first) -> (Tensor, Tensor, Tensor)")) {
    return false;
  }
  const auto weights = constant_tensors(node->namedInput("params"));
  const auto biases = torch::jit::constant_as<bool>(node->namedInput("has_biases"));
  const auto layers = torch::jit::constant_as<std::int64_t>(node->namedInput("num_layers"));
  const auto train = torch::jit::constant_as<bool>(node->namedInput("train"));
  const auto bidirectional = torch::jit::constant_as<bool>(node->namedInput("bidirectional"));
  const auto batch_first = torch::jit::constant_as<bool>(node->namedInput("batch_first"));
  if (!weights || !biases || !layers || !train || !bidirectional || !batch_first) return false;
  const std::int64_t directions = *bidirectional ? 2 : 1;
  const std::size_t each = *biases ? 4 : 2;  // one more with a projection, which is torch's
  if (*train || weights->empty() || weights->size() != each * *layers * directions) return false;
  if (!std::all_of(weights->begin(), weights->end(), is_float_on_host)) return false;

  Node* packed =
      replace(node, node, "ts_infer::lstm", {node->namedInput("input"), node->namedInput("hx")});
  packed->ts_(kWeights, *weights);
  packed->i_(kBiases, *biases);
  packed->i_(kLayers, *layers);
  packed->i_(kDirections, directions);
  packed->i_(kBatchFirst, *batch_first);
  return true;
}

}  // namespace

int pack_lstms(const std::shared_ptr<torch::jit::Graph>& graph) {
  return change_nodes(graph->block(), pack_lstm);
}

}  // namespace ts_infer
