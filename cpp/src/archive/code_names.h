#pragma once

#include <torch/csrc/jit/frontend/tree_views.h>

#include <string>

namespace ts_infer {

/// "a.b.c"; "" for what is no such name.
inline std::string qualified_name(const torch::jit::TreeRef& tree) {
  if (tree->kind() == torch::jit::TK_VAR) return torch::jit::Var(tree).name().name();
  if (tree->kind() != '.') return "";
  const torch::jit::Select select(tree);
  const std::string value = qualified_name(select.value().tree());
  return value.empty() ? "" : value + '.' + select.selector().name();
}

}  // namespace ts_infer
