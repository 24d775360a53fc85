#include "engine/recurrent.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "engine/packed_linear.h"
#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::Node;
using torch::jit::Stack;

const auto kCell = c10::Symbol::attr("cell");
const auto kIsOneCell = c10::Symbol::attr("is_one_cell");  // one step of one layer
const auto kWeights = c10::Symbol::attr("weights");
const auto kBiases = c10::Symbol::attr("biases");
const auto kLayers = c10::Symbol::attr("layers");
const auto kDirections = c10::Symbol::attr("directions");
const auto kBatchFirst = c10::Symbol::attr("batch_first");

/// As torch's operators have them.
struct RecurrentParameters {
  Cell cell;
  bool is_one_cell;
  std::vector<at::Tensor> weights;  // of each layer's directions: input, hidden state, biases
  bool biases;
  std::int64_t layers;
  std::int64_t directions;
  bool batch_first;
};

/// Packs rows of [gate][hidden][...] as [block][gate][kBlock][...].
at::Tensor in_blocks(const at::Tensor& rows, std::int64_t gates) {
  const std::int64_t hidden = rows.size(0) / gates;
  const std::int64_t blocks = blocks_of(hidden);
  const std::int64_t width = rows.numel() / rows.size(0);
  at::Tensor padded = at::zeros({gates, blocks * kBlock, width});
  padded.narrow(1, 0, hidden).copy_(rows.reshape({gates, hidden, width}));
  return padded.reshape({gates, blocks, kBlock, width}).transpose(0, 1).contiguous();
}

/// One direction of one layer; units are padded to whole blocks.
struct PackedDirection {
  PackedLinear gates;  // of the input
  at::Tensor hidden;   // [block][hidden][gate][kBlock]
  at::Tensor new_bias;
};

/// @param weights of the input, of the hidden state, and the biases of both, if there are any
PackedDirection pack_direction(Cell cell, const at::Tensor* weights, bool biases) {
  const std::int64_t gates = gates_of(cell);
  const at::Tensor none = at::zeros({weights[0].size(0)}, weights[0].options());
  at::Tensor input_bias = biases ? weights[2] : none;
  at::Tensor hidden_bias = biases ? weights[3].clone() : none;
  at::Tensor new_bias;
  if (cell == Cell::kGru) {  // of the last gate it is multiplied by another one first
    at::Tensor last = hidden_bias.chunk(gates)[2];
    new_bias = in_blocks(last, 1).reshape({-1});
    last.zero_();
  }
  return {PackedLinear(in_blocks(weights[0], gates).reshape({-1, weights[0].size(1)}),
                       in_blocks(input_bias + hidden_bias, gates).reshape({-1})),
          in_blocks(weights[1], gates).permute({0, 3, 1, 2}).contiguous(), new_bias};
}

struct Layout {
  std::int64_t rows, steps;
  bool batch_first;

  std::int64_t row_stride(std::int64_t width) const { return batch_first ? steps * width : width; }
  std::int64_t step_stride(std::int64_t width) const { return batch_first ? width : rows * width; }
};

/// Writes to `output`, a part of the layer's; returns h_n, and c_n of an LSTM.
std::pair<at::Tensor, at::Tensor> run_direction(Cell cell, const at::Tensor& input,
                                                const at::Tensor& h, const at::Tensor& c,
                                                const PackedDirection& packed, const Layout& layout,
                                                bool reverse, const at::Tensor& output) {
  const std::int64_t hidden = h.size(-1);
  const std::int64_t padded = blocks_of(hidden) * kBlock;
  const at::Tensor gates = packed.gates(input, Activation::kNone);
  const at::Tensor first = h.contiguous();

  RecurrentKernel kernel{};
  kernel.cell = cell;
  kernel.rows = layout.rows;
  kernel.steps = layout.steps;
  kernel.hidden = hidden;
  kernel.reverse = reverse;
  kernel.weights = packed.hidden.const_data_ptr<float>();
  kernel.gates = gates.const_data_ptr<float>();
  kernel.gates_row = layout.row_stride(gates_of(cell) * padded);
  kernel.gates_step = layout.step_stride(gates_of(cell) * padded);
  kernel.first_output = first.const_data_ptr<float>();
  kernel.output = output.mutable_data_ptr<float>();
  kernel.output_row = output.stride(layout.batch_first ? 0 : 1);
  kernel.output_step = output.stride(layout.batch_first ? 1 : 0);
  at::Tensor cells;
  if (cell == Cell::kLstm) {
    cells = at::zeros({layout.rows, padded}, c.options());
    cells.narrow(1, 0, hidden).copy_(c);
    kernel.cells = cells.mutable_data_ptr<float>();
    cells = cells.narrow(1, 0, hidden);
  } else {
    kernel.new_bias = packed.new_bias.const_data_ptr<float>();
  }
  run(kernel);

  const at::Tensor last = output.select(layout.batch_first ? 1 : 0, reverse ? 0 : layout.steps - 1);
  return {last, cells};
}

