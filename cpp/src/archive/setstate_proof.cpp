#include "archive/setstate_proof.h"

#include <torch/csrc/jit/frontend/lexer.h>
#include <torch/csrc/jit/frontend/tree_views.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "archive/code_names.h"

namespace ts_infer {
namespace {

using torch::jit::Apply;
using torch::jit::ClassDef;
using torch::jit::Def;
using torch::jit::Select;
using torch::jit::TreeRef;

/// Statements and expressions whose parts decide.
bool is_plain(int kind) {
  static const std::set<int> kKinds = {torch::jit::TK_ASSIGN,
                                       torch::jit::TK_RETURN,
                                       torch::jit::TK_IF,
                                       torch::jit::TK_RAISE,
                                       torch::jit::TK_ASSERT,
                                       torch::jit::TK_EXPR_STMT,
                                       torch::jit::TK_PASS,
                                       torch::jit::TK_VAR,
                                       torch::jit::TK_IDENT,
                                       torch::jit::TK_CONST,
                                       torch::jit::TK_STRINGLITERAL,
                                       torch::jit::TK_TRUE,
                                       torch::jit::TK_FALSE,
                                       torch::jit::TK_NONE,
                                       torch::jit::TK_NONE_TYPE,
                                       torch::jit::TK_LIST,
                                       torch::jit::TK_OPTION,
                                       torch::jit::TK_ATTRIBUTE,
                                       torch::jit::TK_SUBSCRIPT,
                                       torch::jit::TK_TUPLE_LITERAL,
                                       torch::jit::TK_LIST_LITERAL,
                                       torch::jit::TK_DICT_LITERAL,
                                       torch::jit::TK_IF_EXPR,
                                       torch::jit::TK_EQ,
                                       torch::jit::TK_NE,
                                       torch::jit::TK_LE,
                                       torch::jit::TK_GE,
                                       torch::jit::TK_IS,
                                       torch::jit::TK_ISNOT,
                                       torch::jit::TK_NOT,
                                       torch::jit::TK_AND,
                                       torch::jit::TK_OR,
                                       torch::jit::TK_UNARY_MINUS,
                                       torch::jit::TK_STARRED,
                                       torch::jit::TK_STRING,
                                       torch::jit::TK_SLICE_EXPR,
                                       '<',
                                       '>',
                                       '.'};
  return kKinds.count(kind) > 0;
}

/// Casts, and comparisons of numbers, strings and None.
bool is_plain_function(const std::string& name) {
  static const std::set<std::string> kNames = {
      "annotate",      "unchecked_cast", "uninitialized", "isinstance",
      "bool",          "float",          "int",           "str",
      "torch.eq",      "torch.ne",       "torch.lt",      "torch.le",
      "torch.gt",      "torch.ge",       "torch.__is__",  "torch.__isnot__",
      "torch.__not__", "torch.__and__",  "torch.__or__",  "torch.len",
      "torch.device",  "torch.format"};
  return kNames.count(name) > 0;
}

/// Not of torch's own, "ops.quantized.linear_prepack". What is restricted is looked for elsewhere.
bool is_others_operator(const std::string& name) {
  return name.starts_with("ops.") && !name.starts_with("ops.aten.") &&
         (!name.starts_with("ops.prim.") || name == "ops.prim.RaiseException");
}

class SetstateProof {
 public:
  explicit SetstateProof(const std::vector<Definition>& definitions) {
    for (const auto& [file, tree] : definitions) {
      if (tree->kind() == torch::jit::TK_DEF) {
        add(file, tree);
        continue;
      }
      const ClassDef definition(tree);
      const std::string name = file + '.' + definition.name().name();
      for (const torch::jit::Stmt& statement : definition.body()) {
        if (statement.kind() != torch::jit::TK_DEF) continue;
        add(name, statement.tree());
        if (Def(statement).name().name() == "__setstate__")
          first_.push_back(name + ".__setstate__");
      }
    }
  }

  bool run() {
    return std::all_of(first_.begin(), first_.end(),
                       [&](const std::string& name) { return calls(name); });
  }

 private:
  struct Function {
    TreeRef tree;
    std::string owner;  // the class, or the file
    enum class State { kNew, kOpen, kFine } state = State::kNew;
    bool is_twice = false;  // which of them torch takes is not certain
  };

  void add(const std::string& owner, const TreeRef& tree) {
    const auto [place, is_new] =
        functions_.emplace(owner + '.' + Def(tree).name().name(), Function{tree, owner});
    if (!is_new) place->second.is_twice = true;
  }

  /// A call of one of the archive's own functions, by its full name.
  bool calls(const std::string& name) {
    const auto found = functions_.find(name);
    if (found == functions_.end() || found->second.is_twice) return false;
    Function& function = found->second;
    if (function.state != Function::State::kNew) return function.state == Function::State::kFine;
    function.state = Function::State::kOpen;
    const Def definition(function.tree);
    const auto& params = definition.decl().params();
    const std::string self = params.empty() ? "" : params[0].ident().name();
    for (const torch::jit::Stmt& statement : definition.statements()) {
      if (!is_fine(statement.tree(), function.owner, self)) return false;
    }
    function.state = Function::State::kFine;
    return true;
  }

  bool is_fine(const TreeRef& tree, const std::string& owner, const std::string& self) {
    if (tree->kind() == torch::jit::TK_APPLY) {
      const Apply apply(tree);
      if (!may_call(apply.callee().tree(), owner, self)) return false;
      for (const torch::jit::Expr& input : apply.inputs()) {
        if (!is_fine(input.tree(), owner, self)) return false;
      }
      for (const torch::jit::Attribute& attribute : apply.attributes()) {
        if (!is_fine(attribute.tree(), owner, self)) return false;
      }
      return true;
    }
    if (!is_plain(tree->kind())) return false;
    return std::all_of(tree->trees().begin(), tree->trees().end(),
                       [&](const TreeRef& part) { return is_fine(part, owner, self); });
  }

  bool may_call(const TreeRef& callee, const std::string& owner, const std::string& self) {
    const std::string name = qualified_name(callee);
    if (is_plain_function(name) || is_others_operator(name)) return true;
    if (name.starts_with("__torch__.")) return calls(name);
    if (callee->kind() != '.') return false;
    const Select select(callee);
    return !self.empty() && qualified_name(select.value().tree()) == self &&
           calls(owner + '.' + select.selector().name());
  }

  std::vector<std::string> first_;
  std::unordered_map<std::string, Function> functions_;
};

}  // namespace

bool only_assigns_in_load(const std::vector<Definition>& definitions) {
  return SetstateProof(definitions).run();
}

}  // namespace ts_infer
