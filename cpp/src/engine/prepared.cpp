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

#include <string>
#include <utility>

#include "engine/attention.h"
#include "engine/convolution.h"
#include "engine/linear.h"
#include "engine/lstm.h"
#include "engine/transformer.h"

namespace ts_infer {
namespace {

void use_own_kernels(std::shared_ptr<torch::jit::Graph>& graph, const std::string& function,
                     std::vector<std::string>* decisions) {
  expand_encoder_layers(graph);
  const bool convolutions = packs_all_convolutions(*graph);
  const std::pair<int, const char*> replaced[] = {
      {convolutions ? pack_convolutions(graph) : 0, "convolution"},
      {pack_lstms(graph), "LSTM"},
      {pack_linears(graph), "linear"},
      {replace_attention(graph), "attention"}};
  std::string text;
  for (const auto& [count, what] : replaced) {
    if (count == 0) continue;
    text += c10::str(text.empty() ? "" : ", ", count, " ", what, count == 1 ? "" : "s");
  }
  if (decisions && !text.empty()) {
    decisions->push_back(function + ": own kernels, weights packed, for " + text);
  }
}

}  // namespace

torch::jit::Code prepare(torch::jit::Function& function, c10::Device device, bool optimize,
                         std::vector<std::string>* decisions) {
  // clone() and state analysis read the function's own graph, which stays as it is.
  auto graph = torch::jit::toGraphFunction(function).graph()->copy();
  torch::jit::Inline(*graph);
  if (optimize) {
    torch::jit::LowerSimpleTuples(graph);
    torch::jit::ConstantPropagation(graph);
    torch::jit::EliminateCommonSubexpression(graph);
    torch::jit::PeepholeOptimize(graph);
    torch::jit::ConstantPooling(graph);
    if (device.is_cpu()) use_own_kernels(graph, function.name(), decisions);
  }
  torch::jit::runRequiredPasses(graph);  // the interpreter cannot do without
  torch::jit::EliminateDeadCode(graph);
  return torch::jit::Code(graph, function.name());
}

}  // namespace ts_infer