RecurrentParameters parameters_of_recurrent(const Node* node) {
  return {static_cast<Cell>(node->i(kCell)),
          node->i(kIsOneCell) != 0,
          node->ts(kWeights),
          node->i(kBiases) != 0,
          node->i(kLayers),
          node->i(kDirections),
          node->i(kBatchFirst) != 0};
}

class Recurrent {
 public:
  explicit Recurrent(const Node* node) : p_(parameters_of_recurrent(node)) {
    const std::size_t each = p_.biases ? 4 : 2;
    for (std::size_t i = 0; i < p_.weights.size(); i += each) {
      packed_.push_back(pack_direction(p_.cell, &p_.weights[i], p_.biases));
    }
  }

  void operator()(Stack& stack) const {
    const c10::IValue popped = torch::jit::pop(stack);
    const States states = popped.isTensor() ? States{popped.toTensor()} : popped.toTensorVector();
    const at::Tensor input = torch::jit::pop(stack).toTensor();
    for (at::Tensor& result :
         fits(input, states) ? run_packed(input, states) : run_torchs(input, states)) {
      stack.emplace_back(std::move(result));
    }
  }

 private:
  using States = std::vector<at::Tensor>;   // h, and c of an LSTM
  using Results = std::vector<at::Tensor>;  // the output, unless this is one cell, and states

  /// What cannot be right at all is torch's to refuse.
  bool fits(const at::Tensor& input, const States& states) const {
    if (!is_float_on_host(input) || input.dim() != (p_.is_one_cell ? 2 : 3)) return false;
    const std::int64_t rows = input.size(p_.is_one_cell || p_.batch_first ? 0 : 1);
    if (input.numel() == 0 || rows > kRowsAtOnce) return false;
    if (input.size(-1) != packed_[0].gates.inputs()) return false;
    if (states.size() != (p_.cell == Cell::kLstm ? 2 : 1)) return false;
    const std::int64_t hidden = packed_[0].hidden.size(1);
    const std::array<std::int64_t, 3> all = {p_.layers * p_.directions, rows, hidden};
    const at::IntArrayRef sizes = at::IntArrayRef(all).slice(p_.is_one_cell ? 1 : 0);
    return std::all_of(states.begin(), states.end(), [&](const at::Tensor& state) {
      return is_float_on_host(state) && state.sizes() == sizes;
    });
  }

  Results run_packed(const at::Tensor& input, const States& states) const {
    if (!p_.is_one_cell) return run_layers(input, states);
    States layers;
    for (const at::Tensor& state : states) layers.push_back(state.unsqueeze(0));
    Results results = run_layers(input.unsqueeze(0), layers);
    results.erase(results.begin());
    for (at::Tensor& result : results) result = result.squeeze(0);
    return results;
  }

  Results run_layers(at::Tensor input, const States& states) const {
    const Layout layout = {input.size(p_.batch_first ? 0 : 1), input.size(p_.batch_first ? 1 : 0),
                           p_.batch_first};
    const std::int64_t hidden = packed_[0].hidden.size(1);
    std::vector<at::Tensor> h;
    std::vector<at::Tensor> c;
    for (std::int64_t layer = 0; layer < p_.layers; ++layer) {
      const std::int64_t width = p_.directions * hidden;
      // In memory step by step, as torch's own.
      const bool by_step = p_.batch_first && layer + 1 == p_.layers;
      const at::Tensor output =
          by_step ? at::empty({layout.steps, layout.rows, width}, input.options()).transpose(0, 1)
                  : at::empty({input.size(0), input.size(1), width}, input.options());
      for (std::int64_t direction = 0; direction < p_.directions; ++direction) {
        const std::int64_t i = layer * p_.directions + direction;
        auto [h_n, c_n] =
            run_direction(p_.cell, input, states[0][i],
                          states.size() > 1 ? states[1][i] : at::Tensor(), packed_[i], layout,
                          /*reverse=*/direction == 1, output.narrow(2, direction * hidden, hidden));
        h.push_back(std::move(h_n));
        c.push_back(std::move(c_n));
      }
      input = output;
    }
    Results results = {input, at::stack(h)};
    if (p_.cell == Cell::kLstm) results.push_back(at::stack(c));
    return results;
  }

  Results run_torchs(const at::Tensor& input, const States& states) const {
    const std::vector<at::Tensor>& w = p_.weights;
    const bool two_ways = p_.directions == 2;
    if (p_.is_one_cell) {
      const auto bias = [&](std::size_t i) {
        return p_.biases ? std::optional(w[i]) : std::nullopt;
      };
      if (p_.cell == Cell::kGru) {
        return {at::gru_cell(input, states.at(0), w[0], w[1], bias(2), bias(3))};
      }
      auto [h, c] = at::lstm_cell(input, states, w[0], w[1], bias(2), bias(3));
      return {h, c};
    }
    if (p_.cell == Cell::kGru) {
      auto [output, h] = at::gru(input, states.at(0), w, p_.biases, p_.layers, /*dropout=*/0.0,
                                 /*train=*/false, two_ways, p_.batch_first);
      return {output, h};
    }
    auto [output, h, c] = at::lstm(input, states, w, p_.biases, p_.layers, /*dropout=*/0.0,
                                   /*train=*/false, two_ways, p_.batch_first);
    return {output, h, c};
  }

