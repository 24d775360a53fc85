#include "engine/prepared.h"

#include <c10/util/StringUtil.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/common_subexpression_elimination.h>
#include <torch/csrc/jit/passes/constant_pooling.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/lower_tuples.h>
#include <torch/csrc/jit/passes/peephole.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "engine/attention.h"
#include "engine/convolution.h"
#include "engine/corrections.h"
#include "engine/instruction_set.h"
#include "engine/linear.h"
#include "engine/precision.h"
#include "engine/recurrent.h"
#include "engine/strides.h"
#include "engine/transformer.h"

namespace ts_infer {
namespace {

void use_own_kernels(std::shared_ptr<torch::jit::Graph>& graph, const Preparation& how,
                     const std::string& function, PreparedFunction& prepared) {
  const PassSelection& passes = how.passes;
  const bool bfloat16 = how.precision == c10::kBFloat16;
  // The results of all but linear layers may have other strides than torch's.
  const bool by_strides = writes_by_strides(graph);
  const auto runs = [&](const char* pass) { return !by_strides && passes.runs(pass); };
  if (runs("attention")) expand_encoder_layers(graph);
  const int convolutions = runs("convolution") ? pack_convolutions(graph, bfloat16) : 0;
  std::map<std::string, int> recurrent;
  if (runs("recurrent")) recurrent = pack_recurrent(graph);
  const int linears = passes.runs("linear") ? pack_linears(graph, bfloat16) : 0;
  const int attentions = runs("attention") ? replace_attention(graph) : 0;
  if (by_strides) {
    prepared.decisions.push_back(function +
                                 ": own kernels for linear layers alone: it writes in place to "
                                 "what is a view or a copy by its strides");
  }
  std::vector<std::pair<std::string, int>> replaced = {{"convolution", convolutions}};
  replaced.insert(replaced.end(), recurrent.begin(), recurrent.end());
  replaced.insert(replaced.end(), {{"linear", linears}, {"attention", attentions}});
  std::string text;
  for (const auto& [what, count] : replaced) {
    if (count == 0) continue;
    text += c10::str(text.empty() ? "" : ", ", count, " ", what, count == 1 ? "" : "s");
  }
  if (!text.empty()) {
    prepared.decisions.push_back(function + ": own kernels, weights packed, for " + text +
                                 ", with " + to_string(instruction_set()));
  }
  if (bfloat16) prepared.lowered_products = convolutions + linears;
}

std::shared_ptr<torch::jit::Graph> folded(const std::shared_ptr<torch::jit::Graph>& graph) {
  std::shared_ptr<torch::jit::Graph> result = graph->copy();
  torch::jit::LowerSimpleTuples(result);
  torch::jit::ConstantPropagation(result);
  torch::jit::EliminateCommonSubexpression(result);
  torch::jit::PeepholeOptimize(result);
  torch::jit::ConstantPooling(result);
  // torch folds what makes a list of tensors, though the code writes to them later.
  return analyse_state(*result).writes_constants() ? graph : result;
}

}  // namespace

PreparedFunction prepare(torch::jit::Function& function, const Preparation& how,
                         const StateAnalysis& state) {
  PreparedFunction prepared;
  // clone() and state analysis read the function's own graph, which stays as it is.
  auto graph = torch::jit::toGraphFunction(function).graph()->copy();
  torch::jit::Inline(*graph);
  if (state.writes_constants()) {
    prepared.decisions.push_back(function.name() + ": it writes to constants");
  } else if (how.passes.runs("fold")) {
    graph = folded(graph);
  }
  if (how.device.is_cpu() && !state.writes_constants()) {
    use_own_kernels(graph, how, function.name(), prepared);
  } else if (how.precision != c10::kFloat && !how.device.is_cpu()) {
    prepared.lowered_products = lower_products(graph, how.precision);
  }
  keep_scalar_tensors(graph->block());
  torch::jit::runRequiredPasses(graph);  // the interpreter cannot do without
  torch::jit::EliminateDeadCode(graph);
  prepared.code = torch::jit::Code(graph, function.name());
  return prepared;
}

}  // namespace ts_infer
