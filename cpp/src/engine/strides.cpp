#include "engine/strides.h"

#include <torch/csrc/jit/ir/alias_analysis.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "engine/pass.h"

namespace ts_infer {
namespace {

using torch::jit::AliasDb;
using torch::jit::Node;

bool may_copy(const Node* node) {
  static const std::unordered_set<std::string> kKinds = {
      "aten::contiguous", "aten::flatten", "aten::ravel", "aten::reshape", "aten::reshape_as"};
  return kKinds.count(node->kind().toQualString()) > 0;
}

/// Whether its result shares the memory of its first input, as its schema says.
bool passes_on(const Node* node) {
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (!schema || schema->returns().size() != 1 || schema->arguments().empty()) return false;
  const c10::AliasInfo* given = schema->arguments()[0].alias_info();
  const c10::AliasInfo* result = schema->returns()[0].alias_info();
  return given && result && given->beforeSets() == result->beforeSets();
}

/// Whether anything else sees the memory of a value that an operator of this graph made.
bool is_seen_by_others(const torch::jit::Value* value) {
  while (value->uses().size() == 1 && passes_on(value->node())) value = value->node()->input(0);
  const Node* const made_by = value->node();
  if (made_by->kind() == torch::jit::prim::Param) {
    return made_by->owningBlock() != value->owningGraph()->block();  // of a loop
  }
  const c10::FunctionSchema* schema = made_by->maybeSchema();
  const bool is_new = schema && !passes_on(made_by);
  return made_by->kind() != torch::jit::prim::Constant && (!is_new || value->uses().size() > 1);
}

bool is_in_loop(const Node* node) {
  for (const Node* owner = node->owningBlock()->owningNode(); owner;
       owner = owner->owningBlock() ? owner->owningBlock()->owningNode() : nullptr) {
    if (owner->kind() == torch::jit::prim::Loop) return true;
  }
  return false;
}

/// Whether a writer's input shares memory with the value.
bool writes_to(const Node* writer, const torch::jit::Value* value, const AliasDb& aliases) {
  const auto& arguments = writer->schema().arguments();
  for (std::size_t i = 0; i < arguments.size() && i < writer->inputs().size(); ++i) {
    const c10::AliasInfo* const alias = arguments[i].alias_info();
    if (alias && alias->isWrite() && aliases.mayAlias(writer->input(i), value)) return true;
  }
  return false;
}

}  // namespace

bool writes_by_strides(const std::shared_ptr<torch::jit::Graph>& graph) {
  std::vector<Node*> writers;
  any_node(graph->block(), [&](const Node* node) {
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (schema && schema->is_mutable()) writers.push_back(const_cast<Node*>(node));
    return false;
  });
  if (writers.empty()) return false;
  const AliasDb aliases(graph);
  return any_node(graph->block(), [&](const Node* node) {
    if (!may_copy(node) || !is_seen_by_others(node->input(0))) return false;
    for (const Node* writer : writers) {
      if ((writer->isAfter(node) || is_in_loop(node)) &&
          writes_to(writer, node->output(), aliases)) {
        return true;
      }
    }
    return false;
  });
}

}  // namespace ts_infer