  RecurrentParameters p_;
  std::vector<PackedDirection> packed_;  // of each layer's directions
};

const torch::jit::RegisterOperators kRecurrentOperator({torch::jit::Operator(
    "ts_infer::recurrent(...) -> ...",
    [](const Node* node) -> torch::jit::Operation { return Recurrent(node); },
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

std::optional<RecurrentParameters> parameters_of_layers(const Node* node, Cell cell) {
  const auto weights = constant_tensors(node->namedInput("params"));
  const auto biases = torch::jit::constant_as<bool>(node->namedInput("has_biases"));
  const auto layers = torch::jit::constant_as<std::int64_t>(node->namedInput("num_layers"));
  const auto train = torch::jit::constant_as<bool>(node->namedInput("train"));
  const auto bidirectional = torch::jit::constant_as<bool>(node->namedInput("bidirectional"));
  const auto batch_first = torch::jit::constant_as<bool>(node->namedInput("batch_first"));
  if (!weights || !biases || !layers || !train || *train || !bidirectional || !batch_first) {
    return std::nullopt;
  }
  return RecurrentParameters{cell,        false, *weights, *biases, *layers, *bidirectional ? 2 : 1,
                             *batch_first};
}

std::optional<RecurrentParameters> parameters_of_cell(const Node* node, Cell cell) {
  RecurrentParameters parameters = {cell, true, {}, true, 1, 1, false};
  for (const char* name : {"w_ih", "w_hh", "b_ih", "b_hh"}) {
    const auto constant = torch::jit::toIValue(node->namedInput(name));
    if (!constant) return std::nullopt;
    if (constant->isTensor()) parameters.weights.push_back(constant->toTensor());
  }
  parameters.biases = parameters.weights.size() == 4;
  return parameters;
}

/// Whether the weights are those of so many layers, without a projection, which is torch's.
bool takes(const RecurrentParameters& p) {
  const std::size_t each = p.biases ? 4 : 2;
  if (p.layers < 1 || p.weights.size() != each * p.layers * p.directions) return false;
  if (!std::all_of(p.weights.begin(), p.weights.end(), is_float_on_host)) return false;
  for (std::size_t i = 0; i < p.weights.size(); i += each) {
    const at::Tensor* const w = &p.weights[i];
    if (w[0].dim() != 2 || w[1].dim() != 2 || w[0].numel() == 0 || w[1].numel() == 0) return false;
    const std::int64_t rows = gates_of(p.cell) * w[1].size(1);
    if (w[1].size(1) != p.weights[1].size(1) || w[0].size(0) != rows || w[1].size(0) != rows) {
      return false;
    }
    const at::IntArrayRef bias(rows);
    if (p.biases && (w[2].sizes() != bias || w[3].sizes() != bias)) return false;
  }
  return true;
}

struct RecurrentKind {
  const char* name;
  const char* schema;
  Cell cell;
  std::optional<RecurrentParameters> (*parameters)(const Node*, Cell);
};

constexpr RecurrentKind kRecurrentKinds[] = {
    {"LSTM",
     "aten::lstm.input(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int "
     "num_layers, "
     "float dropout, bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor, Tensor)",
     Cell::kLstm, parameters_of_layers},
    {"LSTM cell",
     "aten::lstm_cell(Tensor input, Tensor[] hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, "
     "Tensor? b_hh=None) -> (Tensor, Tensor)",
     Cell::kLstm, parameters_of_cell},
    {"GRU",
     "aten::gru.input(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, "
     "float dropout, bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor)",
     Cell::kGru, parameters_of_layers},
    {"GRU cell",
     "aten::gru_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? "
     "b_hh=None) -> Tensor",
     Cell::kGru, parameters_of_cell},
};

bool pack_recurrent(Node* node, const RecurrentKind& kind) {
  if (!node->matches(kind.schema)) return false;
  const auto parameters = kind.parameters(node, kind.cell);
  if (!parameters || !takes(*parameters)) return false;
  Node* packed = replace(node, node, "ts_infer::recurrent",
                         {node->namedInput("input"), node->namedInput("hx")});
  packed->i_(kCell, static_cast<std::int64_t>(parameters->cell));
  packed->i_(kIsOneCell, parameters->is_one_cell);
  packed->ts_(kWeights, parameters->weights);
  packed->i_(kBiases, parameters->biases);
  packed->i_(kLayers, parameters->layers);
  packed->i_(kDirections, parameters->directions);
  packed->i_(kBatchFirst, parameters->batch_first);
  return true;
}

}  // namespace

std::map<std::string, int> pack_recurrent(const std::shared_ptr<torch::jit::Graph>& graph) {
  std::map<std::string, int> counts;
  for (const RecurrentKind& kind : kRecurrentKinds) {
    counts[kind.name] =
        change_nodes(graph->block(), [&](Node* node) { return pack_recurrent(node, kind); });
  }
  return counts;
}

}  // namespace ts_infer
