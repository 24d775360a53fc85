#include "engine/state_analysis.h"

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <functional>

namespace ts_infer {
namespace {

using torch::jit::AliasDb;
using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;

void for_each_node(Block* block, const std::function<void(Node*)>& visit) {
  for (Node* node : block->nodes()) {
    visit(node);
    for (Block* inner : node->blocks()) for_each_node(inner, visit);
  }
}

/// "encoder.hidden" for a chain of GetAttr that starts at self; "" for any other.
std::string attribute_path(const torch::jit::Value* value, const torch::jit::Value* self) {
  if (value == self) return "";
  const Node* node = value->node();
  if (node->kind() != torch::jit::prim::GetAttr) return "?";
  const std::string owner = attribute_path(node->input(0), self);
  if (owner == "?") return "?";
  return (owner.empty() ? "" : owner + '.') + node->s(torch::jit::attr::name);
}

/// A list, dict, tuple or object: alias analysis cannot tell the tensors in it apart.
bool is_container(const torch::jit::Value* value) {
  const auto& type = value->type();
  if (const auto object = type->cast<c10::ClassType>()) return !object->is_module();
  return !type->containedTypes().empty() && type->kind() != c10::TypeKind::OptionalType;
}

/// The inputs that an operator's schema says it writes to.
std::vector<torch::jit::Value*> written_inputs(Node* node) {
  std::vector<torch::jit::Value*> written;
  const c10::FunctionSchema* schema = node->maybeSchema();
  if (!schema) return written;
  for (std::size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
    const c10::AliasInfo* alias = schema->arguments()[i].alias_info();
    if (alias && alias->isWrite()) written.push_back(node->input(i));
  }
  return written;
}

bool is_opaque(const Node* node) {
  if (node->kind() == torch::jit::prim::CallMethod ||
      node->kind() == torch::jit::prim::CallFunction) {
    return true;
  }
  for (const torch::jit::Value* output : node->outputs()) {
    const auto type = output->type()->cast<c10::ClassType>();
    if (type && type->name() && !type->is_module() &&
        type->name()->qualifiedName().rfind("__torch__.torch.classes", 0) == 0) {
      return true;
    }
  }
  return false;
}

void analyse_method(Graph& original, const std::string& method, StateAnalysis& state) {
  const auto graph = original.copy();
  torch::jit::Inline(*graph);
  const torch::jit::Value* self = graph->inputs().at(0);
  // "Frozen" makes each attribute a location of its own, and not one that all attributes share.
  const AliasDb aliases(graph, /*isFrozen=*/true);
  std::vector<torch::jit::Value*> containers;
  const auto found = [&](const std::string& what) {
    if (state.reason.empty()) state.reason = method + " " + what;
  };
  const auto found_attribute = [&](const std::string& path, const std::string& what) {
    found(what + ' ' + path);
    if (path.empty() || path.find('?') != std::string::npos) {
      state.opaque = true;
    } else {
      state.attributes.insert(path);
    }
  };

  for_each_node(graph->block(), [&](Node* node) {
    if (node->kind() == torch::jit::prim::SetAttr) {
      const std::string owner = attribute_path(node->input(0), self);
      found_attribute((owner.empty() ? "" : owner + '.') + node->s(torch::jit::attr::name),
                      "assigns");
    } else if (node->kind() == torch::jit::prim::GetAttr) {
      if (is_container(node->output())) containers.push_back(node->output());
      if (!node->output()->type()->cast<c10::ClassType>() && aliases.hasWriters(node->output())) {
        found_attribute(attribute_path(node->output(), self), "writes to");
      }
    } else if (node->kind() == torch::jit::prim::Constant) {
      if (node->outputs().size() == 1 && is_container(node->output())) {
        containers.push_back(node->output());
      }
      if (node->outputs().size() == 1 && node->hasAttribute(torch::jit::attr::value) &&
          node->kindOf(torch::jit::attr::value) == torch::jit::AttributeKind::t &&
          aliases.hasWriters(node->output())) {
        found("writes to a constant tensor");
        state.constants.insert(node->t(torch::jit::attr::value).unsafeGetTensorImpl());
      }
    }
    if (is_opaque(node)) {
      found("calls code that cannot be looked into");
      state.opaque = true;
    }
  });
  if (containers.empty()) return;
  for_each_node(graph->block(), [&](Node* node) {
    for (torch::jit::Value* written : written_inputs(node)) {
      if (!aliases.mayContainAlias(written, containers)) continue;
      found("may write into a list, dict or object that it holds");
      state.opaque = true;
      state.constant_containers = true;
    }
  });
}

}  // namespace

StateAnalysis analyse_state(const torch::jit::Module& module) {
  StateAnalysis state;
  for (const torch::jit::Method& method : module.get_methods()) {
    if (method.name() == "__setstate__" || method.name() == "__getstate__") continue;
    analyse_method(*method.graph(), method.name(), state);
  }
  return state;
}

StateAnalysis analyse_state(Graph& graph) {
  StateAnalysis state;
  analyse_method(graph, "it", state);
  return state;
}

}  // namespace ts_infer
